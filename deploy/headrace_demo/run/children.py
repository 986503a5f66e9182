"""The demo's child processes: started in groups of their own, watched, and ended with all that they started. Knows no stage.

A child ends when this process dies, however it dies; its output goes to a log of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from headrace_schemas.root_error import HeadraceError
from headrace_streams.process_guard import ProcessGuard

PATIENCE = 8.0  # seconds between SIGTERM and SIGKILL


class ChildDied(HeadraceError):
    """A child that should run has ended: its name, exit code and last log lines."""


class Children:
    """Use as a context manager: at its end nothing that was started runs any more."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._guards: dict[str, ProcessGuard] = {}

    def start(
        self, name: str, *command: str, environment: Mapping[str, str] | None = None, output: int | IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        """Runs `python command…`; its log is `name`.log, standard output too unless `output` is given."""
        with (self._logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, *command],
                env={**_without_settings(), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log if output is None else output,
                stderr=log,
                start_new_session=True,
            )
        self._running[name] = child
        self._guards[name] = ProcessGuard(child.pid)
        return child

    def check(self) -> None:
        """ChildDied when one has ended that nobody waited for."""
        for name, child in self._running.items():
            if child.poll() is not None:
                raise self._died(name, child.returncode)

    def wait(self, name: str) -> None:
        """Until a child has ended whose output was read. ChildDied when it failed."""
        child = self._running.pop(name)
        if child.stdout is not None:
            child.stdout.close()
        code = child.wait()
        self._guards.pop(name).release()
        if code:
            raise self._died(name, code)

    def _died(self, name: str, code: int) -> ChildDied:
        return ChildDied(f"{name} ended with {code}: {self.last_lines(name)}")

    def last_lines(self, name: str, count: int = 5) -> str:
        path = self._logs / f"{name}.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return " | ".join(line.strip() for line in lines[-count:]) or f"nothing in {path}"

    def stop(self, *names: str) -> None:
        """SIGTERM to all, or to those of `names`, then SIGKILL to their groups: also what a child has left behind ends."""
        ending = {name: child for name, child in self._running.items() if not names or name in names}
        for child in ending.values():
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + PATIENCE
        for name, child in ending.items():
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            finally:
                _kill_group(child.pid)
                child.wait()
            if child.stdout is not None:
                child.stdout.close()
            del self._running[name]
            self._guards.pop(name).release()

    def __enter__(self) -> Children:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _without_settings() -> dict[str, str]:
    """This process's environment less HEADRACE_*: the run's settings are in its file, and variables would win over it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
