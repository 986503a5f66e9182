"""One partition task on a real broker: exact, restartable, fenced, and loud where going on would be wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pytest
from aiokafka.admin import NewPartitions
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from headrace_lake.kafka_log import KafkaLog
from headrace_lake.log import position_of as position_near_the_end
from headrace_lake.log import watched_of
from headrace_lake.positions import Rebuilt, rebuild_state
from headrace_schemas.canonical import digest
from headrace_schemas.codec import decode
from headrace_schemas.derived import Tick
from headrace_schemas.events import ClockTicked, RulesActivated, make
from headrace_schemas.ids import derive_id
from headrace_schemas.times import rfc3339
from headrace_schemas.topology import changelog
from headrace_streams.kafka import admin, clients, compat
from headrace_streams.kafka.unpacking import header_of, unpack
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.journal import POSITION_KEY, Fenced, Journal, Position, Refused, encode_position
from headrace_streams.runtime.session import Session
from headrace_streams.runtime.stage import FoldStage, Record, RuleVersion, Step, Write
from headrace_streams.runtime.step import Produced
from headrace_streams.settings import Settings
from support.counting import COUNTING, CountingFold
from support.live import (
    assert_exact,
    changelog_state,
    declare,
    outputs_of,
    position_of,
    publish,
    read,
    run_until_read,
    until,
)
from support.odd_headers import name, odd_names_allowed

pytestmark = pytest.mark.kafka
BODY = {"step": 1}


def task(settings: Settings, partition: int = 0, body: Mapping[str, Any] = BODY, **options: Any) -> FoldTask:
    return FoldTask(COUNTING, body, "signals", partition, settings, **options)


def inputs(count: int, start: int = 0) -> list[tuple[bytes, bytes]]:
    return [(f"k{n % 7}".encode(), b"explode" if n % 10 == 9 else b"x") for n in range(start, start + count)]


def test_outputs_state_and_counters_are_the_folds(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        await publish(settings, "signals", 0, inputs(5000))
        await run_until_read(task(settings))
        position = await assert_exact(settings, COUNTING, "signals", [0], BODY)
        assert position.counters == {"in": 5000, "counted": 4500, "dead": 500}
        assert position.partitions == 2

    asyncio.run(main())


def test_state_lies_packed_on_the_broker_and_what_outsiders_read_does_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    codecs: dict[str, set[int]] = {}
    topic = ""

    def noting(batch: memoryview, spent: Callable[[int], None]) -> Iterator[Any]:
        codecs[topic].add(header_of(batch).codec)
        return unpack(batch, spent)

    async def main() -> None:
        nonlocal topic
        await declare(settings, COUNTING)
        await publish(settings, "signals", 0, inputs(1000))
        await run_until_read(task(settings))
        monkeypatch.setattr(compat, "unpack", noting)
        for topic in ("rejections", changelog("counting", "signals").name):
            codecs[topic] = set()
            assert await read(settings, topic, 0)

    asyncio.run(main())
    none, lz4 = 0, 3
    assert codecs == {"rejections": {none}, "state.counting.signals": {none, lz4}}  # a task's barrier is a record alone


def test_header_name_of_any_bytes_stops_nothing(settings: Settings) -> None:
    """Brokers take it, aiokafka's consumer does not."""

    async def main() -> None:
        await declare(settings, COUNTING)
        async with clients.connected(clients.producer(settings)) as producer:
            with odd_names_allowed():
                batch = producer.create_batch()
                for headers in ([], [(name(b"\xff\xfe"), b"v")], []):
                    assert batch.append(key=b"k", value=b"x", timestamp=None, headers=headers)
                await (await producer.send_batch(batch, clients.full_name(settings, "signals"), partition=0))
        await run_until_read(task(settings), 20)
        position = await assert_exact(settings, COUNTING, "signals", [0], BODY)
        assert position.counters == {"in": 3, "counted": 3}

    asyncio.run(main())


def test_restart_resumes_where_it_stopped(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        for start in (0, 100, 200):
            await publish(settings, "signals", 0, inputs(100, start))
            await run_until_read(task(settings))
        position = await assert_exact(settings, COUNTING, "signals", [0], BODY)
        assert position.counters["in"] == 300
        assert len(await read(settings, "rules", 0)) == 1

    asyncio.run(main())


def test_rules_are_in_the_log_from_the_offset_on_which_they_hold(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        await publish(settings, "signals", 0, inputs(20))
        await run_until_read(task(settings))
        before = (await position_of(settings, "counting", "signals", 0)).next_offset
        await run_until_read(task(settings, body={"step": 10}))
        await publish(settings, "signals", 0, inputs(20))
        await run_until_read(task(settings, body={"step": 10}))
        await assert_exact(settings, COUNTING, "signals", [0], BODY)
        records = await read(settings, "rules", 0)
        rules = [event.data for event in (decode(record.value) for record in records) if isinstance(event, RulesActivated)]
        assert [record.key for record in records] == [b"counting/signals/0"] * 2
        assert [(rule.from_offset, rule.version, rule.digest, rule.body) for rule in rules] == [
            (0, 1, digest({"step": 1}), {"step": 1}),
            (before, 1, digest({"step": 10}), {"step": 10}),
        ]

    asyncio.run(main())


def test_second_owner_fences_the_first(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        first = task(settings)
        running = asyncio.create_task(first.run())
        await publish(settings, "signals", 0, inputs(50))

        async def read_all() -> bool:
            return first.describe().counters.get("in") == 50

        await until(read_all)
        await run_until_read(task(settings))  # the new owner
        await publish(settings, "signals", 0, inputs(50))
        with pytest.raises(Fenced, match="counting/signals/0"):
            await asyncio.wait_for(running, 30)
        await run_until_read(task(settings))
        position = await assert_exact(settings, COUNTING, "signals", [0], BODY)
        assert position.counters["in"] == 100

    asyncio.run(main())


def test_open_transaction_of_a_dead_owner_is_settled_before_the_changelog_is_read(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        await publish(settings, "signals", 0, inputs(50))
        await run_until_read(task(settings))
        dead = Journal(settings, "counting", "signals", 0, ("rejections",))
        await dead.open()
        assert dead.position is not None
        producer = dead._producer
        await producer.begin_transaction()
        name = clients.full_name(settings, changelog("counting", "signals").name)
        await producer.send_and_wait(name, value=b"999", key=b"k0", partition=0)
        await publish(settings, "signals", 0, inputs(50))
        await run_until_read(task(settings), seconds=8)  # sooner than the transaction's own timeout
        await assert_exact(settings, COUNTING, "signals", [0], BODY)
        with pytest.raises(KafkaError):  # the dead one comes back: too late
            await producer.send_and_wait(name, value=b"999", key=b"k1", partition=0)
        await dead.close()
        await assert_exact(settings, COUNTING, "signals", [0], BODY)

    asyncio.run(main())


def test_a_start_asks_where_its_log_begins_and_ends_once_each(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that does not know the partition yet asks in vain, and again after a back-off."""
    partition = TopicPartition(clients.full_name(settings, "signals"), 0)
    asked: list[int] = []
    ask = Fetcher._proc_offset_requests

    async def noting(fetcher: Fetcher, timestamps: Mapping[TopicPartition, int]) -> Any:
        asked.extend(at for tp, at in timestamps.items() if tp == partition)
        return await ask(fetcher, timestamps)

    async def main() -> None:
        await declare(settings, COUNTING)
        monkeypatch.setattr(Fetcher, "_proc_offset_requests", noting)
        session = Session(settings, COUNTING, BODY, "signals", 0)
        async with session.held():
            await session.begin()

    asyncio.run(main())
    earliest, latest = -2, -1
    assert asked == [earliest, latest]


def test_position_before_the_log_is_refused_never_skipped(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        await publish(settings, "signals", 0, inputs(20))
        await run_until_read(task(settings))
        position = await position_of(settings, "counting", "signals", 0)
        await publish(settings, "signals", 0, inputs(20))
        async with clients.connected(clients.admin(settings)) as client:
            tp = TopicPartition(clients.full_name(settings, "signals"), 0)
            await client.delete_records({tp: RecordsToDelete(position.next_offset + 5)})
        with pytest.raises(Refused, match=r"position 20 is outside the log of .* \[25, 40\): 5 records were removed unread"):
            await run_until_read(task(settings))
        assert (await position_of(settings, "counting", "signals", 0)).next_offset == 20

    asyncio.run(main())


def test_position_beyond_the_log_is_refused(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        journal = Journal(settings, "counting", "signals", 0, ("rejections",))
        await journal.open()
        await journal.commit([], {}, Position(next_offset=7, partitions=2))
        await journal.close()
        with pytest.raises(Refused, match=r"position 7 is outside the log of .* \[0, 0\): the log has lost its end"):
            await run_until_read(task(settings))

    asyncio.run(main())


@pytest.mark.parametrize(("topic", "goes_on"), [("signals", False), ("interactions", True)])
def test_only_inputs_from_outside_may_grow(settings: Settings, topic: str, goes_on: bool) -> None:
    stage = msgspec.structs.replace(COUNTING, topology=msgspec.structs.replace(COUNTING.topology, inputs=(topic,)))

    async def main() -> None:
        await declare(settings, stage)
        await publish(settings, topic, 0, inputs(20))
        await run_until_read(FoldTask(stage, BODY, topic, 0, settings))
        async with clients.connected(clients.admin(settings)) as client:
            await client.create_partitions({clients.full_name(settings, topic): NewPartitions(3)})
        await publish(settings, topic, 0, inputs(20))

        async def grown() -> bool:
            return (await clients.partition_counts(settings, [topic]))[topic] == 3

        await until(grown)
        if goes_on:
            await run_until_read(FoldTask(stage, BODY, topic, 0, settings))
            assert (await assert_exact(settings, stage, topic, [0], BODY)).partitions == 3
        else:
            with pytest.raises(Refused, match="has 3 partitions, its state was made with 2"):
                await run_until_read(FoldTask(stage, BODY, topic, 0, settings))
        with pytest.raises(Refused, match=r"has 2 partitions, fewer than its input .*headrace topics create"):
            await run_until_read(FoldTask(stage, BODY, topic, 2, settings))

    asyncio.run(main())


def test_missing_topic_says_what_to_do(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_streams.runtime.journal.APPEAR_SECONDS", 0.5)
    with pytest.raises(Refused, match=r"state\.counting\.signals is missing: run `headrace topics create`"):
        asyncio.run(run_until_read(task(settings)))


def test_large_outputs_of_one_transaction_are_packed(settings: Settings) -> None:
    async def main() -> None:
        journal = Journal(settings, "reward", "signals", 0, ("examples",))
        await journal.open()
        produced = [Produced("examples", n % 2, b"k", bytes([n]) * (n * 300_000), ()) for n in range(8)]
        produced += [Produced("examples", 0, b"big", b"x" * 8_000_000, ())]
        await journal.commit(produced, {"gone": None, "kept": b"1"}, Position(next_offset=1, partitions=2))
        await journal.close()
        for part in (0, 1):
            found = [(record.key, record.value) for record in await read(settings, "examples", part)]
            assert found == [(item.key, item.value) for item in produced if item.partition == part]

    asyncio.run(main())


class TickingFold(CountingFold):
    """Forgets a key `forget_ms` of fold time after its last record, by a tick that says when."""

    forget_ms = 500

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        if record.value is not None and b"clock.ticked" in record.value:
            key = (record.key or b"").decode()
            return Step(changes={key: None} if state[key] <= record.now else {}, counters={"ticks": 1})
        step = super().step({}, record)
        return step._replace(changes=dict.fromkeys(step.changes, record.now + self.forget_ms))

    def deadline(self, key: str, value: Any) -> int | None:
        return int(value)

    def overdue(self, state: Mapping[str, Any], keys: Sequence[str], now: int) -> Sequence[Write]:
        return [Write("signals", key, self._tick(key, now)) for key in keys]

    def _tick(self, key: str, now: int) -> ClockTicked:
        return make(ClockTicked, Tick(bucket=key, time=rfc3339(now)), id=derive_id(key, now), writer="ticking", time_ms=now)


class StubbornFold(TickingFold):
    """Writes what becomes a dead letter."""

    def overdue(self, state: Mapping[str, Any], keys: Sequence[str], now: int) -> Sequence[Write]:
        return [Write("signals", "nobody", b"explode")]


def stage_named(name: str, fold: type[CountingFold]) -> FoldStage:
    return msgspec.structs.replace(
        COUNTING, topology=msgspec.structs.replace(COUNTING.topology, name=name), versions={1: RuleVersion(fold)}
    )


TICKING = stage_named("ticking", TickingFold)


class WatchedFold(CountingFold):
    """Keys that begin with `w` are watched."""

    gauged = "w"

    def gauges(self, key: str, value: Any) -> tuple[str, Mapping[str, float]]:
        return key, {"count": value}


WATCHED = stage_named("watched", WatchedFold)


def test_watched_values_stay_near_the_end_of_a_long_changelog_though_their_records_do_not_come_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_streams.runtime.micro_batch.BATCH_RECORDS", 500)
    name, counted = changelog("watched", "signals").name, 0

    class CountedLog(KafkaLog):
        async def read_partition(self, *given: Any) -> AsyncGenerator[Any, None]:
            nonlocal counted
            async for record in super().read_partition(*given):
                counted += 1
                yield record

    async def main() -> None:
        nonlocal counted
        await declare(settings, WATCHED)
        idle = [(f"w{number}".encode(), b"x") for number in range(3)]
        await publish(settings, "signals", 0, [*idle, *((f"k{number}".encode(), b"x") for number in range(12_000))])
        await run_until_read(FoldTask(WATCHED, BODY, "signals", 0, settings))
        log = CountedLog(settings)
        begin, end = (await log.offsets([name]))[name, 0]
        position = await position_near_the_end(log, "watched", "signals", 0, begin, end)
        assert position is not None
        found = await watched_of(log, "watched", "signals", 0, "w", position, begin, end)
        assert (found, position.watched) == ({"w0": b"1", "w1": b"1", "w2": b"1"}, 3)
        assert counted < (end - begin) / 2
        await assert_exact(settings, WATCHED, "signals", [0], BODY)

    asyncio.run(main())


def test_idle_partition_is_told_of_passed_deadlines_once_each_and_never_before(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_streams.runtime.fold_task.OVERDUE_KEYS", 2)  # portions

    async def main() -> None:
        await declare(settings, TICKING)
        await publish(settings, "signals", 1, [(key, b"x") for key in (b"a", b"b", b"c", b"d", b"e")])
        idle = FoldTask(TICKING, BODY, "signals", 1, settings)
        running = asyncio.create_task(idle.run())

        async def forgotten() -> bool:
            return idle.describe().counters.get("ticks") == 5

        await until(forgotten)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await assert_exact(settings, TICKING, "signals", [1], BODY)
        assert await changelog_state(settings, TICKING, "signals", 1) == {}
        records = await read(settings, "signals", 1)
        came = {record.key: record.timestamp for record in records[:5]}
        assert sorted(record.key for record in records[5:]) == [b"a", b"b", b"c", b"d", b"e"]
        for record in records[5:]:
            assert record.timestamp >= came[record.key] + TickingFold.forget_ms
            event = decode(record.value, record.headers)
            assert isinstance(event, ClockTicked)
            assert event.data.bucket == record.key.decode()
            assert dict(record.headers) == {
                "content-type": b"application/cloudevents+json",
                "headrace-origin": b"ticking.tick",
            }

    asyncio.run(main())


def test_a_restarted_task_knows_its_deadlines_by_the_brokers_clock(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a machine's clock of 1970."""

    async def main() -> None:
        await declare(settings, TICKING)
        await publish(settings, "signals", 1, [(b"a", b"x")])
        await run_until_read(FoldTask(TICKING, BODY, "signals", 1, settings))
        monkeypatch.setattr("time.time", lambda: 0.0)
        monkeypatch.setattr("time.time_ns", lambda: 0)
        idle = FoldTask(TICKING, BODY, "signals", 1, settings)
        running = asyncio.create_task(idle.run())

        async def forgotten() -> bool:
            return idle.describe().counters.get("ticks") == 1

        await until(forgotten)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def test_busy_partition_is_told_by_fold_time(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, TICKING)
        busy = FoldTask(TICKING, BODY, "signals", 1, settings, tick_seconds=0.1)
        running = asyncio.create_task(busy.run())
        await publish(settings, "signals", 1, [(b"a", b"x")])

        async def forgotten() -> bool:
            await publish(settings, "signals", 1, [(b"b", b"x")])
            return busy.describe().counters.get("ticks", 0) >= 1

        await until(forgotten, every=0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await run_until_read(FoldTask(TICKING, BODY, "signals", 1, settings))
        await assert_exact(settings, TICKING, "signals", [1], BODY)
        records = await read(settings, "signals", 1)
        assert next(record.key for record in records if b"clock.ticked" in record.value) == b"a"

    asyncio.run(main())


def test_a_fold_that_does_not_heed_its_own_record_is_asked_again_no_sooner_than_a_tick_later(settings: Settings) -> None:
    stage = stage_named("stubborn", StubbornFold)

    async def main() -> None:
        await declare(settings, stage)
        await publish(settings, "signals", 1, [(b"a", b"x")])
        idle = FoldTask(stage, BODY, "signals", 1, settings, tick_seconds=1.0)
        running = asyncio.create_task(idle.run())

        async def asked_thrice() -> bool:
            return idle.describe().counters.get("in", 0) >= 4

        await until(asked_thrice)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        times = [record.timestamp for record in await read(settings, "signals", 1)][1:4]
        assert times[1] - times[0] >= 1000
        assert times[2] - times[1] >= 1000

    asyncio.run(main())


def test_idle_position_moves_over_transaction_markers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_streams.runtime.session.SETTLE_SECONDS", 0.2)

    async def main() -> None:
        await declare(settings, COUNTING)
        await publish(settings, "signals", 0, inputs(3))
        async with clients.connected(clients.producer(settings, transactional_id=f"{settings.deployment}.other")) as producer:
            for _ in range(2):
                async with producer.transaction():
                    await producer.send_and_wait(clients.full_name(settings, "signals"), b"x", partition=0)
        idle = task(settings)
        running = asyncio.create_task(idle.run())

        async def settled() -> bool:
            return (await position_of(settings, "counting", "signals", 0)).next_offset == 7  # 5 records and 2 markers

        await until(settled)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await assert_exact(settings, COUNTING, "signals", [0], BODY)

    asyncio.run(main())


class DeletingFold(CountingFold):
    """`gone` deletes a key."""

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        if record.value == b"gone":
            return Step(changes={(record.key or b"").decode(): None}, counters={"counted": 1})
        return super().step(state, record)


def test_compacted_and_tombstoned_changelog_restores_the_same_state(settings: Settings) -> None:
    stage = stage_named("deleting", DeletingFold)

    async def main() -> None:
        await admin.declare(settings, [changelog("deleting", "signals")])
        await publish(settings, "signals", 0, [(b"a", b"x"), (b"b", b"x"), (b"a", b"gone"), (b"b", b"x")])
        await run_until_read(FoldTask(stage, BODY, "signals", 0, settings))
        await publish(settings, "signals", 0, [(b"a", b"x"), (b"b", b"x")])
        await run_until_read(FoldTask(stage, BODY, "signals", 0, settings))
        await assert_exact(settings, stage, "signals", [0], BODY)
        assert await changelog_state(settings, stage, "signals", 0) == {"a": b"1", "b": b"3"}
        assert await outputs_of(settings, stage, "signals", 1) == {}

    asyncio.run(main())


def stopped_with_position(settings: Settings, **changed: Any) -> None:
    """A task ran over some input; then its position record says something else."""

    async def main() -> None:
        await declare(settings, COUNTING)
        await publish(settings, "signals", 0, [(b"a", b"x"), (b"b", b"x"), (b"a", b"x")])
        await run_until_read(FoldTask(COUNTING, BODY, "signals", 0, settings))
        position = await position_of(settings, "counting", "signals", 0)
        value = encode_position(msgspec.structs.replace(position, **changed))
        await publish(settings, "state.counting.signals", 0, [(POSITION_KEY.encode(), value)])

    asyncio.run(main())


def test_state_of_a_newer_version_is_refused_with_the_command_that_rebuilds_it(settings: Settings) -> None:
    stopped_with_position(settings, state_version=2)
    with pytest.raises(Refused) as refused:
        asyncio.run(run_until_read(FoldTask(COUNTING, BODY, "signals", 0, settings)))
    assert str(refused.value) == (
        "counting/signals/0: counting: state of version 2 is newer than 1, which this code has: "
        "run `headrace positions rebuild counting/signals/0`"
    )


def test_a_state_value_that_cannot_be_read_is_refused_and_a_rebuild_from_the_log_mends_it(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        await publish(settings, "signals", 0, [(b"a", b"x"), (b"b", b"x"), (b"a", b"x")])
        await run_until_read(FoldTask(COUNTING, BODY, "signals", 0, settings))
        await publish(settings, "state.counting.signals", 0, [(b"a", b"no number"), (b"c", b"9")])
        with pytest.raises(Refused, match=r"state 'a' can't be read: invalid literal.*positions rebuild counting/signals/0"):
            await run_until_read(FoldTask(COUNTING, BODY, "signals", 0, settings))
        rebuilt = await rebuild_state(settings, KafkaLog(settings), COUNTING, "signals", 0)
        assert rebuilt == Rebuilt(records=3, keys=2, changed=1, removed=1)
        await publish(settings, "signals", 0, [(b"a", b"x")])
        await run_until_read(FoldTask(COUNTING, BODY, "signals", 0, settings))
        await assert_exact(settings, COUNTING, "signals", [0], BODY)

    asyncio.run(main())


def test_state_of_an_older_version_becomes_todays_before_anything_is_made_of_it(settings: Settings) -> None:
    def moved(state: Mapping[str, bytes]) -> dict[str, bytes]:
        return {"b" if key == "a" else "d": value for key, value in state.items()}

    async def main() -> None:
        await declare(settings, COUNTING)
        await publish(settings, "signals", 0, [(b"a", b"x"), (b"b", b"x"), (b"a", b"x")])
        await run_until_read(FoldTask(COUNTING, BODY, "signals", 0, settings))
        later = msgspec.structs.replace(COUNTING, state_version=2, state_upcasts={1: moved})
        await run_until_read(FoldTask(later, BODY, "signals", 0, settings))
        before = await changelog_state(settings, COUNTING, "signals", 0)
        assert before == {"b": b"2", "d": b"1"}
        assert (await position_of(settings, "counting", "signals", 0)).state_version == 2
        await run_until_read(FoldTask(later, BODY, "signals", 0, settings))
        assert await changelog_state(settings, COUNTING, "signals", 0) == before, "once is enough"

    asyncio.run(main())
