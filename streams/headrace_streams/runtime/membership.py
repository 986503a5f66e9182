"""Membership of a consumer group in a thread of its own, so that nothing a stage does can cost it. Knows no stage and no task.

Which partitions the group gives this process is all that comes of it: nothing is read, and offsets are committed for those who
look at the group. Exactness does not rest on it (a task fences whoever had its partition), but members that lose their partitions
to each other again and again get nothing done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from headrace_schemas.root_error import HeadraceError
from headrace_streams.background import Background
from headrace_streams.cancellation import cancelled_by_somebody
from headrace_streams.kafka import clients, compat
from headrace_streams.kafka.clients import stop
from headrace_streams.settings import Settings

log = logging.getLogger("headrace")

POLL_MS = 500
HEARTBEAT_MS = 500  # how late a member learns that another has come or gone
MONITOR_SECONDS = 3.0
PATIENCE_SECONDS = 5.0  # without an answer to a commit: the broker counts as away
BLOCKED_SECONDS = 300.0  # without a sign of life of whoever uses the partitions: others shall have them
LEAVE_SECONDS = 15.0

Assigned = frozenset[tuple[str, int]]  # short topic names and partitions
Standing = tuple[int | None, str]  # what the group is told: the next offset (None: not known yet), a note on the task


class Membership:
    """A member of `group` over `topics` (short names) from its creation on. When `assigned` has changed, `changed` is called in
    the event loop that created it. `alive` must be called now and then."""

    def __init__(self, settings: Settings, group: str, topics: Sequence[str], changed: Callable[[], None]) -> None:
        self.assigned: Assigned = frozenset()  # short topic names and partitions
        self.given = False  # whether the group has said so
        self.away: str | None = None  # why the broker can't be reached
        self._settings, self._group, self._topics = settings, group, topics
        self._changed, self._owner = changed, asyncio.get_running_loop()
        self._standings: Mapping[tuple[str, int], Standing] = {}
        self._offsets: dict[tuple[str, int], int] = {}  # committed last
        self._alive = time.monotonic()
        self._member: Any = None
        self._thread = Background(group, self._run)

    def alive(self, standings: Mapping[tuple[str, int], Standing]) -> None:
        """Whoever uses the partitions is there; `standings`: what to let the group know of each."""
        self._standings, self._alive = standings, time.monotonic()

    async def leave(self) -> None:
        """Leaves the group, in bounded time."""
        if not await asyncio.to_thread(self._thread.stop, LEAVE_SECONDS):
            log.warning("group %s: did not leave within %g s", self._group, LEAVE_SECONDS)

    async def _run(self) -> None:
        compat.drop_lost_errors(asyncio.get_running_loop())
        try:
            while True:
                try:
                    await self._join()
                    await self._stay()
                except (Exception, asyncio.CancelledError) as error:
                    # A bug here would leave this process with partitions that the group has given to others.
                    if isinstance(error, asyncio.CancelledError) and cancelled_by_somebody():
                        raise
                    log.exception("group %s: joining again", self._group)
                    await asyncio.sleep(1.0)
                await self._part()
        finally:
            await self._part()

    async def _join(self) -> None:
        while True:
            member = clients.consumer(
                self._settings,
                group=self._group,
                auto_offset_reset="earliest",
                max_partition_fetch_bytes=1,
                heartbeat_interval_ms=HEARTBEAT_MS,
            )
            try:
                await clients.start(member)
                break
            except (HeadraceError, OSError) as error:
                self._says_away(str(error))
                await asyncio.sleep(1.0)
        self._member, self.given = member, False
        self._says_back()
        names = [clients.full_name(self._settings, topic) for topic in self._topics]
        member.subscribe(names, listener=_Listener(member, self._gave))

    async def _stay(self) -> None:
        """As long as the group has us and we are wanted. Everything is paused, so nothing comes."""
        monitored = time.monotonic()
        while time.monotonic() - self._alive < BLOCKED_SECONDS:
            try:
                await self._member.getmany(timeout_ms=POLL_MS)
            except KafkaError as error:  # the group refuses us: somebody has to look, but tasks that run may go on
                self._says_away(f"group {self._group}: {error!r}")
                await asyncio.sleep(1.0)
                if compat.has_left_for_good(self._member):
                    # It will never join again by itself, and meanwhile it claims partitions that the group gives to others.
                    return
            self._note(self._member.assignment())
            if time.monotonic() - monitored >= MONITOR_SECONDS:
                await self._monitor()
                monitored = time.monotonic()
        log.error("group %s: nothing has moved here for %g s: left to others", self._group, BLOCKED_SECONDS)
        await self._part()
        self._say(frozenset())
        while time.monotonic() - self._alive >= BLOCKED_SECONDS:  # noqa: ASYNC110 (a sign of life comes from another thread)
            await asyncio.sleep(1.0)

    async def _part(self) -> None:
        member, self._member = self._member, None
        if member is not None:
            await stop(member)

    def _gave(self, assignment: set[TopicPartition]) -> None:
        self.given = True
        self._note(assignment)

    def _note(self, assignment: set[TopicPartition]) -> None:
        assigned = frozenset((clients.short_name(self._settings, tp.topic), tp.partition) for tp in assignment)
        unpaused = assignment - self._member.paused()
        if unpaused:
            self._member.pause(*unpaused)
        if assigned != self.assigned:
            self._say(assigned)

    def _say(self, assigned: Assigned) -> None:
        self.assigned = assigned
        self._offsets = {place: offset for place, offset in self._offsets.items() if place in assigned}
        with contextlib.suppress(RuntimeError):  # the owner's loop has ended
            self._owner.call_soon_threadsafe(self._changed)

    async def _monitor(self) -> None:
        """Commits where the tasks stand and how they are; the answer also tells whether the broker is there. Of a task that has
        not come to its position the offset stays what it was."""
        standings = {place: standing for place, standing in self._standings.items() if place in self.assigned}
        if not standings:
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                offsets = {}
                for (topic, partition), (offset, note) in standings.items():
                    tp = TopicPartition(clients.full_name(self._settings, topic), partition)
                    if offset is None:
                        offset = self._offsets.get((topic, partition))
                    if offset is None:
                        offset = await self._member.committed(tp) or 0
                    self._offsets[topic, partition] = offset
                    offsets[tp] = (offset, note)
                await self._member.commit(offsets)
        except TimeoutError:
            self._says_away(f"no answer within {PATIENCE_SECONDS:g} s")
        except KafkaError as error:
            if error.retriable:
                self._says_away(repr(error))
        else:
            self._says_back()

    def _says_away(self, reason: str) -> None:
        if self.away is None:
            log.warning("waiting for the broker at %s: %s", self._settings.bootstrap, reason)
        self.away = reason

    def _says_back(self) -> None:
        if self.away is not None:
            log.info("the broker at %s answers", self._settings.bootstrap)
        self.away = None


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Pauses what is assigned before it is fetched, and says it at once. Nothing else: aiokafka swallows what it raises."""

    def __init__(self, member: Any, gave: Callable[[set[TopicPartition]], None]) -> None:
        self._member, self._gave = member, gave

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Tasks go on until the group has decided."""

    def on_partitions_assigned(self, assigned: Any) -> None:
        with contextlib.suppress(Exception):
            self._member.pause(*assigned)
            self._gave(set(assigned))
