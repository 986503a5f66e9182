"""Why a bucket is not cut yet: the conditions of a cut, each with its value, its bound and since when. Pure; knows a bucket as it
stands in the state, and a policy. What is decided by is asked of the functions that decide (bucket.py, thresholds.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from headrace_processors.curate.bucket import is_good, wanted
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.curate.state import CurateBucket
from headrace_processors.curate.thresholds import RARE, RECENT_DAYS, is_rare
from headrace_schemas.topics import DAY_MS


class CutCondition(Struct, frozen=True, kw_only=True):
    """A condition of a cut. `holds` None: it can't be said from the bucket alone; `since_ms`: fold time from which on it is so,
    where that is known; `policy_key`: the line of the policy with its bound; of `parts` any is enough."""

    name: str
    holds: bool | None
    value: float | str | None = None
    bound: float | str | None = None
    since_ms: int | None = None
    policy_key: str | None = None
    note: str = ""
    parts: Sequence[CutCondition] = ()


class BucketAssessment(Struct, frozen=True, kw_only=True):
    """A bucket against the conditions of a cut, all of which must hold. `wanted`: the fill at which it is cut, for `cause`."""

    bucket: str
    wanted: float
    cause: str
    conditions: Sequence[CutCondition]

    @property
    def open_conditions(self) -> list[CutCondition]:
        """Those that it waits for."""
        return [condition for condition in self.conditions if condition.holds is False]


def assess(policy: CuratePolicy, bucket: CurateBucket, now_ms: int, *, median: float | None = None) -> BucketAssessment:
    """`now_ms` is fold time; `median`: examples that the median bucket of the partition got of late, None where it is not known,
    and then no bucket counts as rare."""
    day = now_ms // DAY_MS
    recent = bucket.admitted_since(day - RECENT_DAYS)
    rare = median is not None and is_rare(recent, median)
    fill, cause = wanted(policy, bucket, lambda: rare)
    open_ = bucket.opened_ms is not None
    named = policy.names(bucket.base, bucket.name) or bucket.release_id is not None
    conditions = [
        CutCondition(
            name="it is open",
            holds=open_,
            since_ms=bucket.opened_ms,
            value=bucket.train.size + bucket.negative.size,
            note="open members" if named else "no policy and no release names its base: its examples are kept, nothing is cut",
            policy_key=None if named else "bases",
        ),
        CutCondition(
            name="it is full enough",
            holds=open_ and bucket.fill >= fill,
            value=bucket.fill,
            bound=fill,
            note=f"cut for {cause}",
            parts=_ways(policy, bucket, recent, rare, median),
        ),
    ]
    if policy.min_test_pool:
        conditions.append(
            CutCondition(
                name="enough test rows",
                holds=bucket.aged or bucket.test.size >= policy.min_test_pool,
                value=bucket.test.size,
                bound=policy.min_test_pool,
                policy_key="min_test_pool",
                note="an aged bucket needs none" if bucket.aged else "",
            )
        )
    rate, evidence = bucket.success_rate(policy.decay_per_day)
    good = is_good(policy, bucket)
    least = policy.good_enough - (policy.good_enough_margin if bucket.good else 0.0)
    conditions += [
        CutCondition(
            name="what is served misses a requirement",
            holds=not bucket.satisfied,
            note="all requirements are satisfied: nothing is cut" if bucket.satisfied else "",
        ),
        CutCondition(
            name="what is served is not good enough yet",
            holds=not good,
            value=rate,
            bound=f"below {least:g}",
            policy_key="good_enough",
            note=f"{evidence:.1f} judged answers of {policy.good_enough_evidence:g} that it needs",
        ),
    ]
    if bucket.batches and policy.fresh_share:
        conditions.append(
            CutCondition(
                name="enough of it is new",
                holds=None,
                bound=policy.fresh_share * fill,
                policy_key="fresh_share",
                note="members that were in no batch yet; it is counted when all else holds",
            )
        )
    return BucketAssessment(bucket=bucket.name, wanted=fill, cause=cause, conditions=tuple(conditions))


def _ways(policy: CuratePolicy, bucket: CurateBucket, recent: int, rare: bool, median: float | None) -> tuple[CutCondition, ...]:
    """What makes a fill enough: any of these."""
    aged = min(bucket.target, policy.aged_target)
    unit = "examples" if policy.threshold == "tiered" else "effective size"
    ways = [
        CutCondition(
            name="its target",
            holds=bucket.fill >= bucket.target > 0,
            value=bucket.fill,
            bound=bucket.target,
            since_ms=bucket.opened_ms,
            policy_key="tiered" if policy.threshold == "tiered" else "target_effective_size",
            note=f"{unit}, fixed when it opened",
        ),
        CutCondition(
            name="less, as it is old",
            holds=bucket.aged and bucket.fill >= aged,
            value=bucket.fill,
            bound=aged,
            policy_key="aged_target",
            note="it is past its age limit" if bucket.aged else f"from {policy.age_limit_days:g} days after it opened on",
        ),
    ]
    if policy.drift is not None:
        ways.append(
            CutCondition(
                name="less, as its success has fallen",
                holds=bucket.drifted and bucket.fill >= aged,
                value=bucket.fill,
                bound=aged,
                policy_key="drift",
                note="a fall was found" if bucket.drifted else "no fall was found since the last cut",
            )
        )
    if policy.rarity is not None:
        share = policy.rarity * bucket.target
        ways.append(
            CutCondition(
                name="less, as it gets few",
                holds=None if median is None else rare and bucket.fill >= share > 0,
                value=bucket.fill,
                bound=share,
                policy_key="rarity",
                note=f"{recent} examples in {RECENT_DAYS} days; few are less than {RARE:g} of the median bucket's"
                + ("" if median is None else f" {median:g}"),
            )
        )
    return tuple(ways)
