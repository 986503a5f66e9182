"""The worker's observer: once a minute it looks who is missed, and says it on `assessments`. Knows the log and the clock, no rule
of who is missed (silences.py), and decides nothing: no stage reads what it writes.

Of all worker processes the one that has the first partition of `signals` reads the traffic; every one looks after its own tasks.
It reads what came since the last minute, a tenth of the time at the most, or half of it once a look takes longer than the minute,
and puts its table on the log now and then, so that the next process goes on with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from headrace_processors.observer.policy import SilencePolicy
from headrace_processors.observer.silences import TaskSamples, task_silences, traffic_silences
from headrace_processors.observer.traffic import Traffic, fold_traffic
from headrace_schemas.cloudevents import STRUCTURED
from headrace_schemas.codec import encode
from headrace_schemas.derived import Silence, SilenceEnd, TrafficSnapshot
from headrace_schemas.events import Event, SilenceEnded, SilenceRaised, TrafficObserved, make
from headrace_schemas.ids import derive_id
from headrace_schemas.topics import DAY_MS, HOUR_MS, OBSERVER, key_of
from headrace_schemas.topology import STAGES_BY_NAME
from headrace_streams.kafka.publisher import publishing
from headrace_streams.kafka.reader import OffsetOutOfRangeError, Reader, Span, event_of
from headrace_streams.runtime.status import WorkerReport
from headrace_streams.settings import Settings
from headrace_streams.silences import TOPIC, SilenceBook, counts

log = logging.getLogger("headrace.observer")

LOOK_SECONDS = 60.0
SNAPSHOT_SECONDS = 600.0
SNAPSHOT_BYTES = 1_900_000  # what a record of the topic may have, and some
LOOK_BACK_MS = DAY_MS  # of traffic, where nobody has left a table
READS = ("signals", "examples", "releases.history")
SHARE = 0.1  # of the time that reading may take
HURRY = 0.5  # of the time, once a look is late: with a tenth it would fall behind more and more, and miss whom it has not come to
_OF_TASKS = ("lag_grows", "feedback_unjoined")
Places = dict[tuple[str, int], int]


class SilenceObserver:
    """`report`: what the worker says of itself; `base_of`: which base learns of (artifact type, model, role)."""

    def __init__(
        self,
        settings: Settings,
        policy: SilencePolicy,
        base_of: Callable[[str, str, str | None], str],
        report: Callable[[], WorkerReport],
    ) -> None:
        self._policy, self._base_of, self._report = policy, base_of, report
        self._reader = Reader(settings)
        self._settings = settings
        self._book = SilenceBook()
        self._book_at: Places | None = None
        self._snapshot: TrafficSnapshot | None = None
        self._traffic: Traffic | None = None
        self._traffic_at: Places = {}
        self._tasks: dict[str, TaskSamples] = {}
        self._kept_at = 0.0

    @property
    def counts(self) -> Mapping[str, int]:
        """How many of each kind are open and not muted; empty where another process looks."""
        return counts(self._book, _now_ms()) if self._traffic is not None else {}

    async def run(self) -> None:
        """Looks until it is cancelled. What keeps it from looking is said once, and looked at again a minute later."""
        said = ""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
                said = ""
            except Exception as error:  # whatever it is: an observer that has ended is missed by nobody
                line = f"{type(error).__name__}: {error}"
                if line != said:
                    log.warning("nobody looks who is silent: %s", " ".join(line.split()))
                said = line

    async def look(self) -> None:
        """One look: what came since, who is missed now, and what is said of it."""
        report, now_ms = self._report(), _now_ms()
        await self._read_book()
        mine = self._sample(report, now_ms)
        missed = list(task_silences(mine, self._policy, self._book))
        has_first = any(slot.topic == "signals" and slot.partition == 0 and slot.task is not None for slot in report.tasks)
        if has_first:
            await self._read_traffic(now_ms)
            assert self._traffic is not None
            missed += traffic_silences(self._traffic, self._policy, now_ms, self._book)
        else:
            self._traffic = None
        found = {(silence.kind, silence.subject): silence for silence in missed}
        ended = [
            each.silence
            for each in self._book
            if (each.silence.kind, each.silence.subject) not in found
            and (each.silence.subject in mine if each.silence.kind in _OF_TASKS else has_first)
        ]
        if has_first:
            ended += await self._of_gone_tasks(mine)
        new = [silence for key, silence in found.items() if key not in self._book]
        events: list[Event] = [*map(_ended, ended), *map(_raised, new)]
        if has_first and time.monotonic() - self._kept_at > SNAPSHOT_SECONDS:
            self._kept_at = time.monotonic()
            kept = self._kept()
            if (size := len(encode(kept))) <= SNAPSHOT_BYTES:
                events.append(kept)
            else:
                log.warning("the table of traffic has %d bytes, too many for %s: the next process begins it anew", size, TOPIC)
        await self._say(events)

    def _sample(self, report: WorkerReport, now_ms: int) -> dict[str, TaskSamples]:
        """The samples of this process's running tasks, this look's included."""
        mine = {}
        for slot in report.tasks:
            if (task := slot.task) is not None and task.lag is not None:
                name = f"{task.stage}/{task.topic}/{task.partition}"
                samples = mine[name] = self._tasks.get(name, TaskSamples(samples=[]))
                waiting = task.counters.get("waiting", 0) if task.stage in ("link", "reward") else 0
                samples.add(now_ms, task.lag, waiting, round(self._policy.unjoined_hours * HOUR_MS))
        self._tasks = mine
        return mine

    async def _of_gone_tasks(self, mine: Container[str]) -> list[Silence]:
        """Open silences of tasks that there are none of any more, so that no process will ever look after them."""
        of_others = [each.silence for each in self._book if each.silence.kind in _OF_TASKS and each.silence.subject not in mine]
        if not of_others:
            return []
        topics = {topic for silence in of_others if (topic := topic_of_task(silence.subject)) is not None}
        there = set(await self._reader.offsets(sorted(topics))) if topics else set()
        return [silence for silence in of_others if is_gone(silence.subject, there)]

    async def _read_book(self) -> None:
        """What was raised, ended, muted and kept since the last look, by whomever."""
        spans = await self._reader.offsets([TOPIC])
        if self._book_at is None:
            self._book_at = {place: span.begin for place, span in spans.items()}
        self._book_at = await self._read(self._book_at, {place: span.end for place, span in spans.items()}, self._take)

    def _take(self, record: Any) -> None:
        if record.value is None or b'"headrace.bucket.' in record.value[:200]:
            return
        event = event_of(record)
        if isinstance(event, TrafficObserved):
            self._snapshot = event.data
        else:
            self._book.take(event)

    async def _read_traffic(self, now_ms: int) -> None:
        spans = await self._reader.offsets(READS)
        ends = {place: span.end for place, span in spans.items()}
        if self._traffic is None:
            self._traffic, self._traffic_at = await self._begin(spans, now_ms)
            self._kept_at = time.monotonic()
        traffic, swap_ms = self._traffic, round(self._policy.swap_minutes * 60_000)

        def fold(record: Any) -> None:
            fold_traffic(traffic, record.value, record.timestamp, self._base_of, swap_ms)

        try:
            releases = {place: end for place, end in ends.items() if place[0] == READS[2]}  # first: answers are held against them
            self._traffic_at = await self._read(self._traffic_at, releases, fold)
            self._traffic_at = await self._read(self._traffic_at, ends, fold)
        except OffsetOutOfRangeError:  # retention has passed it
            self._traffic, self._snapshot = None, None
            raise TimeoutError("what was to be read is no longer kept; it begins anew") from None

    async def _begin(self, spans: Mapping[tuple[str, int], Span], now_ms: int) -> tuple[Traffic, Places]:
        """The table that was left and where it stands, or an empty one a day ago; of releases all."""
        if self._snapshot is not None:
            try:
                traffic = msgspec.convert(self._snapshot.body, Traffic)
                places = {place: self._snapshot.offsets[f"{place[0]}/{place[1]}"] for place in spans}
            except (msgspec.ValidationError, KeyError):
                log.warning("the table of traffic on %s is of another form: it begins anew", TOPIC)
            else:
                if all(spans[place].begin <= offset <= spans[place].end for place, offset in places.items()):
                    return traffic, places
        places = await self._reader.offsets_at(READS[:2], now_ms - LOOK_BACK_MS)
        places |= {place: span.begin for place, span in spans.items() if place[0] == READS[2]}
        return Traffic(agents={}, raters={}, buckets={}), places

    async def _read(self, starts: Places, ends: Places, take: Callable[[Any], None]) -> Places:
        """Everything from `starts` to `ends`; where it came to."""
        ahead = {place: at for place, at in starts.items() if at < ends.get(place, at)}
        if not ahead:
            return starts
        reached, began = dict(starts), time.monotonic()
        async with aclosing(self._reader.read_on(ahead, {place: ends[place] for place in ahead})) as fetched:
            async for records, positions in fetched:
                begun = time.perf_counter()
                for record in records:
                    take(record)
                reached |= positions
                await asyncio.sleep(pause_after(time.perf_counter() - begun, time.monotonic() - began))
                if all(reached[place] >= ends[place] for place in ahead):
                    break
        return reached

    def _kept(self) -> TrafficObserved:
        offsets = {f"{topic}/{partition}": offset for (topic, partition), offset in self._traffic_at.items()}
        body = msgspec.to_builtins(self._traffic)
        data = TrafficSnapshot(subject="traffic", offsets=offsets, body=body)
        return make(TrafficObserved, data, id=derive_id("traffic", _now_ms()), writer=OBSERVER, time_ms=_now_ms())

    async def _say(self, events: Sequence[Event]) -> None:
        if not events:
            return
        async with publishing(self._settings, TOPIC) as publisher:
            await asyncio.gather(
                *[await publisher.send(TOPIC, key_of(TOPIC, event), encode(event), headers=[STRUCTURED]) for event in events]
            )
        for event in events:
            self._book.take(event)


def pause_after(worked: float, since: float) -> float:
    """Seconds to leave to others after so many of work, where reading began `since` seconds ago."""
    return worked * (1 / (HURRY if since > LOOK_SECONDS else SHARE) - 1)


def topic_of_task(name: str) -> str | None:
    """The topic of a task `stage/topic/partition`, None where no stage is called so, or reads such a topic."""
    stage, _, rest = name.partition("/")
    topic = rest.rpartition("/")[0]
    topology = STAGES_BY_NAME.get(stage)
    return topic if topology is not None and topic in topology.inputs else None


def is_gone(name: str, there: Container[tuple[str, int]]) -> bool:
    """Whether there is no task of that name in this topology, `there` being the partitions of its topics."""
    topic, number = topic_of_task(name), name.rpartition("/")[2]
    return topic is None or not number.isdecimal() or (topic, int(number)) not in there


def _raised(silence: Silence) -> SilenceRaised:
    key = derive_id("silence.raised", silence.kind, silence.subject, silence.since, _now_ms())
    return make(SilenceRaised, silence, id=key, writer=OBSERVER, time_ms=_now_ms())


def _ended(silence: Silence) -> SilenceEnded:
    data = SilenceEnd(kind=silence.kind, subject=silence.subject, since=silence.since)
    key = derive_id("silence.ended", silence.kind, silence.subject, silence.since, _now_ms())
    return make(SilenceEnded, data, id=key, writer=OBSERVER, time_ms=_now_ms())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
