"""Why a bucket is not cut yet: each condition with its value, its bound and since when it is met or not. Pure; cuts nothing.

An assessment is written when a bucket is cut, and else when a condition has changed or its fill has come a twentieth of what is
wanted further, of a bucket at most once a minute of fold time: what changes sooner waits, and a tick says it where nothing else
comes. So `since` is the fold time at which it was first seen to be so, at the most a minute late; and what is written is a few
hundred bytes for each twentieth of a batch, beside its examples.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from headrace_processors.curate.bucket import CutAttempt, CutConditions, WorkingBucket, conditions_of
from headrace_processors.curate.manifest import Cause
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.curate.state import AssessedBucket
from headrace_schemas.canonical import rounded
from headrace_schemas.derived import AssessedCondition, Assessment
from headrace_schemas.times import rfc3339

APART_MS = 60_000
SHARE = 0.05  # of the wanted fill: by so much it moves before that is said

CONDITIONS = (*CutConditions._fields, "not_good_enough")  # so the state keeps since when, by place


def waits(before: AssessedBucket, now_ms: int, attempt: CutAttempt) -> bool:
    """Whether something is to be said of a bucket, and it is too early for it: then nothing need be looked at."""
    return before.pending and _is_early(before, now_ms, attempt)


def _is_early(before: AssessedBucket, now_ms: int, attempt: CutAttempt) -> bool:
    return attempt.batch_id is None and now_ms - before.at_ms < APART_MS


def assess(
    policy: CuratePolicy,
    bucket: WorkingBucket,
    before: AssessedBucket | None,
    wanted: tuple[float, Cause],
    now_ms: int,
) -> tuple[AssessedBucket, Assessment | None] | None:
    """What is to be remembered of a bucket now, and written, unless it is too early for that; None where nothing is new."""
    value = bucket.value
    good = value.good if policy.good_enough_margin > 0 else bucket.is_good
    met = (*conditions_of(policy, value, wanted[0]), not good)
    if before is None:
        since = tuple(now_ms if each else -now_ms for each in met)
    else:
        since = tuple(
            was if (was > 0) == each else now_ms if each else -now_ms for was, each in zip(before.since_ms, met, strict=True)
        )
        moved = value.fill != before.fill and abs(value.fill - before.fill) >= SHARE * wanted[0]
        if bucket.attempt.batch_id is None and not moved and since == before.since_ms:
            return (replace(before, pending=False), None) if before.pending else None
        if _is_early(before, now_ms, bucket.attempt):
            return replace(before, pending=True), None
    said = _said(policy, bucket, wanted, dict(zip(CONDITIONS, since, strict=True)))
    return AssessedBucket(now_ms, value.fill, since), said


def due_ms(assessed: AssessedBucket) -> int | None:
    """The fold time at which what has changed since is said, whatever comes meanwhile; None where nothing has."""
    return assessed.at_ms + APART_MS if assessed.pending else None


def _said(
    policy: CuratePolicy,
    bucket: WorkingBucket,
    wanted: tuple[float, Cause],
    since: Mapping[str, int],
) -> Assessment:
    value, attempt = bucket.value, bucket.attempt
    rate, evidence = value.success_rate(policy.decay_per_day)
    figures: dict[str, tuple[float | None, float | None]] = {
        "opened": (float(value.train.size + value.negative.size), 1.0),
        "fill": (value.fill, wanted[0]),
        "test_rows": (float(value.test.size), 0.0 if value.aged else float(policy.min_test_pool)),
        "requirements": (None, None),
        "not_good_enough": (rate, policy.good_enough),
    }
    conditions = [
        AssessedCondition(name=name, met=at > 0, value=figures[name][0], bound=figures[name][1], since=rfc3339(abs(at)))
        for name, at in since.items()
    ]
    looked: list[tuple[str, bool, float | None, float | None]] = []
    if attempt.shared_fill is not None:
        looked.append(("shared_fill", attempt.shared_fill >= wanted[0], attempt.shared_fill, wanted[0]))
    if attempt.trainable is not None:
        looked.append(("train_side", attempt.trainable, None, None))
    if attempt.fresh is not None and attempt.fresh_wanted is not None:
        looked.append(("fresh", attempt.fresh >= attempt.fresh_wanted, float(attempt.fresh), rounded(attempt.fresh_wanted)))
    conditions += [AssessedCondition(name=name, met=met, value=figure, bound=bound) for name, met, figure, bound in looked]
    return Assessment(
        bucket=bucket.name,
        conditions=conditions,
        lowered_by=None if wanted[1] == "target" else wanted[1],
        evidence=rounded(evidence) or None,
        batches=value.batches,
        batch_id=attempt.batch_id,
    )
