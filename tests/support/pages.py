"""README and the pages of docs/ in pieces, without what is drawn from the code, so that tests run what they show."""

from __future__ import annotations

import re
from pathlib import Path

from support.readme import ROOT

PAGES = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
BROKER = "127.0.0.1:9092"  # a block that names it needs one
_DRAWN = re.compile(r"<!-- drawn: [\w-]+ -->.*?<!-- /drawn -->", re.DOTALL)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(headrace [a-z][^`]*)`")


def written(path: Path) -> str:
    """A page's text as people wrote it."""
    return _DRAWN.sub("", path.read_text(encoding="utf-8"))


def blocks(path: Path, *languages: str) -> list[str]:
    """Its fenced blocks of these languages; "" for those that name none."""
    return [body for named, body in _BLOCK.findall(written(path)) if named in languages]


def command_lines(path: Path) -> list[str]:
    """Its lines that call `headrace`, in blocks and between backticks, without comments."""
    lines = [re.sub(r"\s+#.*$", "", line).strip() for body in blocks(path, "", "text", "sh") for line in body.splitlines()]
    inline = _INLINE.findall(_BLOCK.sub("", written(path)))
    return [line.rstrip("& ") for line in [*lines, *inline] if line.startswith("headrace ")]
