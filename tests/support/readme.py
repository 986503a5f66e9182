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
    """Commands without their comments; a here-document belongs to the line that opens it."""
    found: list[str] = []
    end = ""
    for line in body.splitlines():
        if end:
            found[-1] += f"\n{line}"
            end = "" if line == end else end
        elif text := re.sub(r"\s+#.*$", "", line).strip():
            found.append(text)
            here = re.search(r"<<'(\w+)'$", text)
            end = here[1] if here else ""
    return found


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
