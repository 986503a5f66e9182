"""The feeder of a lake on a real broker: whatever ends it or happens to its files, the lake is exactly what the log holds."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import RecordsToDelete

from headrace_cli.main import invoke
from headrace_lake.kafka_log import KafkaLog
from headrace_lake.lake_log import LakeLog
from headrace_lake.log import LogRecord
from headrace_lake.manifest import LAKE_TOPICS, LakeFolder
from headrace_schemas.times import rfc3339
from headrace_streams.kafka import clients
from headrace_streams.kafka.reader import TopicPartition
from headrace_streams.settings import Settings
from headrace_streams.testing import event, written_headers
from support.live import publish

pytestmark = pytest.mark.kafka

Run = Callable[..., tuple[int, str, str]]
EXAMPLE = "headrace.example.rewarded.v1"


async def fill(settings: Settings, topic: str, partition: int, count: int, size: int = 200) -> None:
    values = [event(EXAMPLE, {"example_id": f"e{number}", "text": "x" * size}, id=str(number)) for number in range(count)]
    await publish(settings, topic, partition, [(b"k", value) for value in values], written_headers(topic))


async def in_transaction(settings: Settings, topic: str, *, commit: bool) -> None:
    async with clients.connected(clients.producer(settings, transactional_id=f"t-{topic}-{commit}")) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(clients.full_name(settings, topic), b'{"said":"in a transaction"}', partition=0)
        await (producer.commit_transaction() if commit else producer.abort_transaction())


def on_the_log(settings: Settings) -> dict[tuple[str, int], list[LogRecord]]:
    async def read() -> dict[tuple[str, int], list[LogRecord]]:
        log = KafkaLog(settings)
        return {
            (topic, partition): [record async for record in log.read(topic, partition)]
            for topic in LAKE_TOPICS
            for partition in range(await log.partitions(topic))
        }

    return asyncio.run(read())


def in_the_lake(folder: LakeFolder) -> dict[tuple[str, int], list[LogRecord]]:
    """Read through the manifest, after every segment was compared with its digest."""

    async def read() -> dict[tuple[str, int], list[LogRecord]]:
        with folder.open() as manifest:
            assert [
                folder.fault(segment, thorough=True) for segment in manifest.segments if folder.fault(segment, thorough=True)
            ] == []
            lake = LakeLog(folder, manifest)
            return {
                (topic, partition): [record async for record in lake.read(topic, partition)]
                for topic in LAKE_TOPICS
                for partition in range(await lake.partitions(topic))
            }

    return asyncio.run(read())


@pytest.fixture
def folder(tmp_path: Path) -> LakeFolder:
    return LakeFolder(tmp_path / "lake")


def told(headrace: Run, folder: LakeFolder, command: str, *arguments: str) -> dict[str, Any]:
    code, out, error = headrace("lake", command, "--json", "--lake", str(folder.path), *arguments)
    assert code == 0, error
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_lake_holds_what_is_committed_and_goes_on_where_it_stood(headrace: Run, settings: Settings, folder: LakeFolder) -> None:
    asyncio.run(fill(settings, "examples", 0, 30))
    asyncio.run(fill(settings, "signals", 1, 20))
    asyncio.run(in_transaction(settings, "batches", commit=True))
    asyncio.run(in_transaction(settings, "runs", commit=False))
    assert told(headrace, folder, "follow", "--once")["records"] == 51
    assert in_the_lake(folder) == on_the_log(settings)
    before = {segment.file for segment in folder.load().segments}
    asyncio.run(fill(settings, "examples", 0, 5))
    found = told(headrace, folder, "follow", "--once")
    assert (found["records"], found["cut"]["examples/0"]) == (56, 35)
    assert before < {segment.file for segment in folder.load().segments}  # what is there is not read again
    assert in_the_lake(folder) == on_the_log(settings)
    status = told(headrace, folder, "status", "--check")
    assert (status["behind"], status["faults"], status["topics"]["examples"]["records"]) == (0, {}, 35)
    assert told(headrace, folder, "compact")["segments_before"] == 4
    assert in_the_lake(folder) == on_the_log(settings)


def test_until_ends_at_offsets_or_at_a_time(headrace: Run, settings: Settings, folder: LakeFolder, tmp_path: Path) -> None:
    asyncio.run(fill(settings, "examples", 0, 10))
    late = on_the_log(settings)["examples", 0][-1].timestamp
    time.sleep(0.05)  # the next append time is a later one
    asyncio.run(fill(settings, "examples", 1, 10))
    assert told(headrace, folder, "follow", "--until", "examples/0=4,examples/1=0")["records"] == 4
    assert told(headrace, folder, "follow", "--until", rfc3339(late))["records"] == 10
    assert told(headrace, folder, "follow", "--once")["records"] == 20
    assert in_the_lake(folder) == on_the_log(settings)
    for until_, code, words in (
        ("examples/0=4", 1, "it is at 10 of examples/0, beyond 4: an earlier cut takes another folder"),
        ("nothing/0=4", 2, "not TOPIC/PARTITION=OFFSET of a topic that a lake holds"),
        ("soon", 1, "neither an RFC 3339 time nor a release"),
    ):
        found, out, error = headrace("lake", "follow", "--lake", str(folder.path), "--until", until_)
        assert (found, out, error.count("\n"), words in error) == (code, "", 1, True), error


@pytest.mark.slow(seconds=40)
def test_a_feeder_that_is_killed_at_any_moment_loses_and_repeats_nothing(
    settings: Settings, folder: LakeFolder, tmp_path: Path
) -> None:
    draw = random.Random(5)
    arguments = ["lake", "follow", "--every", "0.2", "--lake", str(folder.path)]
    environment = {**os.environ, "HEADRACE_BOOTSTRAP": settings.bootstrap, "HEADRACE_DEPLOYMENT": settings.deployment}
    for number in range(8):
        asyncio.run(fill(settings, "examples", number % 2, 400, size=3000))
        asyncio.run(fill(settings, "signals", number % 2, 100))
        cut = folder.load().cut if (folder.path / "manifest.json").exists() else {}
        with (tmp_path / "follow.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-c", "from headrace_cli.main import main; main()", *arguments],
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:  # until it has written something, and then a moment that nobody chose
                if (folder.path / "manifest.json").exists() and folder.load().cut != cut:
                    break
                assert child.poll() is None, (tmp_path / "follow.log").read_text()
                time.sleep(0.01)
            time.sleep(draw.random() * 0.3)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        log_now, lake_now = on_the_log(settings), in_the_lake(folder)
        assert all(records == log_now[place][: len(records)] for place, records in lake_now.items())  # a prefix of each
    arguments = ["--bootstrap", settings.bootstrap, "--deployment", settings.deployment, "--lake", str(folder.path)]
    assert invoke(["lake", "follow", "--once", *arguments]) == 0
    assert in_the_lake(folder) == on_the_log(settings)
    named = {segment.file for segment in folder.load().segments}
    assert {path.name for path in folder.segments.iterdir()} == named


def damaged(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_a_segment_that_is_damaged_or_lost_is_made_anew_from_the_log(
    headrace: Run, settings: Settings, folder: LakeFolder
) -> None:
    asyncio.run(fill(settings, "examples", 0, 30))
    asyncio.run(fill(settings, "signals", 1, 30))
    told(headrace, folder, "follow", "--once")
    before = in_the_lake(folder)
    first, second = folder.load().segments
    damaged(folder.file(first))
    folder.file(second).unlink()
    code, _, error = headrace("lake", "status", "--lake", str(folder.path))
    assert code == 1
    code, _, error = headrace("sql", "--lake", str(folder.path), "SELECT 1")
    assert (code, "`headrace lake follow` makes it anew from the log" in error) == (1, True)
    code, _, error = headrace("lake", "follow", "--once", "--lake", str(folder.path))
    assert (code, error.count("made anew from the log")) == (0, 2)
    assert in_the_lake(folder) == before == on_the_log(settings)


def test_what_the_log_no_longer_keeps_the_lake_no_longer_keeps(headrace: Run, settings: Settings, folder: LakeFolder) -> None:
    asyncio.run(fill(settings, "dead-letters", 0, 10))
    told(headrace, folder, "follow", "--once")
    asyncio.run(fill(settings, "dead-letters", 0, 10))
    told(headrace, folder, "follow", "--once")

    async def expire() -> None:
        async with clients.connected(clients.admin(settings)) as client:
            place = TopicPartition(clients.full_name(settings, "dead-letters"), 0)
            await client.delete_records({place: RecordsToDelete(before_offset=10)})

    asyncio.run(expire())
    assert told(headrace, folder, "follow", "--once")["records"] == 10
    assert in_the_lake(folder) == on_the_log(settings)


def test_a_log_that_is_another_one_or_has_lost_its_end_is_refused(headrace: Run, settings: Settings, folder: LakeFolder) -> None:
    asyncio.run(fill(settings, "examples", 0, 10))
    told(headrace, folder, "follow", "--once")
    place = folder.load()
    folder.store(place.moved({("examples", 0): 99}, place.segments))
    code, out, error = headrace("lake", "follow", "--once", "--lake", str(folder.path))
    assert (code, out, error.count("\n")) == (1, "", 1)
    assert "it has read examples/0 up to 99, and that log ends at 10" in error
    other = LakeFolder(folder.path.parent / "other")
    other.path.mkdir()
    other.bound(settings.deployment, "another-cluster")
    code, out, error = headrace("lake", "follow", "--once", "--lake", str(other.path))
    assert (code, error.count("\n"), "it is the lake of cluster 'another-cluster'" in error) == (2, 1, True)


def test_a_full_disk_ends_the_feeder_in_one_line_and_the_next_one_goes_on(
    headrace: Run, settings: Settings, folder: LakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(fill(settings, "examples", 0, 10))
    told(headrace, folder, "follow", "--once")
    asyncio.run(fill(settings, "examples", 0, 10))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("headrace_lake.segments.os.fsync", full)
        code, out, error = headrace("lake", "follow", "--once", "--lake", str(folder.path))
    assert (code, out, error.splitlines()[-1]) == (4, "", "headrace: [Errno 28] No space left on device")
    assert len(in_the_lake(folder)["examples", 0]) == 10
    assert told(headrace, folder, "follow", "--once")["records"] == 20
    assert in_the_lake(folder) == on_the_log(settings)
