"""Positions set right by hand, on a real broker: over a loss that is an event, and anew where a changelog was lost."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import TopicPartition

from headrace_lake.kafka_log import KafkaLog
from headrace_lake.positions import NotRebuilt, NotSkipped, Skipped, rebuild_state, skip
from headrace_lake.verify import verify
from headrace_schemas.codec import decode
from headrace_schemas.events import PositionSkipped
from headrace_streams.kafka import clients
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.journal import Refused
from headrace_streams.settings import Settings
from support.counting import COUNTING
from support.live import assert_exact, changelog_state, declare, lose_changelog, position_of, publish, read, run_until_read

pytestmark = pytest.mark.kafka
BODY = {"step": 1}
LABEL = "counting/signals/0"


def task(settings: Settings) -> FoldTask:
    return FoldTask(COUNTING, BODY, "signals", 0, settings)


async def remove_before(settings: Settings, topic: str, offset: int) -> None:
    """As retention does."""
    async with clients.connected(clients.admin(settings)) as client:
        tp = TopicPartition(clients.full_name(settings, topic), 0)
        await client.delete_records({tp: RecordsToDelete(before_offset=offset)})


async def differences(settings: Settings) -> tuple[int, list[str]]:
    report = (await verify(KafkaLog(settings), [COUNTING]))["counting"]
    return len(report.differences), list(report.notes)


def test_a_task_goes_on_over_a_loss_and_the_loss_is_an_event(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        await publish(settings, "signals", 0, [(b"a", b"x")] * 5)
        await run_until_read(task(settings))
        at = (await position_of(settings, "counting", "signals", 0)).next_offset
        await publish(settings, "signals", 0, [(b"b", b"x")] * 6)
        await remove_before(settings, "signals", at + 4)
        with pytest.raises(Refused, match=r"outside the log.*4 records were removed unread"):
            await run_until_read(task(settings))

        ahead = await skip(settings, COUNTING.topology, "signals", 0, "start", reason="late", really=False)
        assert ahead == Skipped(at, at + 4, 4)
        with pytest.raises(Refused):
            await run_until_read(task(settings))
        assert await skip(settings, COUNTING.topology, "signals", 0, "start", reason="late", requested_by="me") == ahead
        await run_until_read(task(settings))
        assert await changelog_state(settings, COUNTING, "signals", 0) == {"a": b"5", "b": b"2"}
        told = [
            event
            for event in [decode(r.value, r.headers) for r in await read(settings, "rules", 0)]
            if isinstance(event, PositionSkipped)
        ]
        assert [(event.data.from_offset, event.data.to_offset, event.data.removed, event.data.reason) for event in told] == [
            (at, at + 4, 4, "late")
        ]

    asyncio.run(main())


def test_what_is_skipped_though_it_is_there_is_left_out_by_verify_and_rebuild_too(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        await publish(settings, "signals", 0, [(b"a", b"x")] * 3)
        await run_until_read(task(settings))
        at = (await position_of(settings, "counting", "signals", 0)).next_offset
        await publish(settings, "signals", 0, [(b"a", b"x")] * 4)
        assert await skip(settings, COUNTING.topology, "signals", 0, str(at + 3), reason="poison") == Skipped(at, at + 3, 0)
        await run_until_read(task(settings))
        assert await changelog_state(settings, COUNTING, "signals", 0) == {"a": b"4"}
        assert await differences(settings) == (0, ["counting over signals/0: 3 records were skipped by hand (`rules` says why)"])
        rebuilt = await rebuild_state(settings, KafkaLog(settings), COUNTING, "signals", 0)
        assert (rebuilt.records, rebuilt.changed, rebuilt.removed) == (4, 0, 0)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("99", r"offset 99 is beyond the log's end, \d+"),
        ("0", "offset 0 is not behind its position"),
        ("end", "nothing is folded twice"),
    ],
)
def test_a_position_never_goes_beyond_the_end_or_back(settings: Settings, to: str, says: str) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        with pytest.raises(NotSkipped, match="there is no position"):
            await skip(settings, COUNTING.topology, "signals", 0, "end", reason="r")
        await publish(settings, "signals", 0, [(b"a", b"x")] * 3)
        await run_until_read(task(settings))
        before = await position_of(settings, "counting", "signals", 0)
        with pytest.raises(NotSkipped, match=says):
            await skip(settings, COUNTING.topology, "signals", 0, to, reason="r")
        assert await position_of(settings, "counting", "signals", 0) == before

    asyncio.run(main())


def test_a_lost_changelog_is_refused_and_made_anew_from_input_and_outputs(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        with pytest.raises(NotRebuilt, match="neither a position nor rules"):
            await rebuild_state(settings, KafkaLog(settings), COUNTING, "signals", 0)
        await publish(settings, "signals", 0, [(b"a", b"x"), (b"b", b"explode"), (b"a", b"x")])
        await run_until_read(task(settings))
        await lose_changelog(settings, COUNTING, "signals")
        with pytest.raises(Refused, match=rf"the changelog was lost: run `headrace positions rebuild {LABEL}`"):
            await run_until_read(task(settings))
        rebuilt = await rebuild_state(settings, KafkaLog(settings), COUNTING, "signals", 0)
        assert (rebuilt.records, rebuilt.keys) == (3, 1)
        await publish(settings, "signals", 0, [(b"a", b"x")])
        await run_until_read(task(settings))
        await assert_exact(settings, COUNTING, "signals", [0], BODY)

    asyncio.run(main())


def test_what_was_skipped_before_a_changelog_was_lost_stays_skipped(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        await publish(settings, "signals", 0, [(b"a", b"x")] * 3)
        await run_until_read(task(settings))
        await publish(settings, "signals", 0, [(b"a", b"x")] * 4)
        await skip(settings, COUNTING.topology, "signals", 0, "end", reason="poison")
        await lose_changelog(settings, COUNTING, "signals")
        await rebuild_state(settings, KafkaLog(settings), COUNTING, "signals", 0)
        await publish(settings, "signals", 0, [(b"a", b"x")])
        await run_until_read(task(settings))
        assert await changelog_state(settings, COUNTING, "signals", 0) == {"a": b"4"}
        assert await differences(settings) == (0, ["counting over signals/0: 4 records were skipped by hand (`rules` says why)"])

    asyncio.run(main())
