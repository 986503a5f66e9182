"""Files that survive a power cut: what is written is on disk before anybody is told so. Knows no file by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any


def sync(file: IO[Any]) -> None:
    """Everything that was written to `file` is on disk."""
    file.flush()
    os.fsync(file.fileno())


def replace(temporary: Path, target: Path) -> None:
    """Renames `temporary`, in the same folder, to `target`: after a power cut `target` is the old file or the new one, whole."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
