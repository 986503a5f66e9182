"""The glossary is the code's vocabulary: public classes are named by its words, and it has no words that nothing uses."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from support.readme import ROOT

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
PACKAGES = sorted(path.parent for path in ROOT.glob("*/headrace*/__init__.py"))


def words(name: str) -> list[str]:
    """`ModelVersionCreated` -> model, version, created; `dead letter` -> dead, letter."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def terms(section: str) -> list[str]:
    """What stands in backticks in the first column of tables, or anywhere in "Ordinary words"."""
    tables, _, ordinary = section.partition("## Ordinary words")
    cells = [line.split("|")[1] for line in tables.splitlines() if line.startswith("| `")]
    return [term for text in (*cells, ordinary) for term in re.findall(r"`([^`]+)`", text)]


def public_classes() -> dict[str, list[Path]]:
    """Name -> the modules that define it, of every public class of every package."""
    found: dict[str, list[Path]] = {}
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found.setdefault(node.name, []).append(path.relative_to(ROOT))
    return found


def test_every_public_class_is_named_by_words_of_the_glossary() -> None:
    classes = public_classes()
    assert len(classes) > 200
    known = {word + ending for term in terms(GLOSSARY) for word in words(term) for ending in ("", "s", "es")}
    strange = {name: sorted(set(words(name)) - known) for name in classes}
    assert {name: missing for name, missing in strange.items() if missing} == {}


def test_no_term_is_explained_twice_and_none_is_unused() -> None:
    named = terms(GLOSSARY)
    ordinary = terms("## Ordinary words" + GLOSSARY.partition("## Ordinary words")[2])
    assert sorted(set(ordinary) & set(named[: -len(ordinary)])) == []
    in_names = {word for name in public_classes() for word in words(name)}
    assert sorted(set(ordinary) - in_names) == []
    code = {word for package in PACKAGES for path in package.rglob("*.py") for word in words(path.read_text(encoding="utf-8"))}
    assert sorted(word for term in named for word in words(term) if word not in code) == []


def test_one_name_is_one_class() -> None:
    assert {name: paths for name, paths in public_classes().items() if len(paths) > 1} == {}
