"""A worker process that runs the counting stage in the real host:

`python -m support.counting_worker BOOTSTRAP DEPLOYMENT GROUP DEATH [STATE_DIR]`; DEATH is `before:3` or `after:3` (the process
kills itself before or after the commit of its third transaction takes effect), `block:8` (the fold takes 8 seconds over a record
`slow`), `stuck` (its tasks never end, and it may take a second) or `never`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from headrace_processors.worker import serve
from headrace_streams import process_end
from headrace_streams.kafka.direct_transaction import DirectTransaction
from headrace_streams.runtime.journal import Journal
from headrace_streams.runtime.stage import Record, Step
from headrace_streams.settings import Settings
from support.counting import COUNTING, CountingFold

BODY = {"step": 1}


class Worker:
    """The process, seen from a test. `stop` ends it for good; the log is in `folder`."""

    def __init__(
        self, settings: Settings, folder: Path, name: str = "worker", *, group: str = "counting", death: str = "never"
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{name}.log"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "support.counting_worker", settings.bootstrap, settings.deployment, group, death]
        command += [] if settings.state_dir is None else [str(settings.state_dir)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, env=environment)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 30.0) -> int:
        return self.process.wait(seconds)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def die_at(phase: str, number: int) -> None:
    """SIGKILL to this process around the end of transaction `number`: its records are sent, and it is open or just committed."""
    ends = itertools.count(1)

    def dying(commit: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        async def commit_and_die(transaction: Any) -> None:
            last = next(ends) == number
            if not (last and phase == "before"):
                await commit(transaction)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)

        return commit_and_die

    AIOKafkaProducer.commit_transaction = dying(AIOKafkaProducer.commit_transaction)  # of the barrier
    DirectTransaction.commit = dying(DirectTransaction.commit)  # type: ignore[assignment, method-assign]


def block_for(seconds: float) -> None:
    """Keeps the fold, and all that runs in its event loop, busy for so long over a record `slow`."""
    step = CountingFold.step

    def slow(fold: CountingFold, state: Mapping[str, Any], record: Record) -> Step:
        until = time.monotonic() + seconds
        while record.value == b"slow" and time.monotonic() < until:
            pass
        return step(fold, state, record)

    CountingFold.step = slow  # type: ignore[assignment, method-assign]


def get_stuck() -> None:
    """Closing a journal takes for ever, and every cancellation for its own."""

    async def close(journal: Journal) -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    Journal.close = close  # type: ignore[assignment, method-assign]
    process_end.SAY_SECONDS, process_end.HARD_SECONDS = 0.3, 1.0


def main(bootstrap: str, deployment: str, group: str, death: str, state_dir: str | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    phase, _, number = death.partition(":")
    if phase == "block":
        block_for(float(number))
    elif phase == "stuck":
        get_stuck()
    elif phase != "never":
        die_at(phase, int(number))
    settings = Settings(bootstrap=bootstrap, deployment=deployment, state_dir=None if state_dir is None else Path(state_dir))
    return asyncio.run(serve(settings, [COUNTING], {COUNTING.name: BODY}, group=f"{deployment}.{group}"))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
