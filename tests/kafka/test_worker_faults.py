"""Worker processes that are killed, frozen and stopped at any moment: what is on the log equals the pure fold of the input."""

from __future__ import annotations

import asyncio
import random
import re
import signal
from pathlib import Path

import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment as MemberAssignment
from aiokafka.errors import GroupCoordinatorNotAvailableError

from headrace_schemas.root_error import STUCK
from headrace_streams.kafka import admin, clients
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings
from support.counting import COUNTING
from support.counting_worker import BODY, Worker
from support.live import assert_exact, declare, position_of, publish, until

pytestmark = pytest.mark.kafka
PARTITIONS = (0, 1)


async def flow(settings: Settings, stop: asyncio.Event, seed: int) -> list[int]:
    """Publishes small bursts to both partitions until told to stop; returns how many records each has."""
    source = random.Random(seed)
    counts = [0, 0]
    while not stop.is_set():
        for partition in PARTITIONS:
            size = source.randrange(1, 400)
            records = [(f"k{source.randrange(50)}".encode(), source.choice([b"x"] * 19 + [b"explode"])) for _ in range(size)]
            await publish(settings, "signals", partition, records)
            counts[partition] += size
        await asyncio.sleep(0.02)
    return counts


async def total(settings: Settings) -> int:
    return sum([(await position_of(settings, "counting", "signals", part)).counters.get("in", 0) for part in PARTITIONS])


@pytest.mark.timeout(150)
@pytest.mark.slow(seconds=15)
def test_killed_at_any_moment(settings: Settings, tmp_path: Path) -> None:
    source = random.Random(20261121)

    async def main() -> None:
        await declare(settings, COUNTING)
        stop = asyncio.Event()
        flowing = asyncio.create_task(flow(settings, stop, 1))
        for _ in range(2):
            with Worker(settings, tmp_path) as worker:
                before = await total(settings)

                async def moves(before: int = before) -> bool:
                    return await total(settings) > before

                await until(moves)
                await asyncio.sleep(source.uniform(0.0, 0.5))  # any moment after it has begun to write
                worker.send(signal.SIGKILL)
                worker.wait()
        stop.set()
        counts = await flowing
        with Worker(settings, tmp_path) as worker:

            async def done() -> bool:
                return await total(settings) == sum(counts)

            await until(done)
            worker.send(signal.SIGTERM)
            assert worker.wait() == 0
        await assert_exact(settings, COUNTING, "signals", PARTITIONS, BODY)

    asyncio.run(main())


@pytest.mark.parametrize("death", ["before:3", "after:3"])  # the first two only activate rules
def test_killed_with_its_transaction_open_or_just_committed(settings: Settings, tmp_path: Path, death: str) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        for partition in PARTITIONS:
            await publish(settings, "signals", partition, [(f"k{n % 9}".encode(), b"x") for n in range(5000)])
        with Worker(settings, tmp_path, group="one", death=death) as worker:
            assert worker.wait() == -signal.SIGKILL
        assert await total(settings) < 10_000
        with Worker(settings, tmp_path, group="two") as worker:

            async def done() -> bool:
                return await total(settings) == 10_000

            await until(done)
        await assert_exact(settings, COUNTING, "signals", PARTITIONS, BODY)

    asyncio.run(main())


def test_a_worker_whose_tasks_do_not_end_says_which_and_ends_all_the_same(settings: Settings, tmp_path: Path) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        await publish(settings, "signals", 0, [(b"k", b"x")] * 100)

        async def counted() -> bool:
            return await total(settings) == 100

        with Worker(settings, tmp_path, death="stuck") as worker:
            await until(counted)
            worker.send(signal.SIGTERM)
            assert worker.wait() == STUCK
            assert re.search(
                r"WARNING told to end .* waits for .*signals/0 \(.*counting_worker.py:\d+\); signals/1 ", worker.log.read_text()
            )
        with Worker(settings, tmp_path) as worker:
            await publish(settings, "signals", 1, [(b"k", b"x")] * 100)

            async def all_counted() -> bool:
                return await total(settings) == 200

            await until(all_counted)
            worker.send(signal.SIGTERM)
            assert worker.wait() == 0
        await assert_exact(settings, COUNTING, "signals", PARTITIONS, BODY)

    asyncio.run(main())


@pytest.mark.slow(seconds=15)
def test_broker_away_at_start_and_later(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path / "kafka")
    kafka.start()
    settings = Settings(bootstrap=kafka.bootstrap, deployment="away", partitions=2)
    port = int(kafka.bootstrap.rpartition(":")[2])

    async def prepare() -> None:
        await admin.declare(settings)
        await declare(settings, COUNTING)
        for partition in PARTITIONS:
            await publish(settings, "signals", partition, [(b"k", b"x")] * 100)

    async def says(worker: Worker, text: str) -> None:
        async def said() -> bool:
            return text in worker.log.read_text()

        await until(said)

    async def main(worker: Worker) -> None:
        await says(worker, f"waiting for the broker at {settings.bootstrap}")
        with LocalKafka(tmp_path / "kafka", port=port):
            await until(lambda: counted(200))
        await says(worker, "no answer within")
        with LocalKafka(tmp_path / "kafka", port=port):
            await publish(settings, "signals", 0, [(b"k", b"x")] * 100)
            await until(lambda: counted(300))
            worker.send(signal.SIGTERM)
            assert worker.wait() == 0
            await assert_exact(settings, COUNTING, "signals", PARTITIONS, BODY)
        assert len(worker.log.read_text().splitlines()) < 20  # it says so, and does not go on about it

    async def counted(number: int) -> bool:
        return await total(settings) == number

    asyncio.run(prepare())
    kafka.stop()
    with Worker(settings, tmp_path) as worker:
        asyncio.run(main(worker))


@pytest.mark.timeout(120)
@pytest.mark.slow(seconds=20)
def test_fold_that_takes_longer_than_a_session_costs_no_membership(settings: Settings, tmp_path: Path) -> None:
    """With heartbeats in its own loop the group would give each worker's partition to the other, which would fence it."""

    async def main() -> None:
        await declare(settings, COUNTING)
        first, second = (Worker(settings, tmp_path, name, death="block:8") for name in ("first", "second"))
        with first, second:

            async def shared() -> bool:
                return await members(settings) == [1, 1]

            await until(shared)
            for partition in PARTITIONS:
                await publish(settings, "signals", partition, [(b"k", b"slow"), *[(b"k", b"x")] * 10])

            async def done() -> bool:
                return await total(settings) == 22

            await until(done)
            assert await members(settings) == [1, 1]
            for worker in (first, second):
                worker.send(signal.SIGTERM)
                assert worker.wait() == 0
                assert "another owner" not in worker.log.read_text()
        await assert_exact(settings, COUNTING, "signals", PARTITIONS, BODY)

    asyncio.run(main())


async def members(settings: Settings) -> list[int]:
    """How many partitions each member of the group has; none while it is deciding."""
    async with clients.connected(clients.admin(settings)) as client:
        try:
            (group,) = (await client.describe_consumer_groups([f"{settings.deployment}.counting"]))[0].groups
        except GroupCoordinatorNotAvailableError:  # the broker's first group
            return []
    assigned = [MemberAssignment.decode(member[4]).assignment if member[4] else [] for member in group[5]]
    return [sum(len(partitions) for _, partitions in topics) for topics in assigned]


@pytest.mark.timeout(120)
@pytest.mark.slow(seconds=20)
def test_frozen_worker_is_replaced_and_fenced_when_it_comes_back(settings: Settings, tmp_path: Path) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        stop = asyncio.Event()
        flowing = asyncio.create_task(flow(settings, stop, 2))
        with Worker(settings, tmp_path, "first") as first:

            async def begun() -> bool:
                return await total(settings) > 0

            await until(begun)
            first.send(signal.SIGSTOP)
            with Worker(settings, tmp_path, "second") as second:
                before = await total(settings)

                async def taken_over() -> bool:
                    return await total(settings) > before + 1000

                await until(taken_over, seconds=40)
                first.send(signal.SIGCONT)

                async def fenced() -> bool:
                    return "another owner has taken over" in first.log.read_text()

                await until(fenced)
                stop.set()
                counts = await flowing

                async def done() -> bool:
                    return await total(settings) == sum(counts)

                await until(done)
                second.send(signal.SIGTERM)
                assert second.wait() == 0
            await publish(settings, "signals", 0, [(b"k", b"x")])  # the one that was fenced works again

            async def back() -> bool:
                return await total(settings) == sum(counts) + 1

            await until(back)
            first.send(signal.SIGTERM)
            assert first.wait() == 0
        await assert_exact(settings, COUNTING, "signals", PARTITIONS, BODY)

    asyncio.run(main())


def test_clean_stop_and_interrupt(settings: Settings, tmp_path: Path) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        stop = asyncio.Event()
        flowing = asyncio.create_task(flow(settings, stop, 3))
        for name, number, code in (("a", signal.SIGTERM, 0), ("b", signal.SIGINT, 130)):
            with Worker(settings, tmp_path, name) as worker:
                before = await total(settings)

                async def moves(before: int = before) -> bool:
                    return await total(settings) > before

                await until(moves)
                worker.send(number)
                assert worker.wait() == code
                lines = worker.log.read_text().splitlines()
                assert len(lines) == 1, lines
                assert re.search(r"INFO worker runs counting on \S+ as \S+$", lines[0])
        stop.set()
        await flowing
        with Worker(settings, tmp_path, "c") as worker:
            counts = flowing.result()

            async def done() -> bool:
                return await total(settings) == sum(counts)

            await until(done)
        await assert_exact(settings, COUNTING, "signals", PARTITIONS, BODY)

    asyncio.run(main())


def test_missing_topics_end_it(broker: str, deployment: str, tmp_path: Path) -> None:
    with Worker(Settings(bootstrap=broker, deployment=deployment), tmp_path) as worker:
        assert worker.wait() != 0
        assert "`headrace topics create`" in worker.log.read_text()
