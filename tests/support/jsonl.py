"""A file of results, a JSON value a line: a run that was cut off goes on behind those that are there. Knows no measurement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read(path: Path | None) -> list[Any]:
    """All lines; none without a file."""
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def add(path: Path | None, *rows: Any) -> None:
    """Each row as a line, if results are kept at all."""
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
