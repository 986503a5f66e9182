"""Folders for what queries spill: each is locked while somebody has it, and goes with its owner, or, if that was killed, with the
next one that is made. Knows files alone, no query."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "headrace-query-"


@contextmanager
def spill_folder() -> Iterator[tuple[Path, int]]:
    """A folder for what a query spills, and its lock, which a child may have too. It is removed at the end, and so are those that
    nobody locks any more."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        _remove_unlocked(left)
    path, lock = _locked_folder()
    try:
        yield path, lock
    finally:
        os.close(lock)
        shutil.rmtree(path, ignore_errors=True)


def _locked_folder() -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(FileNotFoundError):  # taken for one that was left behind, before it was locked
            lock = os.open(path, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return path, lock
            os.close(lock)


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError):  # somebody else's, or somebody else removes it now
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(lock).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
        finally:
            os.close(lock)
