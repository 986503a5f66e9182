"""Curate: which examples are worth learning, and when a bucket of them is worth a run. A pure fold over `examples`.

Decides in this order: is the revision new, is the example good for something (filters.py), is its content new; then a train row
of the test split goes to the bucket's test pool and everything else into the open bucket, which is cut when its fill reaches
the target (thresholds.py), unless what is served satisfies all requirements or is already good enough.

A duplicate is the later one; when the earlier leaves, the later comes in with its next revision. "Good enough" is asked of
answers by the bucket's own base since what is served last changed: how well another model does says nothing about the learner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec.structs import replace

from headrace_processors.curate import filters, manifest
from headrace_processors.curate import state as buckets
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.curate.state import DEADLINES, Bucket, Known, Queue, Shelf, Status
from headrace_processors.decay import RunningSum
from headrace_schemas.canonical import sha256
from headrace_schemas.codec import decode
from headrace_schemas.derived import Example, ExampleRejection, Supersession, Tracking, Withdrawal
from headrace_schemas.events import (
    BatchReady,
    ClockTicked,
    ExampleRejected,
    ExampleRewarded,
    ExampleSuperseded,
    ExampleWithdrawn,
    RequirementsTracked,
)
from headrace_schemas.ids import derive_id
from headrace_schemas.splits import split_of
from headrace_schemas.text import normalise, render
from headrace_schemas.times import parse_ns, rfc3339
from headrace_streams.runtime.stage import Fold, Record, Step, Write

SOURCE = "headrace:curate"
_GONE: dict[str, Status] = {"retracted": "retracted", "erased": "erased", "feedback_retracted": "withdrawn"}


class CurateFold(Fold):
    """The fold under one policy, as `stage.Fold` describes it. `examples` in; `rejections` and `batches` out."""

    def __init__(self, policy: CuratePolicy, digest: str) -> None:
        """`digest` is that of the policy body as recorded, which today's model need not have."""
        self._policy = policy
        self._rules = filters.rules(self._policy)
        self._digests = {"curate": digest}

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        event = decode(record.value, record.headers)
        turn = _Turn(self._policy, self._rules, self._digests, state, record, getattr(event, "traceparent", None))
        match event:
            case ExampleRewarded(data=example):
                turn.count(turn.rewarded(example))
            case ExampleWithdrawn(data=withdrawal):
                turn.withdrawn(withdrawal)
                turn.count("withdrawn")
            case RequirementsTracked(data=tracking):
                turn.tracked(tracking)
                turn.count("tracked")
            case ClockTicked():
                turn.count("ticks")
            case _:
                raise ValueError(f"{type(event).__name__}: not an event that curate decides about")
        turn.age()
        return Step(turn.outputs, turn.shelf.changes, {box: count for box, count in turn.counts.items() if count})

    def load(self, key: str, value: bytes) -> Any:
        return buckets.load(key, value)

    def tick_due(self, state: Mapping[str, Any]) -> Sequence[str]:
        """Open buckets that have not reached the age limit."""
        return [name for _, name in state.get(DEADLINES) or ()]


class _Turn:
    """One step in the making."""

    def __init__(
        self,
        policy: CuratePolicy,
        rules: Mapping[str, str],
        digests: Mapping[str, str],
        state: Mapping[str, Any],
        record: Record,
        traceparent: str | None,
    ) -> None:
        self.policy = policy
        self.rules = rules
        self.digests = digests
        self.record = record
        self.traceparent = traceparent
        self.shelf = Shelf(policy, state, record.now)
        self.outputs: list[Write] = []
        self.counts: dict[str, int] = {}

    def count(self, box: str, by: int = 1) -> None:
        self.counts[box] = self.counts.get(box, 0) + by

    def rewarded(self, example: Example) -> str:
        """Finds the place of one revision; returns the box that its record is counted in."""
        shelf, example_id = self.shelf, example.example_id
        old = shelf.known(example.bucket, example_id)
        if old is not None and example.revision <= old.revision:
            self._reject(example, "stale_revision")
            return "rejected"
        if old is not None and old.status in ("retracted", "erased"):
            shelf.remember(example.bucket, example_id, replace(old, revision=example.revision))
            self._reject(example, old.status)
            return "rejected"
        bucket = shelf.bucket(example.bucket)
        new = self._new(example, old, bucket)
        bucket = self._judged(bucket, old, new)
        if old is not None and old.status == "cut":
            self._superseded(example.bucket, example_id, example.interaction_id, example.revision, old)
            if new.content == old.content and abs(example.reward - old.reward) <= self.policy.reward_moved:
                # Reward and content stay those of the batch, so that many small moves add up to a large one.
                kept = replace(old, revision=example.revision, era=new.era, success=new.success, time_ns=new.time_ns)
                shelf.remember(example.bucket, example_id, kept)
                self._store(bucket)
                return "replaced"
        role, reason = filters.judge(self.policy, example, new.split)
        if reason is None and shelf.holder(new.content) not in (None, example_id):
            reason = "duplicate"
        if reason is not None:
            left = replace(new, status="rejected", role=None, content="", sha256="", offset=-1, box="rejected")
            self._store(left_of(shelf, bucket, example_id, old, left))
            self._reject(example, reason)
            return "rejected"
        status: Status = "test" if new.split == "test" else "open"
        box = "replaced" if old is not None and old.queue is not None else "admitted"
        new = replace(new, role=role, status=status, box=box)
        if old is not None and old.queue is not None and old.queue == new.queue:
            bucket = shelf.renew(bucket, example_id, old, new)
        else:
            bucket = shelf.add(left_of(shelf, bucket, example_id, old, new), example_id, new)
            bucket = self._trimmed(bucket)
        self._settle(bucket)
        return box

    def withdrawn(self, withdrawal: Withdrawal) -> None:
        shelf, example_id = self.shelf, withdrawal.example_id
        old = shelf.known(withdrawal.bucket, example_id)
        status = _GONE[withdrawal.reason]
        if old is not None and (old.status == status or old.status in ("retracted", "erased")):
            return
        if old is not None and old.status == "cut":
            self._superseded(withdrawal.bucket, example_id, withdrawal.interaction_id, withdrawal.revision, old)
        revision = max(withdrawal.revision, old.revision if old else 0)
        left = Known(revision=revision, status=status, admitted=old is not None and old.admitted)
        bucket = self._judged(shelf.bucket(withdrawal.bucket), old, left)
        self._store(left_of(shelf, bucket, example_id, old, left))

    def tracked(self, tracking: Tracking) -> None:
        bucket = self.shelf.bucket(tracking.bucket)
        if tracking.release_id != bucket.release_id:
            bucket = replace(bucket, release_id=tracking.release_id, era=bucket.era + 1, judged=RunningSum(), won=RunningSum())
        self._settle(replace(bucket, satisfied=tracking.satisfied))

    def age(self) -> None:
        """Fold time passes for every bucket of the partition, whatever the record was about."""
        for bucket in self.shelf.overdue():
            self._settle(bucket)

    def _new(self, example: Example, old: Known | None, bucket: Bucket) -> Known:
        content, own = example.content, example.model == bucket.base and example.voices > 0
        texts = (normalise(render(content.prompt)), normalise(render(content.context)), normalise(render(content.target)))
        return Known(
            revision=example.revision,
            status="rejected",
            interaction_id=example.interaction_id,
            split=_split(example),
            content=derive_id("content", example.bucket, *texts),
            reward=example.reward,
            balance=example.weights.balance,
            difficulty=example.components.difficulty,
            time_ns=parse_ns(example.event_time),
            sha256=sha256(self.record.value or b""),
            offset=self.record.offset,
            admitted=old is not None and old.admitted,
            era=bucket.era if own else -1,
            success=own and example.quality > 0,
        )

    def _judged(self, bucket: Bucket, old: Known | None, new: Known) -> Bucket:
        """Counts an answer of the bucket's own base as right or wrong, in place of what its older revision counted."""
        per_day = self.policy.decay_per_day
        judged, won = bucket.judged, bucket.won
        if old is not None and old.era == bucket.era:
            judged = judged.add(old.time_ns, per_day, -1.0)
            won = won.add(old.time_ns, per_day, -1.0) if old.success else won
        if new.era == bucket.era:
            judged = judged.add(new.time_ns, per_day)
            won = won.add(new.time_ns, per_day) if new.success else won
        if judged is bucket.judged and won is bucket.won:
            return bucket
        return replace(bucket, judged=judged, won=won)

    def _trimmed(self, bucket: Bucket) -> Bucket:
        """Drops the oldest members of queues that hold more than they may; what was never cut is rejected as overflow."""
        shelf = self.shelf
        limits: dict[Queue, int] = {"train": self.policy.open_limit, "negative": self.policy.open_limit}
        for queue, limit in (*limits.items(), ("test", self.policy.test_pool)):
            while getattr(bucket, queue).size > limit:
                example_id, known = shelf.oldest(bucket, queue)
                status: Status = "past" if queue == "test" else "rejected"
                left = replace(known, status=status, content="", sha256="", offset=-1)
                if queue != "test":
                    self.count(known.box, -1)
                    self.count("rejected")
                    self._rejected(example_id, known.revision, known.interaction_id, bucket.name, "overflow", None)
                bucket = shelf.remove(bucket, example_id, known, left)
        return bucket

    def _settle(self, bucket: Bucket) -> None:
        """Stores the bucket; cuts it when it is worth it."""
        wanted = min(bucket.target, self.policy.aged_target) if bucket.aged else bucket.target
        judgeable = bucket.aged or bucket.test.size >= self.policy.min_test_pool
        ready = bucket.opened_ms is not None and bucket.fill >= wanted and judgeable
        if not ready or bucket.satisfied or self._good_enough(bucket):
            return self._store(bucket)
        shelf = self.shelf
        train = dict(shelf.members(bucket, "train"))
        bucket = shelf.summed(bucket, train)  # a running sum may decide when to look, not what is there
        if bucket.fill < wanted or not any(known.split == "train" for known in train.values()):
            return self._store(bucket)
        members = {**train, **dict(shelf.members(bucket, "negative"))}
        cause: Literal["target", "age"] = "target" if bucket.fill >= bucket.target else "age"
        batch = manifest.batch(
            bucket,
            members,
            dict(shelf.members(bucket, "test")),
            cause=cause,
            target=wanted,
            per_day=self.policy.decay_per_day,
            place=(self.record.topic, self.record.partition),
            policy_digests=self.digests,
        )
        event = BatchReady(
            specversion="1.0",
            id=derive_id("batch.ready", batch.batch_id),
            source=SOURCE,
            time=rfc3339(self.record.now),
            traceparent=self.traceparent,
            data=batch,
        )
        self.outputs.append(Write("batches", bucket.name, event))
        self._store(shelf.cut(bucket, members, batch.batch_id, batch.statistics.mean_reward))

    def _good_enough(self, bucket: Bucket) -> bool:
        rate, evidence = bucket.success(self.policy.decay_per_day)
        return rate is not None and evidence >= self.policy.good_enough_evidence and rate >= self.policy.good_enough

    def _store(self, bucket: Bucket) -> None:
        self.shelf.put(f"bucket:{bucket.name}", bucket)

    def _reject(self, example: Example, reason: str) -> None:
        self._rejected(example.example_id, example.revision, example.interaction_id, example.bucket, reason, self.traceparent)

    def _rejected(
        self, example_id: str, revision: int, interaction_id: str, bucket: str, reason: str, traceparent: str | None
    ) -> None:
        event = ExampleRejected(
            specversion="1.0",
            id=derive_id("example.rejected", self.record.topic, self.record.partition, self.record.offset, example_id),
            source=SOURCE,
            time=rfc3339(self.record.now),
            traceparent=traceparent,
            data=ExampleRejection(
                example_id=example_id,
                revision=revision,
                interaction_id=interaction_id,
                bucket=bucket,
                reason=reason,
                rule=self.rules[reason],
            ),
        )
        self.outputs.append(Write("rejections", interaction_id, event))

    def _superseded(self, bucket: str, example_id: str, interaction_id: str, revision: int, old: Known) -> None:
        batch_id = old.batch_id or ""
        event = ExampleSuperseded(
            specversion="1.0",
            id=derive_id("example.superseded", example_id, revision, batch_id),
            source=SOURCE,
            time=rfc3339(self.record.now),
            traceparent=self.traceparent,
            data=Supersession(
                example_id=example_id, revision=revision, interaction_id=interaction_id, bucket=bucket, batch_id=batch_id
            ),
        )
        self.outputs.append(Write("rejections", interaction_id, event))


def left_of(shelf: Shelf, bucket: Bucket, example_id: str, old: Known | None, left: Known) -> Bucket:
    """The bucket without the older revision of an example, if it had one; `left` is what is remembered meanwhile."""
    if old is None:
        shelf.remember(bucket.name, example_id, left)
        return bucket
    return shelf.remove(bucket, example_id, old, left)


def _split(example: Example) -> Literal["train", "validation", "test"]:
    return split_of(example.bucket, example.prompt_group)  # type: ignore[return-value]


def build(body: Mapping[str, Any], digest: str) -> CurateFold:
    """The fold under a policy body; `digest` names it in what is written."""
    return CurateFold(CuratePolicy.model_validate(body), digest)
