"""Who runs what: turns the assignment of a group member into running tasks and keeps them running. Knows no stage.

Exactness does not rest on the group: a task that starts fences whoever had its partition. So tasks go on through a rebalance, and
only those that the new assignment no longer has are stopped. Group offsets are committed for monitoring only.

A task that ends is started again, whatever it was. What somebody has to mend (Refused) is looked at again every minute; what may
pass by itself waits a little longer each time. Both are said when they begin, and again as long as they last.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Protocol

from headrace_schemas.root_error import HeadraceError
from headrace_schemas.topology import TOPOLOGY
from headrace_streams.backoff import Backoff
from headrace_streams.cancellation import cancelled_by_somebody
from headrace_streams.runtime import meters
from headrace_streams.runtime.journal import Fenced, ProducerLost, Refused, Transport
from headrace_streams.runtime.membership import Assigned, Membership, Standing
from headrace_streams.runtime.status import RECENT_SECONDS, SlotReport, TaskNote, TaskReport, WorkerReport, encode_note
from headrace_streams.runtime.step import SurroundingsFailed
from headrace_streams.settings import Settings

log = logging.getLogger("headrace")

LOOK_SECONDS = 0.5
BACKOFF_SECONDS = (0.25, 2.0)  # first and longest wait before a failed task is started again
REFUSED_SECONDS = 60.0  # before what somebody has to mend is looked at again
SAY_AGAIN_SECONDS = 300.0
SAID_ERRORS = 20  # of one partition, that are not said anew each time
FENCED_SECONDS = 2.0  # a revived member needs that long to learn that the group has moved on without it
HEALTHY_SECONDS = 60.0  # a task that ran this long starts its back-off anew


class Task(Protocol):
    """What a supervisor runs: one partition of one topic."""

    async def run(self) -> None:
        """Until cancelled, or until nothing is left to do. Whatever it raises, another is made, after Refused in a minute."""
        ...

    def describe(self) -> TaskReport: ...

    @property
    def progress(self) -> int | None:
        """The next input offset, or None while that is unknown."""
        ...


MakeTask = Callable[[str, int], Task]
_STAGES = {topic: stage.name for stage in TOPOLOGY for topic in stage.inputs}


# What ended a task, as metrics count it.
_REASONS = {Transport: "transport", ProducerLost: "producer_lost", SurroundingsFailed: "surroundings"}


def _restarted(topic: str, reason: str) -> None:
    meters.of(_STAGES.get(topic, "other"), topic).restarted(reason)


class _Slot:
    """An assigned partition: the task that has it now, and what became of those before."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.keeper: asyncio.Task[None] | None = None
        self.restarts = 0
        self.error: str | None = None
        self._ended: Literal["done", "refused"] | None = None
        self._said: dict[str, tuple[float, float, int]] = {}  # by error: when first and when last said, and how often since
        self.restarted: deque[float] = deque(maxlen=100)  # when it was started again, the last times

    @property
    def ended(self) -> Literal["done", "refused"] | None:
        """`refused` until a later attempt runs."""
        running = self._ended == "refused" and self.task is not None and self.task.progress is not None
        return None if running else self._ended

    def note(
        self, level: int, error: str, *, ended: Literal["refused"] | None = None, traceback: BaseException | None = None
    ) -> None:
        """Keeps what a task ended with. Logs it when it is new, and again every SAY_AGAIN_SECONDS."""
        self.error, self._ended = error, ended
        now = time.monotonic()
        first, last, times = self._said.pop(error, (now, -SAY_AGAIN_SECONDS, 0))
        if now - last >= SAY_AGAIN_SECONDS:
            lasting = f" (for {now - first:.0f} s, {times + 1} times)" if times else ""
            log.log(level, "%s%s", error, lasting, exc_info=None if times else traceback)
            last = now
        self._said[error] = (first, last, times + 1)
        if len(self._said) > SAID_ERRORS:
            self._said.pop(next(iter(self._said)))

    def standing(self) -> Standing:
        """What the group is let know."""
        report, since = None if self.task is None else self.task.describe(), time.monotonic() - RECENT_SECONDS
        note = TaskNote(
            phase="starting" if report is None else report.phase,
            error=self.error,
            ended=self.ended,
            recent=sum(at > since for at in self.restarted),
            held=None if report is None else report.held,
        )
        return None if self.task is None else self.task.progress, encode_note(note)

    def done(self) -> None:
        """Nothing is left to do."""
        self._ended = "done"

    def healthy(self) -> None:
        """It went well for long: what went wrong before is over."""
        self._said.clear()


class Supervisor:
    """`tasks`: short input topic -> what makes the task of one of its partitions (called with topic and partition)."""

    def __init__(self, settings: Settings, group: str, tasks: Mapping[str, MakeTask]) -> None:
        self._settings, self._group, self._tasks = settings, group, dict(tasks)
        self._slots: dict[tuple[str, int], _Slot] = {}
        self._leaving: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._membership: Membership | None = None
        self._waiting: str | None = "to begin"

    async def run(self) -> None:
        """Until cancelled; tasks then finish the transaction they are in. Waits for a broker that is away, and says so."""
        changed = asyncio.Event()
        membership = self._membership = Membership(self._settings, self._group, list(self._tasks), changed.set)
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await changed.wait()
                changed.clear()
                self._reconcile(membership.assigned)
                membership.alive({place: slot.standing() for place, slot in self._slots.items()})
        finally:
            self._reconcile(frozenset())
            try:
                if self._leaving:
                    await asyncio.wait(self._leaving.values())
            finally:
                await membership.leave()

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
        member = self._membership
        waiting, away = (self._waiting, None) if member is None else (None, member.away)
        if member is not None and not member.given:
            waiting = f"for group {self._group} to share out the partitions"
        elif member is not None and member.assigned - self._slots.keys():
            waiting = "for the tasks of its partitions to begin"
        return WorkerReport(group=self._group, broker=self._settings.bootstrap, away=away, waiting=waiting, tasks=tasks)

    def _reconcile(self, assigned: Assigned) -> None:
        """Starts what is assigned and not there, stops what is there and not assigned."""
        for place in [place for place in self._slots if place not in assigned]:
            keeper = self._slots.pop(place).keeper
            assert keeper is not None
            keeper.cancel()
            self._leaving[place] = keeper
            keeper.add_done_callback(functools.partial(self._left, place))
        for place in sorted(assigned - self._slots.keys()):
            slot = self._slots[place] = _Slot()
            before = self._leaving.get(place)
            slot.keeper = asyncio.create_task(self._keep(slot, *place, before), name="/".join(map(str, place)))

    def _left(self, place: tuple[str, int], keeper: asyncio.Task[None]) -> None:
        if self._leaving.get(place) is keeper:
            del self._leaving[place]
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            log.error("%s/%d: a task did not end well: %r", *place, error)

    async def _keep(self, slot: _Slot, topic: str, partition: int, before: asyncio.Task[None] | None) -> None:
        """Runs tasks for one partition, one after the other, until cancelled; `before` ends first."""
        if before is not None:
            await asyncio.wait({before})
        place = f"{topic}/{partition}"
        backoff = Backoff(*BACKOFF_SECONDS, spread=0.5)
        while True:
            started = time.monotonic()
            wait: Callable[[], Awaitable[None]] = backoff.wait
            try:
                slot.task = self._tasks[topic](topic, partition)
                await slot.task.run()
                slot.done()
                return
            except Refused as error:
                reason = "refused"
                slot.note(logging.ERROR, str(error), ended="refused")
                wait = functools.partial(asyncio.sleep, REFUSED_SECONDS)
            except Fenced as error:
                reason = "fenced"
                slot.note(logging.WARNING, str(error))
                backoff.at_least(FENCED_SECONDS)
            except HeadraceError as error:
                reason = _REASONS.get(type(error), "error")
                slot.note(logging.WARNING, str(error))
            except (Exception, asyncio.CancelledError) as error:  # a bug must not take the other partitions with it
                if isinstance(error, asyncio.CancelledError) and cancelled_by_somebody():
                    raise
                reason = "error"
                slot.note(logging.ERROR, f"{place}: {type(error).__name__}: {error}", traceback=error)
            if cancelled_by_somebody():  # while it closed, and what closed took that for its own
                return
            _restarted(topic, reason)
            slot.restarts += 1
            if reason not in ("fenced", "refused"):
                slot.restarted.append(time.monotonic())
            if time.monotonic() - started > HEALTHY_SECONDS:
                backoff.reset()
                slot.healthy()
            await wait()
