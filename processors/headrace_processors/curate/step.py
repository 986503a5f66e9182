"""What one record does to the buckets of its partition: where a revision belongs, what is cut, what time changes. Pure.

Knows the rules in force and the state; what an example is good for by itself is decided in filters.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from headrace_processors.curate import events, manifest, near_duplicates, shares
from headrace_processors.curate.appraisal import Appraisal, appraise, sha256_of
from headrace_processors.curate.assessed import assess, waits
from headrace_processors.curate.bucket import NOT_TRIED, CutAttempt, WorkingBucket, conditions_of
from headrace_processors.curate.filters import may_judge, pool_of
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.curate.state import (
    CONTENT,
    FILLING,
    POOLS,
    WAITING,
    CurateBucket,
    CurateState,
    ExampleRecord,
    Queue,
    Split,
    Status,
)
from headrace_schemas.derived import DrawnPrompt, Example, ExampleRejection, ExampleSettlement, Supersession, Tracking, Withdrawal
from headrace_schemas.ids import derive_id
from headrace_schemas.times import parse_ns
from headrace_streams.runtime.stage import Record, Step, Write

PART = 10  # of an open queue's limit: so many more may come before the least worth are dropped
PORTION = 1000  # buckets that grow old in one step: with 40,000 the loop stood still for seconds
SETTLED = 3  # voices that make a contradicted example a majority
_GONE: dict[str, Status] = {"retracted": "retracted", "erased": "erased", "feedback_retracted": "withdrawn"}


class CurateRules(Struct, frozen=True):
    """What is in force: rule version, policy, the table of rejections with its figures, and the policies' digests."""

    version: int
    policy: CuratePolicy
    rejections: Mapping[str, str]
    digests: Mapping[str, str]


class CurateStep:
    """One step in the making. A bucket that it takes up is stored once, when the step is finished."""

    def __init__(self, rules: CurateRules, state: Mapping[str, Any], record: Record, traceparent: str | None) -> None:
        self.rules, self.policy = rules, rules.policy
        self.record = record
        self._seen_ms = 0 if rules.version == 1 else record.now
        self.traceparent = traceparent
        self.state = CurateState(state)
        self.buckets: dict[str, WorkingBucket] = {}
        self.outputs: list[Write] = []
        self.counters: dict[str, int] = {}
        self.forgotten: set[str] = set()  # buckets that an example was forgotten of

    def finished(self) -> Step:
        for name, bucket in self.buckets.items():
            if name in self.forgotten and bucket.is_forgettable:
                self.state.drop_bucket(name)
            else:
                bucket.store()
                self._assess(bucket)
        counters = self.counters
        if not all(counters.values()):
            counters = {name: count for name, count in counters.items() if count}
        return Step(self.outputs, self.state.changes, counters)

    def bucket(self, name: str) -> WorkingBucket:
        if name not in self.buckets:
            self.buckets[name] = WorkingBucket(self.policy, self.state, name, self.record.now)
        return self.buckets[name]

    def _assess(self, bucket: WorkingBucket, wanted: tuple[float, manifest.Cause] | None = None) -> None:
        """Says how a bucket stands, where that is due."""
        if self.rules.version < 4:
            return
        before = self.state.assessed(bucket.name)
        if before is not None and waits(before, self.record.now, bucket.attempt):  # as it mostly is
            return
        found = assess(self.policy, bucket, before, wanted or bucket.wanted, self.record.now)
        if found is not None:
            assessed, said = found
            self.state.put_assessed(bucket.name, assessed)
            if said is not None:
                self.outputs.append(events.assessed(self.record, said))

    def ticked(self, bucket_name: str) -> None:
        """Time passed, and somebody may want to know how a bucket stands: then it is looked at."""
        assessed = self.state.assessed(bucket_name)
        if assessed is not None and assessed.pending:
            self.bucket(bucket_name)

    def count(self, counter: str, by: int = 1) -> None:
        self.counters[counter] = self.counters.get(counter, 0) + by

    def rewarded(self, example: Example, appraisal: Appraisal | None) -> str:
        """Finds where one revision belongs; returns the counter of its record. `appraisal`: the example's, where there is one."""
        example_id = example.example_id
        old = self.state.example(example.bucket, example_id)
        if old is not None and example.revision <= old.revision:
            return self._reject(example, "stale_revision")
        if old is not None and old.status in ("retracted", "erased"):
            known = replace(old, revision=example.revision, seen_ms=self._seen_ms)
            self.state.put_example(example.bucket, example_id, known)
            return self._reject(example, old.status)
        if self._has_no_room(example.bucket):
            return self._reject(example, "too_many_buckets")
        bucket = self.bucket(example.bucket)
        if appraisal is None:
            [appraisal] = appraise(self.policy, self.rules.version, [(example, self.record.value or b"")])
        new = self._record_of(example, appraisal, old, bucket.value)
        bucket.count_trial(old, new)
        if old is not None and old.status == "cut":
            self._supersede(example.bucket, example_id, example.interaction_id, example.revision, old)
            if new.content[:CONTENT] == old.content[:CONTENT] and abs(example.reward - old.reward) <= self.policy.reward_moved:
                # Reward and content stay those of the batch, so that many small moves add up to a large one.
                trial = {"serving_epoch": new.serving_epoch, "success": new.success, "time_ns": new.time_ns}
                known = replace(old, revision=example.revision, seen_ms=self._seen_ms, **trial)
                self.state.put_example(example.bucket, example_id, known)
                return "replaced"
        if old is not None and old.status in WAITING:
            self._waits_no_more("replaced")
        if appraisal.reason is not None:
            self._leave(bucket, example_id, old, new, appraisal.reason, self.traceparent)
            return "rejected"
        bucket.bands = appraisal.sketch, appraisal.bands
        if example.maturity == "provisional" and self.policy.provisional == "wait":
            bucket.wait(example_id, old, replace(new, status="provisional", counter="waiting"))
            return "waiting"
        if example.contradicted and self.policy.contradictions == "wait" and example.voices < SETTLED:
            bucket.wait(example_id, old, replace(new, status="waiting", counter="waiting"))
            return "waiting"
        return self._take(bucket, example_id, old, new, self.traceparent)

    def drawn(self, prompt: DrawnPrompt) -> str:
        """Keeps a prompt that was drawn, one of each group; returns the counter of its record."""
        known = ExampleRecord(
            revision=1,
            status="drawn",
            interaction_id=prompt.interaction_id,
            split="test",
            content=bytes.fromhex(derive_id("drawn", prompt.bucket, prompt.prompt_group)),
            time_ns=self._no_later_than_now(parse_ns(prompt.event_time)),
            sha256=sha256_of(self.record.value or b""),
            offset=self.record.offset,
            counter="prompts",
            seen_ms=self._seen_ms,
        )
        reason = self._unwanted(prompt, known)
        if reason is not None:
            self._write_rejection(prompt.bucket, prompt.prompt_id, known, reason, self.traceparent)
            return "rejected"
        bucket = self.bucket(prompt.bucket)
        bucket.add(prompt.prompt_id, known)
        self._trim(bucket)
        return known.counter

    def _unwanted(self, prompt: DrawnPrompt, known: ExampleRecord) -> str | None:
        """Why a prompt that was drawn is not kept."""
        if self.state.example(prompt.bucket, prompt.prompt_id) is not None:
            return "stale_revision"
        if not self.policy.keeps_prompts(prompt.artifact_type):
            return "not_graded"
        if self.state.holder(known.content) is not None:
            return "same_group"
        return "too_many_buckets" if self._has_no_room(prompt.bucket) else None

    def withdrawn(self, withdrawal: Withdrawal) -> None:
        example_id = withdrawal.example_id
        old = self.state.example(withdrawal.bucket, example_id)
        status = _GONE[withdrawal.reason]
        if old is not None and (old.status == status or old.status in ("retracted", "erased")):
            return
        if self._has_no_room(withdrawal.bucket):
            return
        if old is not None and old.status == "cut":
            self._supersede(withdrawal.bucket, example_id, withdrawal.interaction_id, withdrawal.revision, old)
        if old is not None and old.status in WAITING:
            self._waits_no_more("replaced")
        revision, admitted = max(withdrawal.revision, old.revision if old else 0), old is not None and old.admitted
        rest = ExampleRecord(revision=revision, status=status, admitted=admitted, seen_ms=self._seen_ms)
        bucket = self.bucket(withdrawal.bucket)
        bucket.count_trial(old, rest)
        bucket.remove(example_id, old, rest)

    def tracked(self, tracking: Tracking) -> None:
        if self._has_no_room(tracking.bucket):
            return
        bucket = self.bucket(tracking.bucket)
        bucket.track(tracking.release_id, tracking.satisfied)
        if bucket.value.train.size + bucket.value.negative.size:
            bucket.open()
        self._cut_if_ready(bucket)

    def settled(self, settlement: ExampleSettlement) -> None:
        """Takes an example that waited to be final, as it is. Of any other nothing changes."""
        known = self.state.example(settlement.bucket, settlement.example_id)
        if known is not None and known.status == "provisional" and known.revision == settlement.revision:
            self._take_waiting(self.bucket(settlement.bucket), settlement.example_id, known)

    def _take_waiting(self, bucket: WorkingBucket, example_id: str, known: ExampleRecord) -> None:
        status, counter = self._taken(known.split, known)
        new = replace(known, status=status, counter=counter, seen_ms=self._seen_ms)
        self._waits_no_more(self._take(bucket, example_id, known, new, None))

    def due(self, bucket_name: str, example_id: str, known: ExampleRecord) -> None:
        """The deadline of an example has passed: one that waited is taken as it is, another is forgotten."""
        bucket = self.bucket(bucket_name)
        if known.status in WAITING:
            self._take_waiting(bucket, example_id, known)
        else:
            bucket.forget(example_id, known)
            self.forgotten.add(bucket_name)

    def age(self) -> None:
        """Fold time passes for every bucket of the partition, whatever the record was about."""
        for name in self.state.pop_overdue(self.record.now, None if self.rules.version == 1 else PORTION):
            bucket = self.bucket(name)
            bucket.mark_aged()
            self._cut_if_ready(bucket)

    def _no_later_than_now(self, time_ns: int) -> int:
        """The event time by which an example decays. Of one that lies ahead nothing else would count until then."""
        return time_ns if self.rules.version == 1 else min(time_ns, self.record.now * 1_000_000)

    def _record_of(
        self, example: Example, appraisal: Appraisal, old: ExampleRecord | None, bucket: CurateBucket
    ) -> ExampleRecord:
        """What is remembered of an example that is taken."""
        own = example.model == bucket.base and example.voices > 0 and (example.train or self.rules.version < 3)
        own = own and may_judge(self.policy, example)
        shared = self.policy.principal_share is not None
        status, counter = self._taken(appraisal.split, old)
        return ExampleRecord(
            revision=example.revision,
            status=status,
            interaction_id=example.interaction_id,
            role=appraisal.role,
            split=appraisal.split,
            content=appraisal.content,
            reward=example.reward,
            balance=example.weights.balance,
            difficulty=example.components.difficulty,
            time_ns=self._no_later_than_now(appraisal.time_ns),
            sha256=appraisal.sha256,
            offset=self.record.offset,
            counter=counter,
            admitted=old is not None and old.admitted,
            serving_epoch=bucket.serving_epoch if own else -1,
            success=own and example.quality > 0,
            seen_ms=self._seen_ms,
            again=self.rules.version > 1 and old is not None and (old.again or old.status == "cut"),
            right=self.rules.version > 1 and example.quality > 0,
            sketch=appraisal.sketch,
            principals=tuple(derive_id("principal", name)[:16] for name in example.principals or ()) if shared else (),
        )

    def _taken(self, split: Split, old: ExampleRecord | None) -> tuple[Status, str]:
        """The status of an example that is good for a role, and the counter of its record."""
        status: Status = pool_of(self.rules.version, split) or "open"
        return status, "replaced" if old is not None and old.queue is not None else "admitted"

    def _take(
        self, bucket: WorkingBucket, example_id: str, old: ExampleRecord | None, new: ExampleRecord, traceparent: str | None
    ) -> str:
        """Puts an example that is good for a role into its queue, unless there is one like it; returns the counter."""
        if self.state.holder(new.content) not in (None, example_id):
            self._leave(bucket, example_id, old, new, "duplicate", traceparent)
            return "rejected"
        target = self.state.target(new.target) if new.target else None
        if target is not None and target.learnt and new.queue in POOLS:
            self._leave(bucket, example_id, old, new, "target_learnt", traceparent)
            return "rejected"
        near = self._near_duplicates(bucket, example_id, new) if new.sketch else {}
        if near and any(abs(other.reward) >= abs(new.reward) for other in near.values()):
            self._leave(bucket, example_id, old, new, "near_duplicate", traceparent)
            return "rejected"
        if old is not None and old.queue is not None and old.queue == new.queue:
            bucket.replace_revision(example_id, old, new)
        else:
            if old is not None:
                bucket.remove(example_id, old, new)
            bucket.add(example_id, new)
            self._trim(bucket)
        if self.state.holder(new.content) != example_id:  # the least worth of a full bucket takes nobody's place
            near, target = {}, None
        for pooled_id in target.pooled if target is not None and new.is_learnt else ():
            pooled = self.state.example(bucket.name, pooled_id)
            assert pooled is not None, f"{bucket.name}: {pooled_id} is in a pool and not known"
            if pooled_id != example_id:
                self._evict(bucket, pooled_id, pooled, "target_learnt")
        for other_id in near:
            other = self.state.example(bucket.name, other_id)
            if other is not None and other.status == "open":  # what fell out as overflow just now is no longer there
                self._evict(bucket, other_id, other, "near_duplicate")
        self._cut_if_ready(bucket)
        return new.counter

    def _near_duplicates(self, bucket: WorkingBucket, example_id: str, new: ExampleRecord) -> dict[str, ExampleRecord]:
        """Open members of its role and outcome that are as similar to an example as policy says."""
        found: dict[str, ExampleRecord] = {}
        for other_id in bucket.near(new):
            other = self.state.example(bucket.name, other_id)
            assert other is not None, f"{bucket.name}: {other_id} is among its near-duplicates and not known"
            least = self.policy.near_duplicate
            if other_id != example_id and least is not None and near_duplicates.similarity(other.sketch, new.sketch) >= least:
                found[other_id] = other
        return found

    def _trim(self, bucket: WorkingBucket) -> None:
        """Drops members of queues that hold more than they may: of pools the oldest, of others, which are rejected as
        overflow, the least worth. What that is takes a look at all, so that a tenth more may come before it is asked."""
        policy, value = self.policy, bucket.value
        open_limit, prompt_pool = policy.open_limit, policy.prompt_pool
        test_pool, validation_pool = policy.test_pool, policy.validation_pool
        most = open_limit if self.rules.version < 3 else open_limit + open_limit // PART
        are_open = value.train.size <= most >= value.negative.size
        are_pooled = value.test.size <= test_pool and value.validation.size <= validation_pool
        if are_open and are_pooled and value.drawn.size <= prompt_pool >= value.wrong.size:  # as it mostly is
            return
        for queue in FILLING:
            if bucket.size(queue) > most:
                self._drop(bucket, queue, bucket.size(queue) - open_limit)
        pools: dict[Queue, int] = {"test": test_pool, "validation": validation_pool, "drawn": prompt_pool, "wrong": prompt_pool}
        for pool, limit in pools.items():
            while bucket.size(pool) > limit:
                example_id, oldest = bucket.oldest(pool)
                if pool == "drawn":  # nothing comes back to it, and another of its group may be drawn
                    bucket.forget(example_id, oldest)
                elif self.rules.version > 3:
                    self._evict(bucket, example_id, oldest, "pool_full")
                else:
                    bucket.remove(example_id, oldest, _without_content(oldest, "past"))

    def _drop(self, bucket: WorkingBucket, queue: Queue, count: int) -> None:
        if self.rules.version < 3:
            dropped = dict(islice(bucket.members(queue), count))
            names = list(dropped)
        else:
            dropped = dict(bucket.members(queue))
            names = manifest.least_worth(dropped, self.policy.decay_per_day, self.policy.decay_floor, count)
        for name in names:
            self._evict(bucket, name, dropped[name], "overflow")

    def _evict(self, bucket: WorkingBucket, example_id: str, member: ExampleRecord, reason: str) -> None:
        """Takes a member out of an open bucket; its record counts as rejected from now on."""
        self.count(member.counter, -1)
        self.count("rejected")
        self._write_rejection(bucket.name, example_id, member, reason, None)
        bucket.remove(example_id, member, _without_content(member, "rejected"))
        self._explain(bucket, reason)

    def _leave(
        self,
        bucket: WorkingBucket,
        example_id: str,
        old: ExampleRecord | None,
        new: ExampleRecord,
        reason: str,
        traceparent: str | None,
    ) -> None:
        """Rejects an example that is in no batch, and its older revision with it."""
        rest = replace(_without_content(new, "rejected"), role=None, counter="rejected")
        bucket.remove(example_id, old, rest)
        self._write_rejection(bucket.name, example_id, new, reason, traceparent)
        self._explain(bucket, reason)

    def _explain(self, bucket: WorkingBucket, reason: str) -> None:
        if self.rules.version > 1:
            bucket.leave_out(reason)

    def _waits_no_more(self, counter: str) -> None:
        """The record of an example that waited counts elsewhere."""
        self.count("waiting", -1)
        self.count(counter)

    def _has_no_room(self, bucket: str) -> bool:
        most = self.policy.max_buckets
        return (
            most is not None
            and bucket not in self.buckets
            and not self.state.has_bucket(bucket)
            and len(self.state.buckets) >= most
        )

    def _cut_if_ready(self, bucket: WorkingBucket) -> None:
        """Cuts the bucket when it is worth it."""
        policy = self.policy
        wanted, lowered = bucket.wanted
        if not all(conditions_of(policy, bucket.value, wanted)) or bucket.is_good:
            return
        train = dict(bucket.members("train"))
        bucket.recompute_sums(train)  # a running sum may decide when to look, not what is there
        value = bucket.value
        chosen = train if policy.principal_share is None else shares.within(policy.principal_share, train)
        fill = value.fill if len(chosen) == len(train) else bucket.fill_of(chosen.values())
        trainable = any(member.split == "train" for member in chosen.values())
        bucket.attempt = CutAttempt(fill if chosen is not train else None, trainable)
        if fill < wanted or not trainable:
            return
        fresh, fresh_wanted = sum(not member.again for member in chosen.values()), policy.fresh_share * wanted
        if value.batches:
            bucket.attempt = replace(bucket.attempt, fresh=fresh, fresh_wanted=fresh_wanted)
            if fresh < fresh_wanted:
                return
        members = {**chosen, **dict(bucket.members("negative"))}
        over = len(train) - len(chosen)
        batch = manifest.batch(
            value,
            members,
            dict(bucket.members("test")),
            dict(bucket.members("validation")) if self.rules.version > 2 else None,
            {**dict(bucket.members("drawn")), **dict(bucket.members("wrong"))},
            cause="target" if fill >= value.target else lowered,
            target=wanted,
            per_day=policy.decay_per_day,
            floor=policy.decay_floor,
            source=(self.record.topic, self.record.partition),
            policy_digests=self.rules.digests,
            left_out=None if self.rules.version == 1 else _left_out(value, over),
        )
        self.outputs.append(events.ready(self.record, batch, self.traceparent))
        bucket.attempt = replace(bucket.attempt, batch_id=batch.batch_id)
        self._assess(bucket, (wanted, lowered))
        bucket.attempt = NOT_TRIED
        bucket.cut(members, batch.batch_id, batch.statistics.mean_reward)

    def _reject(self, example: Example, reason: str) -> str:
        """Names an example, of which nothing changes, on `rejections`; returns the counter of its record."""
        known = ExampleRecord(revision=example.revision, status="rejected", interaction_id=example.interaction_id)
        self._write_rejection(example.bucket, example.example_id, known, reason, self.traceparent)
        return "rejected"

    def _write_rejection(
        self, bucket: str, example_id: str, example: ExampleRecord, reason: str, traceparent: str | None
    ) -> None:
        rejection = ExampleRejection(
            example_id=example_id,
            revision=example.revision,
            interaction_id=example.interaction_id,
            bucket=bucket,
            reason=reason,
            rule=self.rules.rejections[reason],
        )
        self.outputs.append(events.rejected(self.record, rejection, traceparent))

    def _supersede(self, bucket: str, example_id: str, interaction_id: str, revision: int, old: ExampleRecord) -> None:
        """Says that a batch holds an older revision than there is."""
        newer = Supersession(
            example_id=example_id,
            revision=revision,
            interaction_id=interaction_id,
            bucket=bucket,
            batch_id=old.batch_id.hex(),
        )
        self.outputs.append(events.superseded(self.record, newer, self.traceparent))


def _without_content(example: ExampleRecord, status: Status) -> ExampleRecord:
    """What is remembered of an example that is in no bucket any more."""
    return replace(example, status=status, content=b"", sha256=b"", offset=-1, sketch=b"", principals=(), right=False)


def _left_out(bucket: CurateBucket, over_share: int) -> dict[str, int]:
    """How many examples the next batch does not hold, by reason, beside those that come with the one after it."""
    return dict(bucket.left_out) | {name: n for name, n in (("waiting", bucket.waiting), ("over_share", over_share)) if n}
