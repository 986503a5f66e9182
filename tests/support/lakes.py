"""What a lake holds beside what its log holds; feeders that are killed, or find the disk full, at moments that a seed draws."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace_lake.kafka_log import KafkaLog
from headrace_lake.lake_log import LakeLog
from headrace_lake.log import LogRecord
from headrace_lake.manifest import LAKE_TOPICS, LakeFolder
from headrace_streams.kafka import clients
from headrace_streams.settings import Settings
from headrace_streams.testing import event, written_headers
from support.live import publish

EXAMPLE = "headrace.example.rewarded.v1"
START_SECONDS = 60.0  # until a feeder must have written something
_MAIN = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from headrace_cli.main import main; main()"

Records = dict[tuple[str, int], list[LogRecord]]


async def fill(settings: Settings, topic: str, partition: int, count: int, text: Callable[[], str] = lambda: "x" * 200) -> None:
    values = [event(EXAMPLE, {"example_id": f"e{number}", "text": text()}, id=str(number)) for number in range(count)]
    await publish(settings, topic, partition, [(b"k", value) for value in values], written_headers(topic))


async def in_transaction(settings: Settings, topic: str, *, commit: bool) -> None:
    async with clients.connected(clients.producer(settings, transactional_id=f"t-{topic}-{commit}")) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(clients.full_name(settings, topic), b'{"said":"in a transaction"}', partition=0)
        await (producer.commit_transaction() if commit else producer.abort_transaction())


def on_the_log(settings: Settings) -> Records:
    return asyncio.run(_listed(KafkaLog(settings)))


def in_the_lake(folder: LakeFolder) -> Records:
    """Read through the manifest, after every segment was compared with its digest."""
    with folder.open() as manifest:
        faults = [fault for segment in manifest.segments if (fault := folder.fault(segment, thorough=True))]
        assert faults == []
        return asyncio.run(_listed(LakeLog(folder, manifest)))


async def _listed(log: Any) -> Records:
    return {
        (topic, partition): [record async for record in log.read(topic, partition)]
        for topic in LAKE_TOPICS
        for partition in range(await log.partitions(topic))
    }


class FeederChaos:
    """A lake beside a log that grows, and what happens to its feeders; to be closed. The same seed makes the same records and
    draws the same moments; where in its work a feeder is then is the machine's."""

    def __init__(self, settings: Settings, folder: LakeFolder, scratch: Path, seed: int) -> None:
        self._settings, self._folder, self._scratch = settings, folder, scratch
        self._draw = random.Random(seed)
        self._said = (scratch / "follow.log").open("ab+")

    def close(self) -> None:
        self._said.close()

    def grow(self) -> None:
        """Some hundred records more, some of them in transactions of which one is given up."""
        number, size = self._draw.randrange(2), self._draw.choice((50, 1500))
        count = self._draw.randrange(50, 400)
        asyncio.run(fill(self._settings, "examples", number, count, lambda: self._draw.randbytes(size).hex()))
        asyncio.run(fill(self._settings, "signals", number, 50))
        if self._draw.random() < 0.2:
            asyncio.run(in_transaction(self._settings, "batches", commit=self._draw.random() < 0.5))

    def kill(self) -> None:
        """SIGKILL to a feeder: mostly some moments after it has begun to write, sometimes at any moment since its start."""
        cut = self._cut()
        feeder = self._feeder()
        try:
            if self._draw.random() < 0.8:
                deadline = time.monotonic() + START_SECONDS
                while self._cut() == cut and time.monotonic() < deadline:
                    assert feeder.poll() is None, self.said()
                    time.sleep(0.005)
            time.sleep(self._draw.random() * 0.4)
        finally:
            feeder.send_signal(signal.SIGKILL)
            feeder.wait()

    def fill_the_disk(self) -> str:
        """A feeder whose writes fail in the midst of a file, as on a disk that is full. What it said at last; nothing if there
        was room for all of it."""
        self.grow()
        size = self._draw.choice((1, 3_000, 30_000, 300_000))
        feeder = self._feeder("--once", limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
        code = feeder.wait(timeout=START_SECONDS)
        line = self.said().splitlines()[-1]
        assert code == 4 or (code == 0 and size > 1), (code, self.said())  # there may be room for what has come
        return line if code else ""

    def is_a_prefix(self, log: Records) -> bool:
        """Whether each partition of the lake holds the first records of `log`'s and nothing else."""
        if not (self._folder.path / "manifest.json").exists():
            return True
        return all(records == log[place][: len(records)] for place, records in in_the_lake(self._folder).items())

    def catch_up(self) -> None:
        feeder = self._feeder("--once")
        assert feeder.wait(timeout=4 * START_SECONDS) == 0, self.said()

    def said(self) -> str:
        self._said.seek(0)
        return self._said.read().decode()

    def _cut(self) -> dict[str, int]:
        return self._folder.load().cut if (self._folder.path / "manifest.json").exists() else {}

    def _feeder(self, *arguments: str, limit: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
        self._said.truncate(0)
        where = {"HEADRACE_BOOTSTRAP": self._settings.bootstrap, "HEADRACE_DEPLOYMENT": self._settings.deployment}
        output = subprocess.PIPE if limit else self._said  # what is written to is limited too
        command = [sys.executable, "-c", _MAIN, "lake", "follow", "--every", "0.2", "--lake", str(self._folder.path), *arguments]
        feeder = subprocess.Popen(command, env={**os.environ, **where}, stdout=output, stderr=output, preexec_fn=limit)
        if limit:
            out, error = feeder.communicate(timeout=START_SECONDS)
            self._said.write(out + error)
            self._said.flush()
        return feeder


def counts(records: Records) -> dict[str, int]:
    """Records by topic."""
    found: dict[str, int] = {}
    for (topic, _), listed in records.items():
        found[topic] = found.get(topic, 0) + len(listed)
    return found


def digest(records: Records) -> str:
    """Of every byte."""
    hashed = hashlib.sha256()
    for place in sorted(records):
        for record in records[place]:
            hashed.update(repr(record).encode())
    return hashed.hexdigest()
