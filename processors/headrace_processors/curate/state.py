"""State of curate: buckets, their members and the examples known, as they stand on the log. Knows no event, decides nothing.

A bucket is one small value, an example another. Everything else is derived: who stands in a slot, who has a content, which
buckets can grow old and when, what near-duplicates are looked for among. `CurateState` collects the changes of one step and
leaves the state as it was. A `name=` is a field's name on the log.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, field, json, msgpack, to_builtins

from headrace_processors.curate.drift import UNTESTED, PageHinkley
from headrace_processors.curate.filters import Role
from headrace_processors.curate.near_duplicates import rows
from headrace_processors.curate.near_index import NearIndex
from headrace_processors.curate.thresholds import RECENT_DAYS
from headrace_processors.decay import RunningSum
from headrace_schemas.canonical import rounded

CONTENT = 16  # bytes of the name of a content
EMPTY = 0.0  # the fill of an empty bucket. msgspec leaves a default out when it is this very object, not when it is equal
DEADLINES = "~deadlines"  # derived: (fold time in ms, bucket) of every open bucket that can still grow old, ascending
BUCKETS = "~buckets"  # derived: the names of all buckets, ascending
BUCKET = "bucket:"  # begins the state keys of buckets
ASSESSED = "assessed:"  # and those of what was last said of buckets
MEDIAN = "median"  # state key of the RecentMedian
HOLDING = ("open", "test", "validation", "drawn", "cut")  # such an example has its content: another with the same is a duplicate

Split = Literal["train", "validation", "test"]
Status = Literal[
    "open", "test", "validation", "drawn", "waiting", "provisional", "cut", "past", "rejected", "withdrawn", "retracted", "erased"
]
WAITING: tuple[Status, ...] = ("waiting", "provisional")  # kept aside, in no queue
Queue = Literal["train", "negative", "test", "validation", "drawn", "wrong"]
FILLING: tuple[Queue, ...] = ("train", "negative")  # what opens a bucket, and goes into a batch when it is cut
POOLS: tuple[Queue, ...] = ("test", "validation")
Deadlines = tuple[tuple[int, str], ...]
Sums = tuple[RunningSum, RunningSum]


class QueueBounds(Struct, frozen=True):
    """Where a queue's members stand, in order of arrival: slots `first` to `next` - 1, of which `size` are taken."""

    first: int = 0
    next: int = 0
    size: int = 0


class ExampleRecord(Struct, frozen=True, array_like=True):
    """What curate remembers of an example, digests as bytes. Of one that was withdrawn: revision and status, nothing that came
    from its texts. On the log its fields stand by place: add at the end only.

    `status`: open (in a bucket), test and validation (in a pool; of role negative, which gives no reference, in one of prompts),
    drawn (a prompt), waiting (for another voice, or for time), provisional (waits until it is final), cut (in batch `batch_id`),
    past (left a full pool), rejected, withdrawn (may come again), retracted and erased (may not). `time_ns` is event time,
    `seen_ms` the fold time of the last record about it, 0 where rule version 1 wrote it.
    """

    revision: int
    status: Status
    interaction_id: str = ""
    role: Role | None = None
    split: Split = "train"
    slot: int = -1
    content: bytes = b""  # 16 that name its content among the bucket's; then 8 of its target, if that may be on one side only
    reward: float = 0.0
    balance: float = 1.0
    difficulty: float = 0.0
    time_ns: int = 0
    sha256: bytes = b""  # of the record's value
    offset: int = -1
    batch_id: bytes = b""
    counter: str = ""  # where its input record was counted
    admitted: bool = False  # ever, to this bucket
    serving_epoch: int = -1  # of the bucket, when the answer was counted among its trials
    success: bool = False
    seen_ms: int = 0
    again: bool = False  # an older revision of it was in a batch
    right: bool = False  # quality above 0. What was right and what was put right are different outcomes
    sketch: bytes = b""  # of prompt and target while it is open, where near-duplicates are looked for
    principals: tuple[str, ...] = ()  # people and agents that were heard, where policy gives each a share

    @property
    def near_key(self) -> str:
        """Which index it stands in, beside the bucket's name: near-duplicates have one role and one outcome."""
        return near_key_of(self.role, self.right)

    @property
    def queue(self) -> Queue | None:
        """The test side has three: rows with a reference, prompts that were drawn, prompts of examples that give no reference."""
        if self.status == "open":
            return self.role
        if self.status == "test":
            return "wrong" if self.role == "negative" else "test"
        return self.status if self.status == "validation" or self.status == "drawn" else None

    @property
    def target(self) -> bytes:
        """Names its target among the bucket's; empty where the target may stand on any side."""
        return self.content[CONTENT:]

    @property
    def is_learnt(self) -> bool:
        """Whether its target is on the train side: in a batch, or going to be."""
        return self.role == "train" and self.split == "train" and self.status in ("open", "cut")


def near_key_of(role: Role | None, right: bool) -> str:
    return f"{role}:{'right' if right else 'wrong'}"


class CurateBucket(Struct, omit_defaults=True):
    """A step changes a copy of its own, and puts that into the state at its end: most fields of it change at most steps.

    `fill` of `target` is what a reader wants to see; of a closed bucket, `target` is the last one.

    `sums`: Σw and Σw² over the decay weights of the filling members.

    `trials` and `successes` count answers of the bucket's own base in this `serving_epoch`: since what is served last changed;
    from rule version 3 on only of those that are for training.

    `due_ms`: fold time at which it is old, of an open bucket that is not. `left_out`: how many since the last cut, by reason.
    """

    name: str
    admitted: int = 0  # distinct examples, ever
    fill: float = EMPTY
    target: float = 0.0
    opened_ms: int | None = None
    aged: bool = False
    train: QueueBounds = QueueBounds()
    negative: QueueBounds = QueueBounds()
    test: QueueBounds = QueueBounds()
    sums: Sums = (RunningSum(), RunningSum())
    removals: int = 0  # of filling members since the sums were last computed anew
    batches: int = 0
    last_reward: float | None = None
    satisfied: bool = False
    release_id: str | None = None
    serving_epoch: int = field(name="era", default=0)
    trials: RunningSum = field(name="judged", default=RunningSum())
    successes: RunningSum = field(name="won", default=RunningSum())
    due_ms: int | None = field(name="due", default=None)
    left_out: tuple[tuple[str, int], ...] = ()
    waiting: int = 0  # examples
    good: bool = False  # enough that it is not cut, as its rate was when it last changed
    recent: tuple[tuple[int, int], ...] = ()  # (day of fold time, examples admitted), of the last 30 days
    answers: PageHinkley = UNTESTED  # of its own base, right or wrong, in this serving epoch
    drifted: bool = False  # its success rate fell since the last cut
    validation: QueueBounds = QueueBounds()
    drawn: QueueBounds = QueueBounds()
    wrong: QueueBounds = QueueBounds()

    @property
    def base(self) -> str:
        return self.name.partition("/")[2]

    @property
    def artifact_type(self) -> str:
        return self.name.partition("/")[0]

    def admitted_since(self, day: int) -> int:
        """Examples admitted after a day of fold time, of the last 30."""
        return sum(count for at, count in self.recent if at > day)

    def evidence(self, per_day: float) -> tuple[float, float]:
        """The decayed numbers of right answers and of all behind its success rate, seen from the newest of them."""
        trials, successes = self.trials, self.successes
        if trials.newest_ns == successes.newest_ns:
            return successes.value, trials.value
        newest = max(trials.newest_ns, successes.newest_ns)
        return successes.at(newest, per_day), trials.at(newest, per_day)

    def success_rate(self, per_day: float) -> tuple[float | None, float]:
        """Decayed success rate of what is served, None without evidence, and the decayed number of answers behind it."""
        successes, trials = self.evidence(per_day)
        if trials < 0.5:  # taking back what a revision changed leaves rounding noise behind
            return None, 0.0
        return rounded(min(max(successes / trials, 0.0), 1.0)), trials


_BUCKETS = msgpack.Decoder(CurateBucket)


class SplitMembers(Struct, frozen=True):
    """Which members have a target: how many on the train side, and which in the pools."""

    learnt: int = 0
    pooled: tuple[str, ...] = ()


NOBODY = SplitMembers()


class RecentMedian(Struct, frozen=True):
    """Examples admitted in 30 days to the median bucket. Kept for a day: it costs a look at every bucket."""

    day: int
    examples: float


class AssessedBucket(Struct, frozen=True, array_like=True):
    """What was last said of a bucket (assessed.py). `since_ms`: of each of its conditions, below 0 where that is not met;
    `pending`: something has changed since, and is said when a minute has passed."""

    at_ms: int
    fill: float
    since_ms: tuple[int, ...]
    pending: bool = False


class CurateState:
    """The state with the changes of one step on top."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.changes: dict[str, Any] = {}
        self._state = state

    def get(self, key: str) -> Any:
        return self.changes[key] if key in self.changes else self._state.get(key)

    def put(self, key: str, value: Any) -> None:
        """`value` None removes the key."""
        self.changes[key] = value

    def bucket(self, name: str) -> CurateBucket:
        bucket: CurateBucket | None = self.get(BUCKET + name)
        return CurateBucket(name) if bucket is None else bucket

    def has_bucket(self, name: str) -> bool:
        return self.get(BUCKET + name) is not None

    @property
    def buckets(self) -> tuple[str, ...]:
        """The names of all, ascending."""
        names: tuple[str, ...] = self.get(BUCKETS) or ()
        return names

    def put_bucket(self, bucket: CurateBucket, *, is_new: bool) -> None:
        if is_new:
            names = list(self.buckets)
            insort(names, bucket.name)
            self.put(BUCKETS, tuple(names))
        self.changes[BUCKET + bucket.name] = bucket

    def assessed(self, name: str) -> AssessedBucket | None:
        """What was last said of a bucket."""
        assessed: AssessedBucket | None = self.get(ASSESSED + name)
        return assessed

    def put_assessed(self, name: str, assessed: AssessedBucket) -> None:
        self.changes[ASSESSED + name] = assessed

    def drop_bucket(self, name: str) -> None:
        """Forgets a bucket, if there is one."""
        if self.assessed(name) is not None:
            self.put(ASSESSED + name, None)
        if self.has_bucket(name):
            self.put(BUCKET + name, None)
            self.put(BUCKETS, tuple(other for other in self.buckets if other != name) or None)

    def median(self, day: int) -> float:
        """Examples admitted in the last 30 days to the median bucket that got any, as it was first asked on this `day`."""
        known: RecentMedian | None = self.get(MEDIAN)
        if known is None or known.day != day:
            counts = (self.bucket(name).admitted_since(day - RECENT_DAYS) for name in self.buckets)
            known = RecentMedian(day, float(statistics.median([count for count in counts if count] or [0])))
            self.put(MEDIAN, known)
        return known.examples

    def example(self, bucket: str, example_id: str) -> ExampleRecord | None:
        record: ExampleRecord | None = self.get(key_of_example(bucket, example_id))
        return record

    def put_example(self, bucket: str, example_id: str, record: ExampleRecord | None) -> None:
        self.changes[key_of_example(bucket, example_id)] = record

    def holder(self, content: bytes) -> str | None:
        """The example that has this content in its bucket."""
        example_id: str | None = self.get(_content_key(content))
        return example_id

    def put_holder(self, content: bytes, example_id: str | None) -> None:
        self.changes[_content_key(content)] = example_id

    def target(self, name: bytes) -> SplitMembers:
        return self.get(_target_key(name)) or NOBODY

    def count_target(self, example_id: str, record: ExampleRecord, by: int) -> None:
        """An example comes to its target (1), or leaves it (-1)."""
        if not record.target:
            return
        key = _target_key(record.target)
        known: SplitMembers = self.get(key) or NOBODY
        if record.is_learnt:
            known = SplitMembers(known.learnt + by, known.pooled)
        elif record.queue in POOLS:
            others = {*known.pooled, example_id} if by > 0 else {*known.pooled} - {example_id}
            known = SplitMembers(known.learnt, tuple(sorted(others)))
        self.changes[key] = known if known.learnt or known.pooled else None

    def slot(self, bucket: str, queue: Queue, number: int) -> str | None:
        """The example in a slot."""
        example_id: str | None = self.get(_slot_key(bucket, queue, number))
        return example_id

    def in_slots(self, bucket: str, queue: Queue, numbers: Iterable[int]) -> Iterator[tuple[str, ExampleRecord]]:
        """The examples in those of the slots that are taken. A cut asks for hundreds, so it asks no other method."""
        changes, state = self.changes, self._state
        for number in numbers:
            key = _slot_key(bucket, queue, number)
            example_id = changes[key] if key in changes else state.get(key)
            if example_id is not None:
                key = f"example:{bucket}:{example_id}"
                record = changes[key] if key in changes else state.get(key)
                assert record is not None, f"slot {number} of {bucket} names {example_id}, which is not known"
                yield example_id, record

    def put_slot(self, bucket: str, queue: Queue, number: int, example_id: str | None) -> None:
        self.changes[_slot_key(bucket, queue, number)] = example_id

    def near(self, bucket: str, near_key: str) -> NearIndex:
        """The members of a bucket that have one role and outcome."""
        index: NearIndex | None = self.get(f"~near:{near_key}:{bucket}")
        return NearIndex() if index is None else index

    def put_near(self, bucket: str, near_key: str, index: NearIndex | None) -> None:
        self.changes[f"~near:{near_key}:{bucket}"] = index or None

    def add_deadline(self, due_ms: int, bucket: str) -> None:
        deadlines, entry = self._deadlines(), (due_ms, bucket)
        place = bisect_left(deadlines, entry)
        self._put_deadlines((*deadlines[:place], entry, *deadlines[place:]))

    def drop_deadline(self, due_ms: int, bucket: str) -> None:
        deadlines, entry = self._deadlines(), (due_ms, bucket)
        place = bisect_left(deadlines, entry)
        if deadlines[place : place + 1] == (entry,):
            self._put_deadlines(deadlines[:place] + deadlines[place + 1 :])

    def pop_overdue(self, now_ms: int, limit: int | None) -> Sequence[str]:
        """Buckets whose age limit has come, each once, the first `limit` of them."""
        deadlines = self._deadlines()
        if not deadlines or deadlines[0][0] > now_ms:  # as it mostly is
            return ()
        end = bisect_right(deadlines, now_ms, key=lambda entry: entry[0])
        end = end if limit is None else min(end, limit)
        self._put_deadlines(deadlines[end:])
        return [name for _, name in deadlines[:end]]

    def _deadlines(self) -> Deadlines:
        deadlines: Deadlines = self.get(DEADLINES) or ()
        return deadlines

    def _put_deadlines(self, deadlines: Deadlines) -> None:
        self.put(DEADLINES, deadlines or None)


def _content_key(content: bytes) -> str:
    return f"~content:{content[:CONTENT].hex()}"


def _target_key(target: bytes) -> str:
    return f"~target:{target.hex()}"


def _slot_key(bucket: str, queue: Queue, number: int) -> str:
    return f"~slot:{queue}:{number}:{bucket}"


def key_of_example(bucket: str, example_id: str) -> str:
    return f"example:{bucket}:{example_id}"


def example_key(key: str) -> tuple[str, str]:
    """Bucket and example id of a state key `example:…`."""
    bucket, _, example_id = key.removeprefix("example:").rpartition(":")
    return bucket, example_id


def derive(state: Mapping[str, Any]) -> dict[str, Any]:
    """The derived keys of a state that has none yet."""
    derived, deadlines, buckets = CurateState({}), [], []
    sketched: dict[tuple[str, str], dict[str, bytes]] = {}
    for key, value in state.items():
        if isinstance(value, CurateBucket):
            buckets.append(value.name)
            if value.due_ms is not None:
                deadlines.append((value.due_ms, value.name))
        if not isinstance(value, ExampleRecord):
            continue
        bucket, example_id = example_key(key)
        if value.content and value.status in HOLDING:
            derived.put_holder(value.content, example_id)
            derived.count_target(example_id, value, 1)
        if value.queue is not None:
            derived.put_slot(bucket, value.queue, value.slot, example_id)
        if value.sketch and value.status == "open":
            sketched.setdefault((bucket, value.near_key), {})[example_id] = value.sketch
    for (bucket, near_key), members in sketched.items():
        derived.put_near(bucket, near_key, NearIndex(dict(zip(members, rows(list(members.values())), strict=True))))
    if deadlines:
        derived.put(DEADLINES, tuple(sorted(deadlines)))
    if buckets:
        derived.put(BUCKETS, tuple(sorted(buckets)))
    return derived.changes


def bucket_of(value: bytes) -> CurateBucket:
    """A bucket of a changelog, of any version: until version 3 they were JSON, and no msgpack begins as that does."""
    return json.decode(value, type=CurateBucket) if value[:1] == b"{" else _BUCKETS.decode(value)


def describe_buckets(state: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """The buckets of a task's changelog, for people: name, fill, target, batches, test rows, a note on what it waits for, and
    the bucket as it is `recorded`."""
    listed = sorted(key for key in state if key.startswith(BUCKET))
    return [_described(bucket_of(state[key])) for key in listed]


def bucket_gauges(bucket: CurateBucket) -> dict[str, float]:
    """What is shown of a bucket while its task runs; `opened_timestamp_seconds` of an open one only."""
    gauges: dict[str, float] = {
        "fill": bucket.fill,
        "target": bucket.target,
        "examples": bucket.train.size,
        "test_rows": bucket.test.size,
        "batches": bucket.batches,
    }
    if bucket.opened_ms is not None:
        gauges["opened_timestamp_seconds"] = bucket.opened_ms / 1000
    return gauges


def _described(bucket: CurateBucket) -> dict[str, Any]:
    if bucket.satisfied:
        note = "all requirements are satisfied: nothing is cut"
    elif bucket.opened_ms is None and bucket.train.size + bucket.negative.size:
        note = "no policy and no release names its base: its examples are kept, nothing is cut"
    elif bucket.negative.size and not bucket.train.size:
        note = "nothing to learn from yet: wrong answers alone fill nothing"
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
        "recorded": to_builtins(bucket),
        "fill": bucket.fill,
        "target": bucket.target,
        "batches": bucket.batches,
        "examples": bucket.train.size,
        "negatives": bucket.negative.size,
        "test_rows": bucket.test.size,
        "prompts": bucket.drawn.size + bucket.wrong.size,
        "note": note,
    }
