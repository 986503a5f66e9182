"""A broker that completes a transaction without all of its markers: tasks end what hangs as was decided, and go on exactly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import ClusterAuthorizationFailedError

from headrace_streams.kafka import admin, clients, compat
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.runtime import hanging
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.journal import Journal, Position, Transport
from headrace_streams.runtime.step import Produced
from headrace_streams.settings import Settings
from support.counting import COUNTING
from support.counting_worker import BODY
from support.hanging import lose_connections, spoil_next_transaction, trust_producers
from support.live import assert_exact, declare, position_of, publish, read, run_until_read

pytestmark = [pytest.mark.kafka, pytest.mark.slow(seconds=30)]

KEYS = (b"a", b"b", b"c", b"d")  # of both partitions of `rejections`


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    compat.install()
    with LocalKafka(tmp_path_factory.mktemp("trusting")) as kafka:
        asyncio.run(trust_producers(Settings(bootstrap=kafka.bootstrap)))
        yield kafka.bootstrap


@pytest.fixture
def on_it(trusting: str, deployment: str, tmp_path: Path) -> Settings:
    settings = Settings(bootstrap=trusting, deployment=deployment, partitions=2, data_dir=tmp_path / "data")
    asyncio.run(admin.declare(settings))
    asyncio.run(declare(settings, COUNTING))
    return settings


def partition(settings: Settings, topic: str, number: int) -> TopicPartition:
    return TopicPartition(clients.full_name(settings, topic), number)


async def open_in(settings: Settings, *partitions: TopicPartition) -> set[TopicPartition]:
    """Where committed readers see less than there is."""
    async with (
        clients.connected(clients.consumer(settings)) as committed,
        clients.connected(clients.consumer(settings, isolation_level="read_uncommitted")) as everything,
    ):
        stable, high = await committed.end_offsets(partitions), await everything.end_offsets(partitions)
    return {tp for tp in partitions if stable[tp] < high[tp]}


@pytest.mark.parametrize("administrator", [True, False], ids=["administrator", "plain"])
@pytest.mark.parametrize("committed", [True, False], ids=["committed", "aborted"])
@pytest.mark.parametrize("skipped", ["output", "changelog", "all"])
def test_a_task_begins_with_nothing_hanging_and_counts_once(
    on_it: Settings, monkeypatch: pytest.MonkeyPatch, skipped: str, committed: bool, administrator: bool
) -> None:
    outputs = [partition(on_it, "rejections", number) for number in (0, 1)]
    own = partition(on_it, "state.counting.signals", 0)
    hang = {"output": outputs[:1], "changelog": [own], "all": [own, *outputs]}[skipped]
    if not administrator:

        async def refused(*_: Any, **__: Any) -> None:
            raise ClusterAuthorizationFailedError

        monkeypatch.setattr(hanging, "write_markers", refused)

    async def main() -> None:
        await publish(on_it, "signals", 0, [(key, b"x") for key in KEYS])
        await run_until_read(FoldTask(COUNTING, BODY, "signals", 0, on_it))
        await publish(on_it, "signals", 0, [(key, b"x") for key in KEYS * 2])
        task = FoldTask(COUNTING, BODY, "signals", 0, on_it)
        with monkeypatch.context() as spoilt:
            opened = Journal.open

            async def open_and_spoil(journal: Journal) -> None:
                await opened(journal)
                spoil_next_transaction(journal, hang, committed=committed)

            spoilt.setattr(Journal, "open", open_and_spoil)
            if committed:
                await run_until_read(task)
            else:
                with pytest.raises(Transport, match="dies now"):
                    await run_until_read(task)
        if committed:
            assert await open_in(on_it, own, *outputs) == set(hang)
        await publish(on_it, "signals", 0, [(key, b"x") for key in KEYS])
        await run_until_read(FoldTask(COUNTING, BODY, "signals", 0, on_it))
        assert await open_in(on_it, own, *outputs) == set()
        assert (await assert_exact(on_it, COUNTING, "signals", [0], BODY)).counters == {"in": 16, "counted": 16}

    asyncio.run(main())


def test_a_copy_of_the_state_holds_nothing_that_is_still_undone(on_it: Settings, tmp_path: Path) -> None:
    """Acknowledged, and without a marker anywhere: nobody has read it, so it is aborted and folded again. Chaos seed 3."""
    local = on_it.model_copy(update={"state_dir": tmp_path / "state"})
    everywhere = [partition(local, "state.counting.signals", 0), *(partition(local, "rejections", number) for number in (0, 1))]

    async def main() -> None:
        await publish(local, "signals", 0, [(key, b"x") for key in KEYS])
        await run_until_read(FoldTask(COUNTING, BODY, "signals", 0, local))
        async with opened(local) as journal:
            assert journal.position is not None
            spoil_next_transaction(journal, everywhere, committed=True)
            await journal.commit([output(1)], {"k": b"1"}, msgspec.structs.replace(journal.position, next_offset=5))
        async with opened(local) as journal:
            assert "k" not in journal.state

    asyncio.run(main())


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Journal]:
    journal = Journal(settings, "counting", "signals", 0, COUNTING.outputs)
    try:
        await journal.open()
        yield journal
    finally:
        await journal.close()


def output(number: int) -> Produced:
    return Produced("rejections", 0, b"k", b"%d" % number, ())


def test_a_transaction_that_others_leave_open_holds_nobody_up(on_it: Settings) -> None:
    async def main() -> None:
        other = clients.producer(on_it, transactional_id="other")
        async with clients.connected(other):
            await other.begin_transaction()
            await (await other.send(clients.full_name(on_it, "rejections"), b"open", partition=0))
            async with opened(on_it) as journal:
                await journal.commit([output(1)], {"k": b"1"}, Position(next_offset=1))
            async with opened(on_it) as journal:
                assert (journal.state, journal.position and journal.position.next_offset) == ({"k": b"1"}, 1)
            assert await open_in(on_it, partition(on_it, "rejections", 0))
            await other.abort_transaction()
        assert [record.value for record in await read(on_it, "rejections", 0)] == [b"1"]

    asyncio.run(main())


def test_after_a_lost_connection_nothing_is_begun_until_the_last_transaction_has_ended(
    on_it: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hanging, "SETTLE_SECONDS", 0.5)

    async def main() -> None:
        async with opened(on_it) as journal:
            spoil_next_transaction(journal, [partition(on_it, "rejections", 0)], committed=True)
            await journal.commit([output(1)], {}, Position(next_offset=1))
            lose_connections(journal._producer)
            with pytest.raises(Transport, match=r"has not ended the last transaction in .*rejections/0"):
                await journal.commit([output(2)], {}, Position(next_offset=2))
        async with opened(on_it) as journal:
            await journal.commit([output(2)], {}, Position(next_offset=2))
            lose_connections(journal._producer)
            await journal.commit([output(3)], {}, Position(next_offset=3))
        assert [record.value for record in await read(on_it, "rejections", 0)] == [b"1", b"2", b"3"]

    asyncio.run(main())


def test_a_connection_that_breaks_as_a_transaction_begins_ends_the_journal(on_it: Settings) -> None:
    """The broker may have started anew in between, and not have ended the transaction before."""

    async def main() -> None:
        async with opened(on_it) as journal:
            manager = journal._producer._txn_manager
            begin = manager.begin_transaction

            def begin_and_break() -> None:
                begin()
                lose_connections(journal._producer)

            manager.begin_transaction = begin_and_break
            with pytest.raises(Transport, match="the connection to the broker broke"):
                await journal.commit([output(1)], {}, Position(next_offset=1))
        assert (await position_of(on_it, "counting", "signals", 0)).next_offset == 0

    asyncio.run(main())


def test_a_broker_that_has_just_started_and_knows_no_leaders_is_asked_again(on_it: Settings) -> None:
    """Seen by the chaos rig: the task stood still for good, as nobody asked for metadata again."""

    async def main() -> None:
        async with opened(on_it) as journal:
            own = partition(on_it, "state.counting.signals", 0)
            known = journal._producer.client.cluster._partitions[own.topic]
            known[own.partition] = known[own.partition]._replace(leader=-1)
            journal._connections.lost = True
            async with asyncio.timeout(10):
                await journal.commit([output(1)], {}, Position(next_offset=1))

    asyncio.run(main())
