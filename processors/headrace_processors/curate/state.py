"""State of curate: buckets, their open members and the examples known, and every way in which they change. Knows no event.

A bucket is one small value; its members stand in numbered slots, so that an example that comes or goes writes a few small
values whatever the size of the bucket. `Shelf` collects the changes of one step and leaves the state as it was.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Mapping
from math import fsum
from typing import Any, Literal

from msgspec import Struct, json
from msgspec.structs import replace

from headrace_processors.curate import thresholds
from headrace_processors.curate.filters import Role
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.decay import RunningSum, weights
from headrace_schemas.canonical import rounded

DAY_MS = 86_400_000
DEADLINES = "deadlines"  # state key: (fold time in ms, bucket) of every open bucket that can still grow old, ascending

Status = Literal["open", "test", "cut", "past", "rejected", "withdrawn", "retracted", "erased"]
Queue = Literal["train", "negative", "test"]
Deadlines = tuple[tuple[int, str], ...]
Sums = tuple[RunningSum, RunningSum]
SPARSE = 100  # empty slots that a queue may have beyond as many as it has members


class Slots(Struct, frozen=True):
    """Members in order of arrival: slots `first` to `next` - 1, of which `size` are taken."""

    first: int = 0
    next: int = 0
    size: int = 0


class Known(Struct, frozen=True, omit_defaults=True):
    """What curate remembers of an example. Of one that was withdrawn: revision and status, nothing that came from its texts.

    `status`: open (in a bucket), test (in the test pool), cut (in batch `batch_id`), past (left the pool, which is full),
    rejected, withdrawn (may come again), retracted and erased (may not). `time_ns` is event time.
    """

    revision: int
    status: Status
    interaction_id: str = ""
    role: Role | None = None
    split: Literal["train", "validation", "test"] = "train"
    slot: int = -1
    content: str = ""  # name of its content among the bucket's
    reward: float = 0.0
    balance: float = 1.0
    difficulty: float = 0.0
    time_ns: int = 0
    sha256: str = ""  # of the record's value
    offset: int = -1
    batch_id: str | None = None
    box: str = ""  # where its input record was counted
    admitted: bool = False  # ever, to this bucket
    era: int = -1  # of the bucket, when the answer was counted among those judged
    success: bool = False

    @property
    def queue(self) -> Queue | None:
        return "test" if self.status == "test" else self.role if self.status == "open" else None


class Bucket(Struct, frozen=True, omit_defaults=True):
    """`fill` of `target` is what a reader wants to see; of a closed bucket, `target` is the last one.

    `sums`: Σw and Σw² over the decay weights of the filling members.

    `judged` and `won` count answers of the bucket's own base in this `era`: the time since what is served last changed.
    """

    name: str
    admitted: int = 0  # distinct examples, ever
    fill: float = 0.0
    target: float = 0.0
    opened_ms: int | None = None
    aged: bool = False
    train: Slots = Slots()
    negative: Slots = Slots()
    test: Slots = Slots()
    sums: Sums = (RunningSum(), RunningSum())
    removals: int = 0  # of filling members since the sums were last computed anew
    batches: int = 0
    last_reward: float | None = None
    satisfied: bool = False
    release_id: str | None = None
    era: int = 0
    judged: RunningSum = RunningSum()
    won: RunningSum = RunningSum()

    @property
    def base(self) -> str:
        return self.name.partition("/")[2]

    @property
    def artifact_type(self) -> str:
        return self.name.partition("/")[0]

    def success(self, per_day: float) -> tuple[float | None, float]:
        """Decayed success rate of what is served, None without evidence, and the decayed number of answers behind it."""
        newest = max(self.judged.newest_ns, self.won.newest_ns)
        judged = self.judged.at(newest, per_day)
        if judged < 0.5:  # taking back what a revision changed leaves rounding noise behind
            return None, 0.0
        return rounded(min(max(self.won.at(newest, per_day) / judged, 0.0), 1.0)), judged


class Shelf:
    """The state with the changes of one step on top. Callers pass examples by id and get immutable values back."""

    def __init__(self, policy: CuratePolicy, state: Mapping[str, Any], now: int) -> None:
        self.policy = policy
        self.now = now
        self.changes: dict[str, Any] = {}
        self._state = state

    def get(self, key: str) -> Any:
        return self.changes[key] if key in self.changes else self._state.get(key)

    def put(self, key: str, value: Any) -> None:
        self.changes[key] = value

    def bucket(self, name: str) -> Bucket:
        found: Bucket | None = self.get(f"bucket:{name}")
        return Bucket(name) if found is None else found

    def known(self, bucket: str, example_id: str) -> Known | None:
        found: Known | None = self.get(_example(bucket, example_id))
        return found

    def remember(self, bucket: str, example_id: str, known: Known) -> None:
        self.put(_example(bucket, example_id), known)

    def holder(self, content: str) -> str | None:
        """The example that has this content in its bucket."""
        found: str | None = self.get(f"content:{content}")
        return found

    def members(self, bucket: Bucket, queue: Queue) -> Iterator[tuple[str, Known]]:
        """Oldest first. Only for cuts, drops and removals: it costs what the queue holds."""
        slots: Slots = getattr(bucket, queue)
        for number in range(slots.first, slots.next):
            example_id = self.get(_slot(bucket.name, queue, number))
            if example_id is not None:
                found = self.known(bucket.name, example_id)
                assert found is not None, f"slot {number} of {bucket.name} names {example_id}, which is not known"
                yield example_id, found

    def add(self, bucket: Bucket, example_id: str, known: Known) -> Bucket:
        """Puts an example (status open or test) at the end of its queue; opens the bucket when it is the first."""
        queue = known.queue
        assert queue is not None
        slots: Slots = getattr(bucket, queue)
        self.put(_slot(bucket.name, queue, slots.next), example_id)
        self.put(f"content:{known.content}", example_id)
        self.remember(bucket.name, example_id, replace(known, slot=slots.next, admitted=True))
        if queue != "test" and bucket.opened_ms is None:
            bucket = self._open(bucket)
        if queue == "train":
            sums = _added(bucket.sums if slots.size else (RunningSum(), RunningSum()), known.time_ns, self.policy.decay_per_day)
            bucket = replace(bucket, sums=sums, fill=self._fill(sums, slots.size + 1))
        grown = Slots(slots.first if slots.size else slots.next, slots.next + 1, slots.size + 1)
        return _with(replace(bucket, admitted=bucket.admitted + (not known.admitted)), queue, grown)

    def renew(self, bucket: Bucket, example_id: str, old: Known, new: Known) -> Bucket:
        """Puts a newer revision into the place of the older one, which stands in the same queue."""
        if old.content != new.content:
            self.put(f"content:{old.content}", None)
            self.put(f"content:{new.content}", example_id)
        self.remember(bucket.name, example_id, replace(new, slot=old.slot, admitted=True))
        return self.summed(bucket) if new.queue == "train" and old.time_ns != new.time_ns else bucket

    def remove(self, bucket: Bucket, example_id: str, known: Known, left: Known) -> Bucket:
        """Takes an example out of its queue, if it is in one, and its content with it; `left` is what is remembered of it."""
        queue = known.queue
        if known.content and self.holder(known.content) == example_id:
            self.put(f"content:{known.content}", None)
        self.remember(bucket.name, example_id, replace(left, slot=-1))
        if queue is None:
            return bucket
        self.put(_slot(bucket.name, queue, known.slot), None)
        slots: Slots = getattr(bucket, queue)
        first = slots.first
        while first < slots.next and self.get(_slot(bucket.name, queue, first)) is None:
            first += 1
        bucket = _with(bucket, queue, Slots(first, slots.next, slots.size - 1))
        if slots.next - first > 2 * slots.size + SPARSE:
            bucket = self._compacted(bucket, queue)
        if queue == "train":
            bucket = self._lessened(bucket, known.time_ns)
        return bucket if bucket.opened_ms is None or bucket.train.size + bucket.negative.size else self._close(bucket)

    def oldest(self, bucket: Bucket, queue: Queue) -> tuple[str, Known]:
        return next(self.members(bucket, queue))

    def cut(self, bucket: Bucket, members: Mapping[str, Known], batch_id: str, mean_reward: float) -> Bucket:
        """Closes a bucket whose open `members` went into a batch."""
        for example_id, known in members.items():
            assert known.role is not None
            self.put(_slot(bucket.name, known.role, known.slot), None)
            self.remember(bucket.name, example_id, replace(known, status="cut", slot=-1, batch_id=batch_id))
        train, negative = Slots(bucket.train.next, bucket.train.next), Slots(bucket.negative.next, bucket.negative.next)
        bucket = replace(bucket, train=train, negative=negative, batches=bucket.batches + 1, last_reward=mean_reward)
        return self._close(bucket)

    def overdue(self) -> Iterator[Bucket]:
        """Buckets whose age limit has come, each once; marked as aged."""
        deadlines: Deadlines = self.get(DEADLINES) or ()
        while deadlines and deadlines[0][0] <= self.now:
            name = deadlines[0][1]
            deadlines = deadlines[1:]
            self.put(DEADLINES, deadlines or None)
            yield replace(self.bucket(name), aged=True)
            deadlines = self.get(DEADLINES) or ()

    def _open(self, bucket: Bucket) -> Bucket:
        deadlines = list(self.get(DEADLINES) or ())
        insort(deadlines, (self.now + round(self.policy.age_limit_days * DAY_MS), bucket.name))
        self.put(DEADLINES, tuple(deadlines))
        target = thresholds.target(self.policy, bucket.name, bucket.admitted, bucket.last_reward)
        return replace(bucket, target=target, opened_ms=self.now, aged=False)

    def _close(self, bucket: Bucket) -> Bucket:
        deadlines = tuple(entry for entry in self.get(DEADLINES) or () if entry[1] != bucket.name)
        if deadlines != (self.get(DEADLINES) or ()):
            self.put(DEADLINES, deadlines or None)
        return replace(bucket, opened_ms=None, aged=False, fill=0.0, removals=0, sums=(RunningSum(), RunningSum()))

    def summed(self, bucket: Bucket, members: Mapping[str, Known] | None = None) -> Bucket:
        """The bucket with sums and fill computed anew from its filling members (`members`, when the caller has them)."""
        found = dict(self.members(bucket, "train")) if members is None else members
        times = [known.time_ns for known in found.values()]
        shares = weights(times, self.policy.decay_per_day)
        newest = max(times, default=0)
        sums = RunningSum(fsum(shares), newest), RunningSum(fsum(share * share for share in shares), newest)
        return replace(bucket, sums=sums, fill=self._fill(sums, len(times)), removals=0)

    def _lessened(self, bucket: Bucket, time_ns: int) -> Bucket:
        """Takes a weight back from the running sums. Where little is left of them rounding errors would be all there is, and
        after many times they would count: then anew, which costs little on average."""
        per_day = self.policy.decay_per_day
        sums = _added(bucket.sums, time_ns, per_day, -1.0)
        removals, size = bucket.removals + 1, bucket.train.size
        if removals > size or any(left.value < was.value / 2 for left, was in zip(sums, bucket.sums, strict=True)):
            return self.summed(bucket)
        return replace(bucket, sums=sums, fill=self._fill(sums, size), removals=removals)

    def _compacted(self, bucket: Bucket, queue: Queue) -> Bucket:
        """Moves members together: one that stays while many come and go must not make the queue long."""
        listed = list(self.members(bucket, queue))
        slots: Slots = getattr(bucket, queue)
        for number, (example_id, known) in enumerate(listed, slots.next):
            self.put(_slot(bucket.name, queue, known.slot), None)
            self.put(_slot(bucket.name, queue, number), example_id)
            self.remember(bucket.name, example_id, replace(known, slot=number))
        return _with(bucket, queue, Slots(slots.next, slots.next + len(listed), len(listed)))

    def _fill(self, sums: Sums, count: int) -> float:
        if self.policy.threshold == "tiered":
            return float(count)
        # To a thousandth: 64 examples of one hour are worth 64, although decay sees them a little apart.
        return round(sums[0].value ** 2 / sums[1].value, 3) if sums[1].value > 0 else 0.0


def _added(sums: Sums, time_ns: int, per_day: float, amount: float = 1.0) -> Sums:
    return sums[0].add(time_ns, per_day, amount), sums[1].add(time_ns, per_day * per_day, amount)


def _with(bucket: Bucket, queue: Queue, slots: Slots) -> Bucket:
    if queue == "train":
        return replace(bucket, train=slots)
    return replace(bucket, negative=slots) if queue == "negative" else replace(bucket, test=slots)


def _example(bucket: str, example_id: str) -> str:
    return f"example:{bucket}:{example_id}"


def _slot(bucket: str, queue: Queue, number: int) -> str:
    return f"slot:{queue}:{number}:{bucket}"


_TYPES: dict[str, Any] = {"bucket": Bucket, "example": Known, "slot": str, "content": str, DEADLINES: Deadlines}


def load(key: str, value: bytes) -> Any:
    """ValueError when the key is none of curate's or the value is not what belongs to it."""
    kind = _TYPES.get(key.partition(":")[0])
    if kind is None:
        raise ValueError(f"state key: {key!r} is none of curate's")
    return json.decode(value, type=kind)


def describe_buckets(state: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """The buckets of a task's changelog, for people: name, fill, target, batches, test rows, and a note on what it waits for."""
    listed = sorted(key for key in state if key.startswith("bucket:"))
    return [_described(load(key, state[key])) for key in listed]


def _described(bucket: Bucket) -> dict[str, Any]:
    if bucket.satisfied:
        note = "all requirements are satisfied: nothing is cut"
    elif bucket.opened_ms is None:
        note = "nothing to learn from yet" if not bucket.batches else "no new example since the last batch"
    elif bucket.fill >= bucket.target:
        note = "full, not cut: good enough already, or too few rows in the test pool or the train split"
    elif bucket.aged:
        note = "past its age limit: cut when there is just enough"
    else:
        note = "filling"
    return {
        "bucket": bucket.name,
        "fill": bucket.fill,
        "target": bucket.target,
        "batches": bucket.batches,
        "examples": bucket.train.size,
        "negatives": bucket.negative.size,
        "test_rows": bucket.test.size,
        "note": note,
    }
