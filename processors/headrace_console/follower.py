"""The lake's feeder beside the console: `headrace lake follow` as a child, unless somebody feeds already. Knows processes.

A process of its own, because reading a busy log takes all that one core has, and pages would wait for it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from headrace_cli.common import PROGRAM
from headrace_lake.manifest import FEEDER_LOCK, LakeFolder
from headrace_streams.backoff import Backoff
from headrace_streams.file_lock import try_lock
from headrace_streams.process_guard import ProcessGuard

EVERY_SECONDS = 1.0  # between cuts
PATIENCE_SECONDS = 10.0
LOOK_SECONDS = 5.0  # whether another feeder has ended
_LONG_SECONDS = 60.0  # a child that ran for so long went well


class LakeFollower:
    """Keeps one child running until it is cancelled. `state` is a line about it, for people."""

    def __init__(self, folder: LakeFolder, arguments: Sequence[str]) -> None:
        self._folder = folder
        self._command = [sys.executable, "-c", PROGRAM, "lake", "follow", "--every", str(EVERY_SECONDS), *arguments]
        self.state = "starting"

    async def run(self) -> None:
        backoff = Backoff(1.0, 30.0)
        while True:
            while self._fed_by_another():
                self.state = "another process feeds this lake"
                await asyncio.sleep(LOOK_SECONDS)
            started = asyncio.get_running_loop().time()
            try:
                lines = await self._once()
            except (OSError, ValueError) as error:  # no process could be made, or it said a line without an end
                lines = [" ".join(str(error).split())]
            self.state = f"the feeder ended: {lines[-1] if lines else 'it said nothing'}"
            if asyncio.get_running_loop().time() - started > _LONG_SECONDS:
                backoff.reset()
            await backoff.wait()

    def _fed_by_another(self) -> bool:
        """Whether somebody holds the lake, looked at without starting a process that would be refused."""
        try:
            with (self._folder.path / FEEDER_LOCK).open("a+") as file:
                return not try_lock(file)
        except OSError:
            return False  # no lake yet, or none that we may feed: the child says which

    async def _once(self) -> list[str]:
        """One child from its start to its end; its last lines."""
        child = await asyncio.create_subprocess_exec(
            *self._command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, limit=64 * 1024, start_new_session=True
        )
        guard = ProcessGuard(child.pid)
        lines: deque[str] = deque(maxlen=5)
        try:
            assert child.stderr is not None
            async for raw in child.stderr:
                lines.append(" ".join(raw.decode(errors="replace").split()))
                if lines[-1].startswith("["):
                    self.state = f"feeding, process {child.pid}"
            await _ended(child, told=False)
            return list(lines)
        finally:
            await _ended(child, told=True)
            guard.release()


async def _ended(child: Process, told: bool) -> None:
    """Until it has ended: by itself, or because it is `told` (a lake's feeder can be killed at any moment; it is asked first). By
    its number: `Process.terminate` looks whether it has ended, and the loop then never learns how."""
    for number in (signal.SIGTERM, signal.SIGKILL) if told else ():
        if child.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await child.wait()
                return
    await child.wait()
