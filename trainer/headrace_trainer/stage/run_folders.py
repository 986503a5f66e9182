"""Folders of runs on this machine that nobody goes on with: of a trainer that was killed and whose partition another one has by
now, or of a command that was. They may hold answers in plain (samples). Knows files and their times, no run.

A run that is over removes its folder itself; what it was killed over is found by its age.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from headrace_streams.file_lock import try_lock

KEPT_SECONDS = 24 * 3600.0  # after the last write: a run writes a checkpoint every half minute
AGAIN_SECONDS = 3600.0
FIRST_SECONDS = 600.0  # until all tasks of a process have said what they go on with


class RunFolders:
    """Below `folder`, in `runs` and `by-hand`."""

    def __init__(self, folder: Path, first_seconds: float = FIRST_SECONDS) -> None:
        self._folder = folder
        self._next = time.monotonic() + first_seconds
        self._kept: dict[str, frozenset[str]] = {}

    def sweep(self, task: str, kept: Iterable[str]) -> list[str]:
        """Removes what nobody has written to for a day, once an hour; which run ids those were. `kept`: run ids that `task` goes
        on with, which counts until it says another thing. A job that is at work holds its folder's lock."""
        self._kept[task] = frozenset(kept)
        if time.monotonic() < self._next:
            return []
        self._next = time.monotonic() + AGAIN_SECONDS
        keep = frozenset().union(*self._kept.values())
        gone = []
        for kind in ("runs", "by-hand"):
            for run in sorted((self._folder / kind).glob("*")):
                if run.name not in keep and _age_seconds(run) > KEPT_SECONDS and _is_idle(run):
                    shutil.rmtree(run, ignore_errors=True)
                    gone.append(run.name)
        return gone


def _age_seconds(run: Path) -> float:
    """0 of one in which somebody changes files just now: of another process, which goes on with it."""
    try:
        newest = max(path.lstat().st_mtime for path in (run, *run.rglob("*")))
    except OSError:
        return 0.0
    return time.time() - newest


def _is_idle(run: Path) -> bool:
    try:
        with (run / "lock").open() as file:
            return try_lock(file)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
