"""Locks between processes that end with their holder, however it ends (flock on a file). Knows no file by name."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def try_lock(file: IO[Any]) -> bool:
    """False when another process holds the lock. What is taken here goes when `file` closes, unless a child inherited it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until nobody else is in a `with locked(path)`; the file stays, empty. OSError when it can't be opened."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Waits until nobody has the file alone (`try_lock`), and keeps everybody from that; any number share it. OSError when it
    can't be opened."""
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield
