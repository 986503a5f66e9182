"""The feeder of a lake on a real broker: whatever ends it or happens to its files, the lake is exactly what the log holds."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import RecordsToDelete

from headrace_lake.manifest import LakeFolder
from headrace_schemas.times import rfc3339
from headrace_streams.kafka import clients
from headrace_streams.kafka.reader import TopicPartition
from headrace_streams.settings import Settings
from support.lakes import FeederChaos, fill, in_the_lake, in_transaction, on_the_log

pytestmark = pytest.mark.kafka

Run = Callable[..., tuple[int, str, str]]


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
def test_a_feeder_that_is_killed_at_any_moment_or_finds_the_disk_full_loses_and_repeats_nothing(
    settings: Settings, folder: LakeFolder, tmp_path: Path
) -> None:
    """`make chaos-feeder` does so a hundred times."""
    said = []
    with closing(FeederChaos(settings, folder, tmp_path, seed=5)) as chaos:
        for number in range(6):
            chaos.grow()
            chaos.kill()
            if number % 2:
                said.append(chaos.fill_the_disk())
            assert chaos.is_a_prefix(on_the_log(settings))
        chaos.catch_up()
    assert in_the_lake(folder) == on_the_log(settings)
    named = {segment.file for segment in folder.load().segments}
    assert {path.name for path in folder.segments.iterdir()} == named
    assert any(said)
    assert [line for line in said if line and "what the lake holds is whole; make room" not in line] == []


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
    whole = "No space left on device: what the lake holds is whole; make room, and `headrace lake follow` goes on from there"
    assert (code, out, error.splitlines()[-1]) == (4, "", f"headrace: {folder.path}: {whole}")
    assert len(in_the_lake(folder)["examples", 0]) == 10
    assert told(headrace, folder, "follow", "--once")["records"] == 20
    assert in_the_lake(folder) == on_the_log(settings)
