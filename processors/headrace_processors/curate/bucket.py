"""One bucket during one step: every way in which its members, sums and counts change. Knows no event and no filter.

The bucket is loaded once, changed by these methods, and stored once, at the end of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import fsum
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from headrace_processors.curate import thresholds
from headrace_processors.curate.drift import UNTESTED
from headrace_processors.curate.manifest import Cause
from headrace_processors.curate.near_duplicates import bands
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.curate.state import (
    BUCKET,
    EMPTY,
    FILLING,
    POOLS,
    WAITING,
    CurateBucket,
    CurateState,
    ExampleRecord,
    Queue,
    QueueBounds,
    Sums,
    near_key_of,
)
from headrace_processors.decay import RunningSum, floored, weights
from headrace_schemas.topics import DAY_MS

TRAIN: Queue = "train"
NEGATIVE: Queue = "negative"
SPARSE = 100  # empty slots that a queue may have beyond as many as it has members


class CutAttempt(Struct, frozen=True):
    """What a look at all members found, where a bucket came so far: `shared_fill`, the fill within the share that each principal
    may have; whether one is on the train side; how many were in no batch yet, and how many must; the batch that was cut."""

    shared_fill: float | None = None
    trainable: bool | None = None
    fresh: int | None = None
    fresh_wanted: float | None = None
    batch_id: str | None = None


NOT_TRIED = CutAttempt()


class CutConditions(NamedTuple):
    """Which of the conditions hold without which nobody looks at the members of a bucket to cut it. One more is that what is
    served is not good enough yet (`is_good`)."""

    opened: bool
    fill: bool
    test_rows: bool
    requirements: bool


class WorkingBucket:
    """A bucket and its members; `value` is the bucket as it would be stored now."""

    def __init__(self, policy: CuratePolicy, state: CurateState, name: str, now_ms: int) -> None:
        self.name = name
        stored: CurateBucket | None = state.get(BUCKET + name)
        self._is_new = stored is None
        self.value = CurateBucket(name) if stored is None else replace(stored)
        self.attempt = NOT_TRIED
        self.bands = b"", b""  # a sketch, and its bands, where they are known
        self._policy, self._state, self._now_ms = policy, state, now_ms

    def store(self) -> None:
        self._state.put_bucket(self.value, is_new=self._is_new)

    def members(self, queue: Queue) -> Iterator[tuple[str, ExampleRecord]]:
        """Oldest first. Only for cuts, drops and removals: it costs what the queue holds."""
        bounds = self._bounds(queue)
        return self._state.in_slots(self.name, queue, range(bounds.first, bounds.next))

    def oldest(self, queue: Queue) -> tuple[str, ExampleRecord]:
        return next(self.members(queue))

    def size(self, queue: Queue) -> int:
        return self._bounds(queue).size

    def add(self, example_id: str, record: ExampleRecord) -> None:
        """Puts an example (status open or of a pool) at the end of its queue; opens the bucket if it is not and may be."""
        queue, value = record.queue, self.value
        assert queue is not None
        bounds = self._bounds(queue)
        self._state.put_slot(self.name, queue, bounds.next, example_id)
        self._state.put_holder(record.content, example_id)
        self._state.count_target(example_id, record, 1)
        admitted = record.admitted or queue in (*FILLING, *POOLS)
        self._state.put_example(self.name, example_id, replace(record, slot=bounds.next, admitted=admitted))
        if record.sketch:
            self._index(example_id, record)
        if queue in FILLING:
            self.open()
        if queue == "train":
            sums = value.sums if bounds.size else (RunningSum(), RunningSum())
            value.sums = _added(sums, record.time_ns, self._policy.decay_per_day)
            value.fill = self._fill(value.sums, bounds.size + 1)
        grown = QueueBounds(bounds.first if bounds.size else bounds.next, bounds.next + 1, bounds.size + 1)
        setattr(value, queue, grown)
        if admitted and not record.admitted:
            value.admitted += 1
            if self._policy.rarity is not None:
                value.recent = self._recent_with_one_more()

    def replace_revision(self, example_id: str, old: ExampleRecord, new: ExampleRecord) -> None:
        """Puts a newer revision into the slot of the older one, which stands in the same queue."""
        if old.content != new.content:
            self._state.put_holder(old.content, None)
            self._state.put_holder(new.content, example_id)
            self._state.count_target(example_id, old, -1)
            self._state.count_target(example_id, new, 1)
        self._state.put_example(self.name, example_id, replace(new, slot=old.slot, admitted=old.admitted))
        if (old.sketch, old.near_key) != (new.sketch, new.near_key):
            self._unindex(example_id, old)
            self._index(example_id, new)
        if new.queue == "train" and old.time_ns != new.time_ns:
            self.recompute_sums()

    def remove(self, example_id: str, old: ExampleRecord | None, rest: ExampleRecord) -> None:
        """Takes the older revision of an example, if there is one, out of its queue, if it is in one, and its content with it;
        `rest` is what is remembered of it."""
        self._state.put_example(self.name, example_id, rest if rest.slot == -1 else replace(rest, slot=-1))
        if old is None:
            return
        if old.status in WAITING:
            self._change(waiting=self.value.waiting - 1)
        if old.content and self._state.holder(old.content) == example_id:
            self._state.put_holder(old.content, None)
            self._state.count_target(example_id, old, -1)
        queue = old.queue
        if queue is None:
            return
        self._state.put_slot(self.name, queue, old.slot, None)
        self._unindex(example_id, old)
        bounds = self._bounds(queue)
        first = bounds.first
        while first < bounds.next and self._state.slot(self.name, queue, first) is None:
            first += 1
        self._change(**{queue: QueueBounds(first, bounds.next, bounds.size - 1)})
        if bounds.next - first > 2 * bounds.size + SPARSE:
            self._compact(queue)
        if queue == "train":
            self._subtract(old.time_ns)
        if self.value.opened_ms is not None and not self.value.train.size + self.value.negative.size:
            self._close()

    def wait(self, example_id: str, old: ExampleRecord | None, record: ExampleRecord) -> None:
        """Keeps an example aside: it is in no queue, and its content may be another's."""
        self.remove(example_id, old, record)
        self._change(waiting=self.value.waiting + 1)

    def forget(self, example_id: str, old: ExampleRecord) -> None:
        """As if an example had never been."""
        self.remove(example_id, old, old)
        self._state.put_example(self.name, example_id, None)

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing stands in it and nothing ever came of it: another model name that somebody mistyped once."""
        value = self.value
        pools = value.test.size + value.validation.size + value.drawn.size + value.wrong.size
        members = value.train.size + value.negative.size + pools + value.waiting
        return not members and not value.batches and value.release_id is None

    def near(self, record: ExampleRecord) -> list[str]:
        """Open members of the same role and outcome that may be near-duplicates of an example."""
        return self._state.near(self.name, record.near_key).candidates(self._row(record))

    def leave_out(self, reason: str) -> None:
        """Counts an example that does not come into the next batch."""
        counts = dict(self.value.left_out)
        counts[reason] = counts.get(reason, 0) + 1
        self._change(left_out=tuple(sorted(counts.items())))

    def cut(self, members: Mapping[str, ExampleRecord], batch_id: str, mean_reward: float) -> None:
        """Closes the bucket, whose open `members` went into a batch. Those that did not open the next."""
        all_cut = len(members) == self.value.train.size + self.value.negative.size
        for role, right in {(record.role, record.right) for record in members.values() if all_cut}:
            self._state.put_near(self.name, near_key_of(role, right), None)
        name = bytes.fromhex(batch_id)
        for example_id, record in members.items():
            assert record.role is not None
            self._state.put_slot(self.name, record.role, record.slot, None)
            if not all_cut:
                self._unindex(example_id, record)
            self._state.put_example(self.name, example_id, replace(record, status="cut", slot=-1, batch_id=name, sketch=b""))
        rest = {queue: [] if all_cut else list(self.members(queue)) for queue in (TRAIN, NEGATIVE)}
        ends = {queue: self._bounds(queue).next for queue in rest}
        self._change(batches=self.value.batches + 1, last_reward=mean_reward, left_out=())
        if self.value.drifted:
            self._change(drifted=False, answers=UNTESTED)
        for queue, kept in rest.items():
            first = kept[0][1].slot if kept else ends[queue]
            self._change(**{queue: QueueBounds(first, ends[queue], len(kept))})
        self._close()
        if any(rest.values()):
            self.recompute_sums(dict(rest[TRAIN]))
            self.open()

    def count_trial(self, old: ExampleRecord | None, new: ExampleRecord) -> None:
        """Counts an answer of the bucket's own base as right or wrong, in place of what its older revision counted."""
        policy, value = self._policy, self.value
        per_day, epoch, trials, successes = policy.decay_per_day, value.serving_epoch, value.trials, value.successes
        if old is not None and old.serving_epoch == epoch:
            trials = trials.add(old.time_ns, per_day, -1.0)
            successes = successes.add(old.time_ns, per_day, -1.0) if old.success else successes
        if new.serving_epoch == epoch:
            trials = trials.add(new.time_ns, per_day)
            successes = successes.add(new.time_ns, per_day) if new.success else successes
        if trials is not value.trials and (trials, successes) != (value.trials, value.successes):
            value.trials, value.successes = trials, successes
            value.good = policy.good_enough_margin > 0 and self.is_good
        if policy.drift is not None and new.serving_epoch == epoch and (old is None or old.serving_epoch != epoch):
            value.answers = value.answers.add(new.success, policy.drift)
            value.drifted = value.drifted or value.answers.alarm

    def track(self, release_id: str, satisfied: bool) -> None:
        """What is served, and whether it meets all requirements. Another release starts another epoch without evidence."""
        if release_id != self.value.release_id:
            epoch = self.value.serving_epoch + 1
            none = RunningSum()
            self._change(release_id=release_id, serving_epoch=epoch, trials=none, successes=none, good=False)
            self._change(answers=UNTESTED, drifted=False)
        self._change(satisfied=satisfied)

    def mark_aged(self) -> None:
        self._change(aged=True, due_ms=None)

    def open(self) -> None:
        """Fixes its target, if it is not open already. A bucket whose base neither policy nor a release names waits: nobody could
        train it."""
        value = self.value
        if value.opened_ms is not None or not may_open(self._policy, value):
            return
        due_ms = self._now_ms + round(self._policy.age_limit_days * DAY_MS)
        self._state.add_deadline(due_ms, self.name)
        target = thresholds.target(self._policy, self.name, value.admitted, value.last_reward)
        self._change(target=target, opened_ms=self._now_ms, aged=False, due_ms=due_ms)

    @property
    def is_rare(self) -> bool:
        """Whether it got far fewer examples of late than the median bucket of the partition."""
        day = self._now_ms // DAY_MS
        return thresholds.is_rare(self.value.admitted_since(day - thresholds.RECENT_DAYS), self._state.median(day))

    def fill_of(self, records: Iterable[ExampleRecord]) -> float:
        """What some of its members would fill it to."""
        times = [record.time_ns for record in records]
        return self._fill(self._sums(times), len(times))

    def recompute_sums(self, members: Mapping[str, ExampleRecord] | None = None) -> None:
        """Sums and fill anew from the filling members (`members`, when the caller has them)."""
        records = dict(self.members("train")) if members is None else members
        sums = self._sums([record.time_ns for record in records.values()])
        self._change(sums=sums, fill=self._fill(sums, len(records)), removals=0)

    def _change(self, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self.value, name, value)

    def _bounds(self, queue: Queue) -> QueueBounds:
        bounds: QueueBounds = getattr(self.value, queue)
        return bounds

    def _close(self) -> None:
        if self.value.due_ms is not None:
            self._state.drop_deadline(self.value.due_ms, self.name)
        self._change(opened_ms=None, aged=False, due_ms=None, fill=EMPTY, removals=0, sums=(RunningSum(), RunningSum()))

    def _recent_with_one_more(self) -> tuple[tuple[int, int], ...]:
        day, recent = self._now_ms // DAY_MS, self.value.recent
        if recent and recent[-1][0] == day and recent[0][0] > day - thresholds.RECENT_DAYS:  # as it mostly is
            return (*recent[:-1], (day, recent[-1][1] + 1))
        days = [(at, count) for at, count in recent if at > day - thresholds.RECENT_DAYS]
        if days and days[-1][0] == day:
            days[-1] = day, days[-1][1] + 1
        else:
            days.append((day, 1))
        return tuple(days)

    def _index(self, example_id: str, record: ExampleRecord) -> None:
        if record.sketch:
            index = self._state.near(self.name, record.near_key)
            self._state.put_near(self.name, record.near_key, index.add(example_id, self._row(record)))

    def _row(self, record: ExampleRecord) -> bytes:
        """The bands of its sketch: what is looked for in an index is mostly put into it then."""
        if self.bands[0] != record.sketch:
            self.bands = record.sketch, bands(record.sketch)
        return self.bands[1]

    def _unindex(self, example_id: str, record: ExampleRecord) -> None:
        if record.sketch:
            index = self._state.near(self.name, record.near_key)
            self._state.put_near(self.name, record.near_key, index.remove(example_id))

    @property
    def wanted(self) -> tuple[float, Cause]:
        """The fill at which it is cut now, and what lowered it."""
        return wanted(self._policy, self.value, lambda: self.is_rare)

    @property
    def is_good(self) -> bool:
        """Whether what is served is good enough that nothing is cut; once it is, until its rate falls by `good_enough_margin`."""
        return is_good(self._policy, self.value)

    def _sums(self, times: Sequence[int]) -> Sums:
        shares, newest = weights(times, self._policy.decay_per_day), max(times, default=0)
        return RunningSum(fsum(shares), newest), RunningSum(fsum(share * share for share in shares), newest)

    def _subtract(self, time_ns: int) -> None:
        """Takes a weight back from the running sums. Where little is left of them rounding errors would be all there is, and
        after many times they would count: then anew, which costs little on average."""
        before = self.value.sums
        sums = _added(before, time_ns, self._policy.decay_per_day, -1.0)
        removals, size = self.value.removals + 1, self.value.train.size
        if removals > size or any(after.value < was.value / 2 for after, was in zip(sums, before, strict=True)):
            self.recompute_sums()
        else:
            self._change(sums=sums, fill=self._fill(sums, size), removals=removals)

    def _compact(self, queue: Queue) -> None:
        """Moves members together: one that stays while many come and go must not make the queue long."""
        members = list(self.members(queue))
        start = self._bounds(queue).next
        for number, (example_id, record) in enumerate(members, start):
            self._state.put_slot(self.name, queue, record.slot, None)
            self._state.put_slot(self.name, queue, number, example_id)
            self._state.put_example(self.name, example_id, replace(record, slot=number))
        self._change(**{queue: QueueBounds(start, start + len(members), len(members))})

    def _fill(self, sums: Sums, count: int) -> float:
        if self._policy.threshold == "tiered":
            return float(count)
        total, squares = floored(sums[0].value, sums[1].value, count, self._policy.decay_floor)
        # To a thousandth: 64 examples of one hour are worth 64, although decay sees them a little apart.
        return round(total**2 / squares, 3) if sums[1].value > 0 else EMPTY


def conditions_of(policy: CuratePolicy, value: CurateBucket, wanted: float) -> CutConditions:
    """`wanted`: the fill at which it is cut now."""
    opened = value.opened_ms is not None
    test_rows = value.aged or value.test.size >= policy.min_test_pool
    return CutConditions(opened, opened and value.fill >= wanted, test_rows, not value.satisfied)


def may_open(policy: CuratePolicy, value: CurateBucket) -> bool:
    """Whether policy or a release names its base."""
    return policy.names(value.base, value.name) or value.release_id is not None


def wanted(policy: CuratePolicy, value: CurateBucket, is_rare: Callable[[], bool]) -> tuple[float, Cause]:
    """`WorkingBucket.wanted` of a bucket as it is stored; `is_rare` is asked where it would lower the fill."""
    found: tuple[float, Cause] = value.target, "target"
    if value.aged or value.drifted:
        found = min(value.target, policy.aged_target), "drift" if value.drifted else "age"
    if policy.rarity is None or value.opened_ms is None or not policy.rarity * value.target <= value.fill < found[0]:
        return found
    return (policy.rarity * value.target, "rarity") if is_rare() else found


def good_from(policy: CuratePolicy, value: CurateBucket) -> float:
    """The success rate from which on what is served is good enough."""
    return policy.good_enough - (policy.good_enough_margin if value.good else 0.0)


def is_good(policy: CuratePolicy, value: CurateBucket) -> bool:
    """`WorkingBucket.is_good` of a bucket as it is stored."""
    successes, trials = value.evidence(policy.decay_per_day)
    if trials < policy.good_enough_evidence:
        return False
    least = good_from(policy, value)
    if 0.0 <= successes < (least - 1e-6) * trials:  # whatever rounding does to the rate
        return False
    rate, _ = value.success_rate(policy.decay_per_day)
    return rate is not None and rate >= least


def _added(sums: Sums, time_ns: int, per_day: float, amount: float = 1.0) -> Sums:
    return sums[0].add(time_ns, per_day, amount), sums[1].add(time_ns, per_day * per_day, amount)
