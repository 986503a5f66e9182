"""The README in pieces, so that tests run what it shows and not a copy of it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str = "") -> list[str]:
    """All fenced blocks of a language; "" for those that name none."""
    return [body for named, body in _BLOCK.findall(README) if named == language]


def block(containing: str, language: str = "") -> str:
    """The one block with a text in it."""
    (found,) = [body for body in blocks(language) if containing in body]
    return found


def commands(body: str) -> list[str]:
    """Command lines without their comments."""
    lines = (re.sub(r"\s+#.*$", "", line).strip() for line in body.splitlines())
    return [line for line in lines if line]


def table(section: str) -> list[list[str]]:
    """Cells of the rows of the table that follows the paragraph which begins with `section`."""
    lines = iter(README.splitlines())
    for line in lines:
        if line.startswith(section):
            break
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            return rows[2:]  # without heading and rule
    return rows[2:]


def names(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)
