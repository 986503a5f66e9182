"""Who runs what: one group member that turns its assignment into running tasks and keeps them running. Knows no stage.

Exactness does not rest on the group: a task that starts fences whoever had its partition. So tasks go on through a rebalance, and
only those that the new assignment no longer has are stopped. Group offsets are committed for monitoring only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from headrace_schemas.topology import TOPOLOGY
from headrace_streams.backoff import Backoff
from headrace_streams.kafka import clients, compat
from headrace_streams.runtime import meters
from headrace_streams.runtime.journal import Fenced, JournalError, Refused, Transport, stop
from headrace_streams.runtime.status import RECENT_SECONDS, SlotReport, TaskNote, TaskReport, WorkerReport, encode_note
from headrace_streams.settings import Settings

log = logging.getLogger("headrace")

POLL_MS = 500
MONITOR_SECONDS = 3.0
PATIENCE_SECONDS = 5.0  # without an answer to a commit: the broker counts as away
BACKOFF_SECONDS = (0.25, 10.0)  # first and longest wait before a failed task is started again
FENCED_SECONDS = 2.0  # a revived member needs that long to learn that the group has moved on without it
HEALTHY_SECONDS = 60.0  # a task that ran this long starts its back-off anew


class Task(Protocol):
    """What a supervisor runs: one partition of one topic."""

    async def run(self) -> None:
        """Until cancelled, or until nothing is left to do. Refused: never again; any other exception: start a new one."""
        ...

    def describe(self) -> TaskReport: ...

    @property
    def progress(self) -> int | None:
        """The next input offset, or None while that is unknown."""
        ...


MakeTask = Callable[[str, int], Task]
_STAGES = {topic: stage.name for stage in TOPOLOGY for topic in stage.inputs}


def _restarted(topic: str, reason: str) -> None:
    meters.of(_STAGES.get(topic, "other"), topic).restarted(reason)


class _Slot:
    """An assigned partition: the task that has it now, and what became of those before."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.keeper: asyncio.Task[None] | None = None
        self.restarts = 0
        self.error: str | None = None
        self.ended: Literal["done", "refused"] | None = None
        self.restarted: deque[float] = deque(maxlen=100)  # when it was started again, the last times
        self.offset: int | None = None  # committed for monitoring last

    def for_group(self) -> str:
        """What the group is let know."""
        report, since = None if self.task is None else self.task.describe(), time.monotonic() - RECENT_SECONDS
        note = TaskNote(
            phase="starting" if report is None else report.phase,
            error=self.error,
            ended=self.ended,
            recent=sum(at > since for at in self.restarted),
            held=None if report is None else report.held,
        )
        return encode_note(note)

    def note(self, level: int, error: str, *, traceback: bool = False) -> None:
        """Keeps what a task ended with; logs it unless the one before ended with the same."""
        if error != self.error:
            log.log(level, "%s", error, exc_info=traceback)
        self.error = error


class Supervisor:
    """`tasks`: short input topic -> what makes the task of one of its partitions (called with topic and partition)."""

    def __init__(self, settings: Settings, group: str, tasks: Mapping[str, MakeTask]) -> None:
        self._settings, self._group, self._tasks = settings, group, dict(tasks)
        self._slots: dict[tuple[str, int], _Slot] = {}
        self._member: Any = None
        self._away: str | None = None
        self._monitored = 0.0
        self._waiting: str | None = "to begin"
        self._given = False  # whether the group has said which partitions are ours

    async def run(self) -> None:
        """Until cancelled; tasks then finish the transaction they are in. Waits for a broker that is away, and says so."""
        try:
            await self._join()
            while True:
                await self._poll()
                await self._reconcile()
                if time.monotonic() - self._monitored >= MONITOR_SECONDS:
                    await self._monitor()
                    self._monitored = time.monotonic()
        finally:
            await self._drop(list(self._slots))
            member, self._member = self._member, None
            if member is not None:
                await stop(member)

    def waits(self, reason: str) -> None:
        """Notes what its host waits for before it runs, e.g. "for topics: …"."""
        self._waiting = reason

    def describe(self) -> WorkerReport:
        """Group, whether the broker answers, and every assigned task with its restarts and last error."""
        tasks = [
            SlotReport(
                topic=topic,
                partition=partition,
                task=None if slot.task is None else slot.task.describe(),
                restarts=slot.restarts,
                error=slot.error,
                ended=slot.ended,
            )
            for (topic, partition), slot in sorted(self._slots.items())
        ]
        return WorkerReport(
            group=self._group, broker=self._settings.bootstrap, away=self._away, waiting=self._waiting, tasks=tasks
        )

    async def _join(self) -> None:
        while True:
            member = clients.consumer(
                self._settings, group=self._group, auto_offset_reset="earliest", max_partition_fetch_bytes=1
            )
            try:
                await clients.start(member)
                break
            except (clients.BrokerUnavailable, OSError) as error:
                self._says_away(str(error))
                await asyncio.sleep(1.0)
        self._member = member
        self._says_back()
        names = [clients.full_name(self._settings, topic) for topic in self._tasks]
        self._given = False
        self._waiting = f"for group {self._group} to share out the partitions"
        member.subscribe(names, listener=_Pause(member, self._joined))

    def _joined(self) -> None:
        self._given = True

    async def _poll(self) -> None:
        """Keeps the membership alive; everything is paused, so nothing comes."""
        try:
            await self._member.getmany(timeout_ms=POLL_MS)
        except KafkaError as error:  # the group refuses us: somebody has to look, but tasks that run may go on
            self._says_away(f"group {self._group}: {error!r}")
            await asyncio.sleep(1.0)
            if compat.has_left_for_good(self._member):
                # It will never join again by itself, and meanwhile it claims partitions that the group gives to others.
                member, self._member = self._member, None
                await stop(member)
                await self._join()

    async def _reconcile(self) -> None:
        assigned = {(clients.short_name(self._settings, tp.topic), tp.partition): tp for tp in self._member.assignment()}
        paused = self._member.paused()
        fetching = [tp for tp in assigned.values() if tp not in paused]
        if fetching:
            self._member.pause(*fetching)
        await self._drop([place for place in self._slots if place not in assigned])
        for place in sorted(assigned.keys() - self._slots.keys()):
            slot = self._slots[place] = _Slot()
            slot.keeper = asyncio.create_task(self._keep(slot, *place), name="/".join(map(str, place)))
        if self._given:
            self._waiting = None

    async def _drop(self, places: list[tuple[str, int]]) -> None:
        slots = [self._slots.pop(place) for place in places]
        keepers = [slot.keeper for slot in slots if slot.keeper is not None]
        for keeper in keepers:
            keeper.cancel()
        for result in await asyncio.gather(*keepers, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("a task did not end well: %r", result)

    async def _keep(self, slot: _Slot, topic: str, partition: int) -> None:
        """Runs tasks for one partition, one after the other, until cancelled."""
        place = f"{topic}/{partition}"
        backoff = Backoff(*BACKOFF_SECONDS, spread=0.5)
        while True:
            started = time.monotonic()
            try:
                slot.task = self._tasks[topic](topic, partition)
                await slot.task.run()
                slot.ended = "done"
                return
            except Refused as error:
                _restarted(topic, "refused")
                slot.ended = "refused"
                slot.note(logging.ERROR, str(error))
                return
            except Fenced as error:
                reason = "fenced"
                slot.note(logging.WARNING, str(error))
                backoff.at_least(FENCED_SECONDS)
            except JournalError as error:
                reason = "transport" if isinstance(error, Transport) else "producer_lost"
                slot.note(logging.WARNING, str(error))
            except Exception as error:  # a bug must not take the other partitions with it
                reason = "error"
                slot.note(logging.ERROR, f"{place}: {type(error).__name__}: {error}", traceback=True)
            _restarted(topic, reason)
            slot.restarts += 1
            if reason != "fenced":
                slot.restarted.append(time.monotonic())
            if time.monotonic() - started > HEALTHY_SECONDS:
                backoff.reset()
            await backoff.wait()

    async def _monitor(self) -> None:
        """Commits where the tasks stand and how they are, for whoever looks at the group; the answer also tells whether the
        broker is there. Of a task that has not come to its position the offset stays what it was."""
        if not self._slots:
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                offsets = {}
                for (topic, partition), slot in self._slots.items():
                    tp = TopicPartition(clients.full_name(self._settings, topic), partition)
                    progress = None if slot.task is None else slot.task.progress
                    if progress is None and slot.offset is None:
                        progress = await self._member.committed(tp) or 0
                    if progress is not None:
                        slot.offset = progress
                    offsets[tp] = (slot.offset, slot.for_group())
                await self._member.commit(offsets)
        except TimeoutError:
            self._says_away(f"no answer within {PATIENCE_SECONDS:g} s")
        except KafkaError as error:
            if error.retriable:
                self._says_away(repr(error))
        else:
            self._says_back()

    def _says_away(self, reason: str) -> None:
        if self._away is None:
            log.warning("waiting for the broker at %s: %s", self._settings.bootstrap, reason)
        self._away = reason

    def _says_back(self) -> None:
        if self._away is not None:
            log.info("the broker at %s answers", self._settings.bootstrap)
        self._away = None


class _Pause(ConsumerRebalanceListener):  # type: ignore[misc]
    """Pauses what is assigned before it is fetched. It does nothing else: aiokafka swallows what a listener raises."""

    def __init__(self, member: Any, joined: Callable[[], None]) -> None:
        self._member, self._joined = member, joined

    def on_partitions_revoked(self, revoked: Any) -> None:
        pass

    def on_partitions_assigned(self, assigned: Any) -> None:
        with contextlib.suppress(Exception):
            self._member.pause(*assigned)
        self._joined()
