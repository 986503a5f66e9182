"""The supervisor with tasks that only note what happens to them: sharing, restarts, refusals, and what it says of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition

from headrace_streams.kafka import clients
from headrace_streams.runtime import membership, supervisor
from headrace_streams.runtime.journal import Refused, Transport
from headrace_streams.runtime.status import TaskReport
from headrace_streams.runtime.supervisor import Supervisor
from headrace_streams.settings import Settings
from support.live import until

pytestmark = pytest.mark.kafka


class Notes:
    """Who runs what, over all supervisors of a test; `fates` are the exceptions that a partition's next tasks end with."""

    def __init__(self, **fates: list[BaseException | None]) -> None:
        self.running: list[tuple[str, str, int]] = []
        self.started: list[tuple[str, int]] = []
        self.fates = fates

    def make(self, owner: str) -> Any:
        return lambda topic, partition: Noting(self, owner, topic, partition)

    def owners(self) -> dict[tuple[str, int], list[str]]:
        found: dict[tuple[str, int], list[str]] = {}
        for owner, topic, partition in self.running:
            found.setdefault((topic, partition), []).append(owner)
        return found


class Noting:
    def __init__(self, notes: Notes, owner: str, topic: str, partition: int) -> None:
        self.notes, self.place = notes, (owner, topic, partition)

    async def run(self) -> None:
        _, topic, partition = self.place
        self.notes.started.append((topic, partition))
        fates = self.notes.fates.get(f"{topic}{partition}", [])
        if fates:
            fate = fates.pop(0)
            if fate is not None:
                raise fate
            return
        self.notes.running.append(self.place)
        try:
            await asyncio.Event().wait()
        finally:
            self.notes.running.remove(self.place)

    def describe(self) -> TaskReport:
        return TaskReport(stage="test", topic=self.place[1], partition=self.place[2], phase="running")

    @property
    def progress(self) -> int | None:
        return 40 + self.place[2] if self.place in self.notes.running else None


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_SECONDS", (0.05, 0.2))
    monkeypatch.setattr(supervisor, "REFUSED_SECONDS", 0.5)
    monkeypatch.setattr(membership, "MONITOR_SECONDS", 0.3)


@asynccontextmanager
async def running(settings: Settings, notes: Notes, owner: str) -> AsyncIterator[Supervisor]:
    topics = ("signals", "outcomes")
    one = Supervisor(settings, f"{settings.deployment}.worker", {topic: notes.make(owner) for topic in topics})
    task = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


ALL = {(topic, partition) for topic in ("signals", "outcomes") for partition in (0, 1)}


def test_members_share_partitions_and_take_over(settings: Settings) -> None:
    notes = Notes()

    async def each_has_one_owner(owners: set[str]) -> bool:
        found = notes.owners()
        return found.keys() == ALL and {name for names in found.values() for name in names} == owners and len(notes.running) == 4

    async def main() -> None:
        async with running(settings, notes, "a"):
            await until(lambda: each_has_one_owner({"a"}))
            async with running(settings, notes, "b"):
                await until(lambda: each_has_one_owner({"a", "b"}))
            await until(lambda: each_has_one_owner({"a"}))
        assert notes.running == []

    asyncio.run(main())


def test_member_whose_coordination_died_joins_again(settings: Settings) -> None:
    """Or it would hold on to partitions that the group has given to others, and both would fence each other for ever."""
    notes = Notes()

    async def shared_by(owners: set[str]) -> bool:
        found = notes.owners()
        return len(notes.running) == 4 and found.keys() == ALL and {name for names in found.values() for name in names} == owners

    async def broken() -> None:
        raise RuntimeError("a bug of the library")

    async def main() -> None:
        async with running(settings, notes, "a") as one:
            await until(lambda: shared_by({"a"}))
            assert one._membership is not None
            coordinator = one._membership._member._coordinator
            coordinator.ensure_coordinator_known = broken
            one._membership._thread.call(coordinator.request_rejoin)
            async with running(settings, notes, "b"):
                await until(lambda: shared_by({"a", "b"}), 30)
                assert one.describe().away is None
            await until(lambda: shared_by({"a"}))

    asyncio.run(main())


def test_tasks_that_fail_start_again_and_those_refused_are_looked_at_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "REFUSED_SECONDS", 2.0)
    notes = Notes(
        signals0=[Transport("away"), RuntimeError("a bug"), Transport("away")],
        signals1=[Refused("position 3 is outside the log")],
        outcomes0=[None],
    )

    async def main() -> None:
        async with running(settings, notes, "a") as one:

            async def settled() -> bool:
                return notes.owners().keys() == {("signals", 0), ("outcomes", 1)} and len(notes.started) == 7

            await until(settled)
            report = one.describe()
            assert report.away is None
            tasks = {(task.topic, task.partition): task for task in report.tasks}
            assert tasks.keys() == ALL
            assert (tasks["signals", 0].restarts, tasks["signals", 0].error) == (3, "away")
            assert (tasks["signals", 1].ended, tasks["signals", 1].error) == ("refused", "position 3 is outside the log")
            assert (tasks["outcomes", 0].ended, tasks["outcomes", 0].error) == ("done", None)
            assert tasks["outcomes", 1].ended is None

            async def mended() -> bool:
                return ("signals", 1) in notes.owners()

            await until(mended)
            assert {(task.topic, task.partition): task.ended for task in one.describe().tasks}["signals", 1] is None

    asyncio.run(main())


def test_a_task_that_nobody_cancelled_and_that_ends_cancelled_is_started_again(settings: Settings) -> None:
    notes = Notes(signals0=[asyncio.CancelledError()])

    async def main() -> None:
        async with running(settings, notes, "a") as one:

            async def all_run() -> bool:
                return notes.owners().keys() == ALL

            await until(all_run)
            report = {(task.topic, task.partition): task for task in one.describe().tasks}["signals", 0]
            assert (report.restarts, report.error) == (1, "signals/0: CancelledError: ")

    asyncio.run(main())


def test_a_cancellation_that_a_task_loses_ends_it_all_the_same(settings: Settings) -> None:
    """It failed, was closing, and a library took the cancellation for one of its own: a worker never ended."""

    class Losing(Noting):
        async def run(self) -> None:
            try:
                await super().run()
            except asyncio.CancelledError:
                raise Transport("the connection to the broker broke") from None

    async def main() -> None:
        notes = Notes()
        make = {"signals": lambda topic, partition: Losing(notes, "a", topic, partition)}
        task = asyncio.create_task(Supervisor(settings, f"{settings.deployment}.worker", make).run())

        async def all_run() -> bool:
            return notes.owners().keys() == {("signals", 0), ("signals", 1)}

        await until(all_run)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=20)
        assert done
        assert len(notes.started) == 2

    asyncio.run(main())


def test_what_lasts_is_said_again_and_not_at_each_attempt(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "SAY_AGAIN_SECONDS", 1.0)
    monkeypatch.setattr(supervisor, "BACKOFF_SECONDS", (0.02, 0.05))
    notes = Notes(signals0=[Transport("not enough replicas"), Transport("away")] * 40)

    async def main() -> None:
        async with running(settings, notes, "a"):

            async def over() -> bool:
                return ("signals", 0) in notes.owners()

            await until(over)

    asyncio.run(main())
    said = [record.getMessage() for record in caplog.records if "not enough replicas" in record.getMessage()]
    assert said[0] == "not enough replicas"
    assert re.fullmatch(r"not enough replicas \(for \d+ s, \d+ times\)", said[1])
    assert len(said) < 10


def test_group_offsets_tell_where_the_tasks_stand(settings: Settings) -> None:
    async def main() -> None:
        async with running(settings, Notes(), "a"), clients.connected(clients.admin(settings)) as admin:

            async def committed() -> bool:
                found = await admin.list_consumer_group_offsets(f"{settings.deployment}.worker")
                names = {topic: clients.full_name(settings, topic) for topic in ("signals", "outcomes")}
                expected = {TopicPartition(names[topic], partition): 40 + partition for topic, partition in ALL}
                return {tp: meta.offset for tp, meta in found.items()} == expected

            await until(committed)

    asyncio.run(main())
