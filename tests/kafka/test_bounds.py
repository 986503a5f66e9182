"""Hostile batches on a real broker: the task lives, the good records around them get through, verify sees the same."""

from __future__ import annotations

import asyncio

import pytest

from headrace_lake.kafka_log import KafkaLog
from headrace_lake.verify import verify
from headrace_processors.stages import STAGES
from headrace_schemas.events import RecordRejected
from headrace_schemas.topics import MIB
from headrace_streams.kafka.reader import event_of
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.settings import Settings
from support.batches import batch_of, record
from support.live import position_of, read, run_until_read
from support.raw_produce import produce_raw
from support.signals import interaction

pytestmark = pytest.mark.kafka
INTAKE = next(stage for stage in STAGES if stage.name == "intake")


async def letters(settings: Settings) -> dict[tuple[str, int], tuple[str, str]]:
    """(topic, offset) -> code and message of each dead letter."""
    found = {}
    for partition in range(settings.partitions):
        for message in await read(settings, "dead-letters", partition):
            event = event_of(message)
            assert isinstance(event, RecordRejected)
            found[event.data.topic, event.data.offset] = (event.data.error.code, event.data.error.message)
    return found


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_good_records_around_what_is_too_large_get_through(settings: Settings, codec: str) -> None:
    good = [interaction(f"i{number}") for number in range(4)]
    many_headers = record(1, b"k", interaction("h"), [(b"", None)] * 1001)
    batches = [batch_of(codec, [record(0, b"k", good[0]), many_headers, record(2, b"k", good[1])], append_time=0)]
    if codec in ("gzip", "lz4", "zstd"):  # others make no record of 10 MiB small enough for a broker
        large = record(1, b"k", bytes(10 * MIB))
        batches.append(batch_of(codec, [record(0, b"k", good[2]), large, record(2, b"k", good[3])], append_time=0))

    async def main() -> None:
        await produce_raw(settings, "interactions", 0, *batches)
        task = FoldTask(INTAKE, INTAKE.policy().body(), "interactions", 0, settings)
        await run_until_read(task)
        position = await position_of(settings, "intake", "interactions", 0)
        assert position.counters == {"in": 3 * len(batches), "signals": 2 * len(batches), "dead": len(batches)}
        found = await letters(settings)
        assert found["interactions", 1][1].startswith("headers: 1001, at most 1000 are allowed")
        if len(batches) == 2:
            said = f"record: {10 * MIB} bytes, at most 1048576 are allowed (record of {10 * MIB + 1} bytes not carried)"
            assert found["interactions", 4] == ("over_limit", said)

    asyncio.run(main())


def test_a_bomb_is_dead_letters_that_verify_makes_too(settings: Settings) -> None:
    async def main() -> None:
        rows = [record(0, b"k", interaction("a")), record(1, None, bytes(150 * MIB)), record(2, b"k", interaction("b"))]
        bomb = batch_of("zstd", rows, append_time=0)
        rows.clear()
        after = batch_of("none", [record(0, b"k", interaction("c"))], append_time=0)
        await produce_raw(settings, "interactions", 0, bomb, after)
        task = FoldTask(INTAKE, INTAKE.policy().body(), "interactions", 0, settings)
        await run_until_read(task)
        position = await position_of(settings, "intake", "interactions", 0)
        assert position.counters == {"in": 4, "signals": 2, "dead": 2}
        assert {at: code for at, (code, _) in (await letters(settings)).items()} == {
            ("interactions", 1): "over_limit",
            ("interactions", 2): "over_limit",
        }
        verified = (await verify(KafkaLog(settings), [INTAKE]))["intake"]
        assert (verified.records, verified.outputs, verified.differences) == (4, 4, [])

    asyncio.run(main())
