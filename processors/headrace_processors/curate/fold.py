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
from headrace_processors.curate import state as curate_state
from headrace_processors.curate.bucket import WorkingBucket
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.curate.state import DEADLINES, CurateBucket, CurateState, ExampleRecord, Queue, Status
from headrace_schemas.canonical import sha256
from headrace_schemas.codec import decode
from headrace_schemas.derived import Example, ExampleRejection, Supersession, Tick, Tracking, Withdrawal
from headrace_schemas.events import (
    BatchReady,
    ClockTicked,
    ExampleRejected,
    ExampleRewarded,
    ExampleSuperseded,
    ExampleWithdrawn,
    RequirementsTracked,
    make,
)
from headrace_schemas.ids import derive_id
from headrace_schemas.splits import split_of
from headrace_schemas.text import normalise, render
from headrace_schemas.times import parse_ns, rfc3339
from headrace_streams.runtime.stage import Fold, Record, Step, Write

STAGE = "curate"
_GONE: dict[str, Status] = {"retracted": "retracted", "erased": "erased", "feedback_retracted": "withdrawn"}


class CurateFold(Fold):
    """The fold under one policy, as `stage.Fold` describes it. `examples` in; `rejections` and `batches` out."""

    gauged = "bucket:"

    def __init__(self, policy: CuratePolicy, digest: str) -> None:
        """`digest` is that of the policy body as recorded, which today's model need not have."""
        self._policy = policy
        self._rules = filters.rules(self._policy)
        self._digests = {"curate": digest}

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        event = decode(record.value, record.headers)
        step = CurateStep(self._policy, self._rules, self._digests, state, record, getattr(event, "traceparent", None))
        match event:
            case ExampleRewarded(data=example):
                step.count(step.rewarded(example))
            case ExampleWithdrawn(data=withdrawal):
                step.withdrawn(withdrawal)
                step.count("withdrawn")
            case RequirementsTracked(data=tracking):
                step.tracked(tracking)
                step.count("tracked")
            case ClockTicked():
                step.count("ticks")
            case _:
                raise ValueError(f"{type(event).__name__}: not an event that curate decides about")
        step.age()
        return step.finished()

    def load(self, key: str, value: bytes) -> Any:
        return curate_state.load(key, value)

    def gauges(self, key: str, value: Any) -> tuple[str, Mapping[str, float]]:
        return value.name, curate_state.bucket_gauges(value)

    def deadline(self, key: str, value: Any) -> int | None:
        """When the next open bucket reaches the age limit."""
        return int(value[0][0]) if key == DEADLINES else None

    def overdue(self, state: Mapping[str, Any], keys: Sequence[str], now: int) -> Sequence[Write]:
        """One tick, however many buckets are due: it lets time pass for all."""
        due, bucket = state[DEADLINES][0]
        tick = Tick(bucket=bucket, time=rfc3339(now))
        event = make(ClockTicked, tick, id=derive_id("tick", STAGE, bucket, due, now), writer=STAGE, time_ms=now)
        return [Write("examples", bucket, event)]


class CurateStep:
    """One step in the making. A bucket that it takes up is stored once, when the step is finished."""

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
        self.state = CurateState(state)
        self.buckets: dict[str, WorkingBucket] = {}
        self.outputs: list[Write] = []
        self.counters: dict[str, int] = {}

    def finished(self) -> Step:
        for bucket in self.buckets.values():
            bucket.store()
        return Step(self.outputs, self.state.changes, {name: count for name, count in self.counters.items() if count})

    def bucket(self, name: str) -> WorkingBucket:
        if name not in self.buckets:
            self.buckets[name] = WorkingBucket(self.policy, self.state, name, self.record.now)
        return self.buckets[name]

    def count(self, counter: str, by: int = 1) -> None:
        self.counters[counter] = self.counters.get(counter, 0) + by

    def rewarded(self, example: Example) -> str:
        """Finds where one revision belongs; returns the counter of its record."""
        example_id = example.example_id
        old = self.state.example(example.bucket, example_id)
        if old is not None and example.revision <= old.revision:
            return self._reject(example, "stale_revision")
        if old is not None and old.status in ("retracted", "erased"):
            self.state.put_example(example.bucket, example_id, replace(old, revision=example.revision))
            return self._reject(example, old.status)
        bucket = self.bucket(example.bucket)
        target = render(example.content.target)
        new = self._record_of(example, target, old, bucket.value)
        bucket.count_trial(old, new)
        if old is not None and old.status == "cut":
            self._supersede(example.bucket, example_id, example.interaction_id, example.revision, old)
            if new.content == old.content and abs(example.reward - old.reward) <= self.policy.reward_moved:
                # Reward and content stay those of the batch, so that many small moves add up to a large one.
                trial = {"serving_epoch": new.serving_epoch, "success": new.success, "time_ns": new.time_ns}
                self.state.put_example(example.bucket, example_id, replace(old, revision=example.revision, **trial))
                return "replaced"
        role, reason = filters.judge(self.policy, example, target, new.split)
        if reason is None and self.state.holder(new.content) not in (None, example_id):
            reason = "duplicate"
        if reason is not None:
            rest = replace(new, status="rejected", role=None, content="", sha256="", offset=-1, counter="rejected")
            bucket.remove(example_id, old, rest)
            return self._reject(example, reason)
        status: Status = "test" if new.split == "test" else "open"
        counter = "replaced" if old is not None and old.queue is not None else "admitted"
        new = replace(new, role=role, status=status, counter=counter)
        if old is not None and old.queue is not None and old.queue == new.queue:
            bucket.replace_revision(example_id, old, new)
        else:
            bucket.remove(example_id, old, new)
            bucket.add(example_id, new)
            self._trim(bucket)
        self._cut_if_ready(bucket)
        return counter

    def withdrawn(self, withdrawal: Withdrawal) -> None:
        example_id = withdrawal.example_id
        old = self.state.example(withdrawal.bucket, example_id)
        status = _GONE[withdrawal.reason]
        if old is not None and (old.status == status or old.status in ("retracted", "erased")):
            return
        if old is not None and old.status == "cut":
            self._supersede(withdrawal.bucket, example_id, withdrawal.interaction_id, withdrawal.revision, old)
        revision = max(withdrawal.revision, old.revision if old else 0)
        rest = ExampleRecord(revision=revision, status=status, admitted=old is not None and old.admitted)
        bucket = self.bucket(withdrawal.bucket)
        bucket.count_trial(old, rest)
        bucket.remove(example_id, old, rest)

    def tracked(self, tracking: Tracking) -> None:
        bucket = self.bucket(tracking.bucket)
        bucket.track(tracking.release_id, tracking.satisfied)
        self._cut_if_ready(bucket)

    def age(self) -> None:
        """Fold time passes for every bucket of the partition, whatever the record was about."""
        for name in self.state.pop_overdue(self.record.now):
            bucket = self.bucket(name)
            bucket.mark_aged()
            self._cut_if_ready(bucket)

    def _record_of(self, example: Example, target: str, old: ExampleRecord | None, bucket: CurateBucket) -> ExampleRecord:
        content, own = example.content, example.model == bucket.base and example.voices > 0
        texts = (normalise(render(content.prompt)), normalise(render(content.context)), normalise(target))
        return ExampleRecord(
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
            serving_epoch=bucket.serving_epoch if own else -1,
            success=own and example.quality > 0,
        )

    def _trim(self, bucket: WorkingBucket) -> None:
        """Drops the oldest members of queues that hold more than they may; what was never cut is rejected as overflow."""
        open_limit = self.policy.open_limit
        limits: dict[Queue, int] = {"train": open_limit, "negative": open_limit, "test": self.policy.test_pool}
        for queue, limit in limits.items():
            while bucket.size(queue) > limit:
                example_id, oldest = bucket.oldest(queue)
                status: Status = "past" if queue == "test" else "rejected"
                if queue != "test":
                    self.count(oldest.counter, -1)
                    self.count("rejected")
                    self._write_rejection(example_id, oldest.revision, oldest.interaction_id, bucket.name, "overflow", None)
                bucket.remove(example_id, oldest, replace(oldest, status=status, content="", sha256="", offset=-1))

    def _cut_if_ready(self, bucket: WorkingBucket) -> None:
        """Cuts the bucket when it is worth it."""
        value = bucket.value
        wanted = min(value.target, self.policy.aged_target) if value.aged else value.target
        judgeable = value.aged or value.test.size >= self.policy.min_test_pool
        ready = value.opened_ms is not None and value.fill >= wanted and judgeable
        if not ready or value.satisfied or self._good_enough(value):
            return
        train = dict(bucket.members("train"))
        bucket.recompute_sums(train)  # a running sum may decide when to look, not what is there
        value = bucket.value
        if value.fill < wanted or not any(member.split == "train" for member in train.values()):
            return
        members = {**train, **dict(bucket.members("negative"))}
        cause: Literal["target", "age"] = "target" if value.fill >= value.target else "age"
        batch = manifest.batch(
            value,
            members,
            dict(bucket.members("test")),
            cause=cause,
            target=wanted,
            per_day=self.policy.decay_per_day,
            source=(self.record.topic, self.record.partition),
            policy_digests=self.digests,
        )
        event = make(
            BatchReady,
            batch,
            id=derive_id("batch.ready", batch.batch_id),
            writer=STAGE,
            time_ms=self.record.now,
            traceparent=self.traceparent,
        )
        self.outputs.append(Write("batches", bucket.name, event))
        bucket.cut(members, batch.batch_id, batch.statistics.mean_reward)

    def _good_enough(self, bucket: CurateBucket) -> bool:
        rate, evidence = bucket.success_rate(self.policy.decay_per_day)
        return rate is not None and evidence >= self.policy.good_enough_evidence and rate >= self.policy.good_enough

    def _reject(self, example: Example, reason: str) -> str:
        """Names the example on `rejections`; returns the counter of its record."""
        self._write_rejection(
            example.example_id, example.revision, example.interaction_id, example.bucket, reason, self.traceparent
        )
        return "rejected"

    def _write_rejection(
        self, example_id: str, revision: int, interaction_id: str, bucket: str, reason: str, traceparent: str | None
    ) -> None:
        event = make(
            ExampleRejected,
            ExampleRejection(
                example_id=example_id,
                revision=revision,
                interaction_id=interaction_id,
                bucket=bucket,
                reason=reason,
                rule=self.rules[reason],
            ),
            id=derive_id("example.rejected", self.record.topic, self.record.partition, self.record.offset, example_id),
            writer=STAGE,
            time_ms=self.record.now,
            traceparent=traceparent,
        )
        self.outputs.append(Write("rejections", interaction_id, event))

    def _supersede(self, bucket: str, example_id: str, interaction_id: str, revision: int, old: ExampleRecord) -> None:
        """Says that a batch holds an older revision than there is."""
        batch_id = old.batch_id or ""
        event = make(
            ExampleSuperseded,
            Supersession(
                example_id=example_id, revision=revision, interaction_id=interaction_id, bucket=bucket, batch_id=batch_id
            ),
            id=derive_id("example.superseded", example_id, revision, batch_id),
            writer=STAGE,
            time_ms=self.record.now,
            traceparent=self.traceparent,
        )
        self.outputs.append(Write("rejections", interaction_id, event))


def _split(example: Example) -> Literal["train", "validation", "test"]:
    return split_of(example.bucket, example.prompt_group)  # type: ignore[return-value]


def build(body: Mapping[str, Any], digest: str) -> CurateFold:
    """The fold under a policy body; `digest` names it in what is written."""
    return CurateFold(CuratePolicy.model_validate(body), digest)
