"""`headrace replay --verify` on a real log: 0 as it is, 1 when one record of a copy is altered or missing."""

from __future__ import annotations

import asyncio
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.record.util import calc_crc32c

import headrace
from headrace_streams.kafka import admin, clients
from headrace_streams.kafka.reader import Reader
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings
from support.ring import Ring

pytestmark = [pytest.mark.kafka, pytest.mark.slow(seconds=30), pytest.mark.timeout(300)]

PAIRS = 60
HEADER = struct.Struct(">qiibI")  # base offset, length, leader epoch, magic, crc: the head of a record batch


def headrace_command(settings: Settings, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from headrace_cli.main import main; main()", *arguments],
        env=Ring(settings, folder).environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Path]:
    """Settings and the data folder of a broker that has run the stages over a small load and is stopped."""
    folder = tmp_path_factory.mktemp("recorded")
    with LocalKafka(folder / "kafka") as kafka:
        settings = Settings(bootstrap=kafka.bootstrap, deployment="copy", partitions=2, data_dir=folder / "data")
        asyncio.run(admin.declare(settings))
        with Ring(settings, folder / "ring") as ring:
            ring.start("worker")
            with headrace.Recorder(settings.bootstrap, deployment="copy", agent="bot") as recorder:
                for number in range(PAIRS):
                    call = recorder.interaction(artifact_type="sql", model="m", prompt=f"question {number}", output="select 1")
                    recorder.feedback(call, kind="success", score=100)
            ring.wait(published=2 * PAIRS)
        done = headrace_command(settings, folder, "replay", "--verify")
        assert (done.returncode, done.stderr) == (0, "")
    return settings, folder / "kafka"


def copied(recorded: tuple[Settings, Path], tmp_path: Path) -> tuple[Settings, Path]:
    settings, data = recorded
    return settings, Path(shutil.copytree(data, tmp_path / "kafka"))


def alter(segment: Path, old: bytes, new: bytes) -> None:
    """Replaces the first `old` in a segment file by `new` of the same length and makes the checksum of its batch right again."""
    log = bytearray(segment.read_bytes())
    place = log.index(old)
    log[place : place + len(old)] = new
    start = 0
    while start < len(log):
        base, length, epoch, magic, _ = HEADER.unpack_from(log, start)
        end = start + 12 + length
        if start <= place < end:
            HEADER.pack_into(log, start, base, length, epoch, magic, calc_crc32c(bytes(log[start + HEADER.size : end])))
        start = end
    segment.write_bytes(bytes(log))


def test_one_altered_record_is_found(recorded: tuple[Settings, Path], tmp_path: Path) -> None:
    settings, data = copied(recorded, tmp_path)
    segment = next(path for path in sorted(data.rglob("copy.examples-*/*.log")) if path.stat().st_size)
    alter(segment, b'"contradicted":false', b'"contradicted":true ')
    with LocalKafka(data) as kafka:
        done = headrace_command(settings.model_copy(update={"bootstrap": kafka.bootstrap}), tmp_path, "replay", "--verify")
    assert done.returncode == 1
    assert "value.data.contradicted: expected False, found True" in done.stderr


def test_one_missing_record_is_found(recorded: tuple[Settings, Path], tmp_path: Path) -> None:
    settings, data = copied(recorded, tmp_path)
    with LocalKafka(data) as kafka:
        settings = settings.model_copy(update={"bootstrap": kafka.bootstrap})
        asyncio.run(delete_first(settings, "examples"))
        done = headrace_command(settings, tmp_path, "replay", "--verify")
    assert done.returncode == 1
    assert "missing: expected examples key" in done.stderr


async def delete_first(settings: Settings, topic: str) -> None:
    """Deletes the first record of the topic."""
    found = [(tp, span) for tp, span in (await Reader(settings).offsets([topic])).items() if span.end > 0]
    (name, partition), _ = found[0]
    async with clients.connected(clients.admin(settings)) as client:
        place = TopicPartition(clients.full_name(settings, name), partition)
        await client.delete_records({place: RecordsToDelete(before_offset=1)})


def test_an_untouched_copy_is_right(recorded: tuple[Settings, Path], tmp_path: Path) -> None:
    settings, data = copied(recorded, tmp_path)
    with LocalKafka(data) as kafka:
        settings = settings.model_copy(update={"bootstrap": kafka.bootstrap})
        done = headrace_command(settings, tmp_path, "replay", "--verify")
        twice = [headrace_command(settings, tmp_path, "replay", "--out", str(tmp_path / name)) for name in ("a", "b")]
    assert (done.returncode, done.stderr) == (0, "")
    assert [rebuilt.returncode for rebuilt in twice] == [0, 0]
    texts = [[(path.name, path.read_bytes()) for path in sorted((tmp_path / name).iterdir())] for name in ("a", "b")]
    assert texts[0] == texts[1]
    assert b"".join(text for _, text in texts[0]).count(b'"headrace.example.rewarded.v1"') >= PAIRS
