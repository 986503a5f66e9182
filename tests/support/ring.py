"""Worker and trainer as real processes beside a real broker: start, kill, wait until all is done. For tests and scripts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from headrace_lake.kafka_log import KafkaLog
from headrace_lake.status import TaskStatus, stage_status, task_statuses
from headrace_schemas.topology import STAGES_BY_NAME, TOPOLOGY
from headrace_streams.kafka.reader import Reader
from headrace_streams.settings import Settings

POLL = 0.5  # seconds


class Ring:
    """`headrace worker` and `headrace trainer` of one deployment; their output goes to files in `folder`."""

    def __init__(self, settings: Settings, folder: Path, *, threads: int | None = None, poll: float = POLL) -> None:
        """`poll`: seconds between two looks at the log, each of which reads the batches."""
        self.settings, self.folder, self._poll = settings, folder, poll
        folder.mkdir(parents=True, exist_ok=True)
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
            "HEADRACE_BOOTSTRAP": settings.bootstrap,
            "HEADRACE_DEPLOYMENT": settings.deployment,
            "HEADRACE_DATA_DIR": str(settings.data_dir),
            "HEADRACE_STORE": settings.store,
            "HEADRACE_DEBUG": "1",
        }
        if settings.policy is not None:
            self.environment["HEADRACE_POLICY"] = str(settings.policy)
        if threads is not None:
            self.environment["OMP_NUM_THREADS"] = str(threads)

    def start(self, *commands: str) -> None:
        """`worker` and `trainer`, or others of the `headrace` command, with their options; one that still runs is left alone."""
        for command in commands:
            if command in self.children and self.children[command].poll() is None:
                continue
            with (self.folder / f"{command.split()[0]}.log").open("ab") as log:
                self.children[command] = subprocess.Popen(
                    [sys.executable, "-c", "from headrace_cli.main import main; main()", *command.split()],
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def kill(self, command: str) -> None:
        """SIGKILL to the process and all that it started, at this moment."""
        child = self.children[command]
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    def stop(self) -> None:
        """Asks all to end, waits, then makes sure."""
        for child in self.children.values():
            if child.poll() is None:
                child.terminate()
        for child in self.children.values():
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log(self, command: str) -> str:
        path = self.folder / f"{command}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def check_alive(self) -> None:
        for command, child in self.children.items():
            if child.poll() not in (None, -signal.SIGKILL):
                raise AssertionError(f"{command} ended with {child.returncode}:\n{self.log(command)[-3000:]}")

    def wait(self, *, published: int | None = None, trained: bool = False, deadline: float = 300) -> dict[str, Counter[str]]:
        """Until no stage has anything left to do (and intake has seen `published` records, and every batch is answered).

        Returns the counters by stage. AssertionError after `deadline` seconds, with what is still open."""
        return asyncio.run(self._wait(published, trained, time.monotonic() + deadline))

    async def _wait(self, published: int | None, trained: bool, until: float) -> dict[str, Counter[str]]:
        quiet = 0
        while True:
            self.check_alive()
            tasks, open_ = await self._look(published, trained)
            quiet = quiet + 1 if not open_ else 0
            if quiet >= 2:  # twice in a row: outputs of the last look have been taken as input too
                return counters(tasks)
            if time.monotonic() > until:
                raise AssertionError(f"still open: {open_}\nworker: {self.log('worker')[-2000:]}\n{self.log('trainer')[-2000:]}")
            await asyncio.sleep(self._poll)

    async def _look(self, published: int | None, trained: bool) -> tuple[list[TaskStatus], list[str]]:
        log = KafkaLog(self.settings)
        tasks = await task_statuses(log, TOPOLOGY, time.time_ns() // 1_000_000)
        open_ = [
            f"{task.stage}/{task.topic}/{task.partition} lag {task.lag}" for task in tasks if task.stage != "train" and task.lag
        ]
        seen = stage_status(STAGES_BY_NAME["intake"], tasks).records
        if published is not None and seen < published:
            open_.append(f"intake saw {seen} of {published}")
        if trained:
            batches = await count(self.settings, "batches")
            done = sum(task.counters.get("in", 0) for task in tasks if task.stage == "train")
            if done < batches:
                open_.append(f"trained {done} of {batches} batches")
        return tasks, open_


def counters(tasks: list[TaskStatus]) -> dict[str, Counter[str]]:
    """Boxes by stage, over all its partitions."""
    found: dict[str, Counter[str]] = {}
    for task in tasks:
        found.setdefault(task.stage, Counter()).update(task.counters)
    return found


async def count(settings: Settings, topic: str) -> int:
    """Committed records on a topic."""
    return sum([1 async for _ in Reader(settings).read_topic(topic)])
