"""Why a bucket is not cut yet, as a tree: from what curate said last, and from its bucket as it stands in the state, which also
says by what ways a fill is enough. Pure; what is decided by is asked of the functions that decide (curate's bucket.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from headrace_lake.read_models.conditions import ConditionNode, joined
from headrace_processors.curate.bucket import conditions_of, good_from, is_good, may_open, wanted
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.curate.state import CurateBucket
from headrace_processors.curate.thresholds import RARE, RECENT_DAYS, is_rare
from headrace_schemas.derived import Assessment
from headrace_schemas.times import parse_ns
from headrace_schemas.topics import DAY_MS

# What each condition is called on the page, and the line of the policy with its bound.
TITLES: Mapping[str, tuple[str, str | None]] = {
    "opened": ("it is open", None),
    "fill": ("it is full enough", None),
    "test_rows": ("there are enough test rows", "curate.min_test_pool"),
    "requirements": ("what is served misses a requirement", None),
    "not_good_enough": ("what is served is not good enough yet", "curate.good_enough"),
    "shared_fill": ("it is full enough within the share of each principal", "curate.principal_share"),
    "train_side": ("a member is on the train side", None),
    "fresh": ("enough of it was in no batch yet", "curate.fresh_share"),
}
ROOT = "it is cut"


class BucketConditions(NamedTuple):
    """The tree, the fill at which the bucket is cut now, and what lowered it to that ("target": nothing)."""

    tree: ConditionNode
    wanted: float | None
    cause: str

    @property
    def waits_for(self) -> list[str]:
        """The conditions that do not hold."""
        return [part.name for part in self.tree.parts if part.holds is False]


def conditions_told(said: Assessment, place: str = "") -> BucketConditions:
    """As curate said them; `place` of the record."""
    parts = [
        _node(
            one.name,
            one.met,
            value=one.value,
            bound=_bound(one.name, one.bound),
            since_ms=None if one.since is None else parse_ns(one.since) // 1_000_000,
        )
        for one in said.conditions
        if one.name != "test_rows" or one.bound
    ]
    fill = next((one.bound for one in said.conditions if one.name == "fill"), None)
    return BucketConditions(joined(ROOT, parts, note=place), fill, said.lowered_by or "target")


def conditions_now(
    policy: CuratePolicy,
    bucket: CurateBucket,
    now_ms: int,
    *,
    median: float | None = None,
    told: Assessment | None = None,
) -> BucketConditions:
    """As a bucket stands in the state. `now_ms` is fold time; `median`: examples that the median bucket of the partition got of
    late, None where it is not known, and then no bucket counts as rare; `told`: what curate said last, which knows since when."""
    recent = bucket.admitted_since(now_ms // DAY_MS - RECENT_DAYS)
    rare = median is not None and is_rare(recent, median)
    fill, cause = wanted(policy, bucket, lambda: rare)
    met = conditions_of(policy, bucket, fill)
    known = {} if told is None else {one.name: one for one in told.conditions}
    rate, evidence = bucket.success_rate(policy.decay_per_day)
    named = may_open(policy, bucket)
    unnamed = "no policy and no release names its base: its examples are kept, nothing is cut"

    def node(name: str, holds: bool | None, **more: Any) -> ConditionNode:
        one = known.get(name)
        since = None if one is None or one.since is None or one.met != holds else parse_ns(one.since) // 1_000_000
        return _node(name, holds, **{"since_ms": since, **more})

    members = bucket.train.size + bucket.negative.size
    parts = [
        node(
            "opened",
            met.opened,
            value=members,
            note="open members" if named else unnamed,
            policy_key=None if named else "curate.bases",
            since_ms=bucket.opened_ms,
        ),
        node(
            "fill",
            met.fill,
            value=bucket.fill,
            bound=fill,
            note="" if cause == "target" else f"lowered by {cause}",
            needs="any",
            parts=_ways(policy, bucket, recent, rare, median),
        ),
        node("requirements", met.requirements, note="all are satisfied: nothing is cut" if bucket.satisfied else ""),
        node(
            "not_good_enough",
            not is_good(policy, bucket),
            value=rate,
            bound=_bound("not_good_enough", good_from(policy, bucket)),
            note=f"{evidence:.1f} judged answers of the {policy.good_enough_evidence:g} that it needs",
        ),
    ]
    if policy.min_test_pool:
        aged = "an aged bucket needs none" if bucket.aged else ""
        parts.insert(2, node("test_rows", met.test_rows, value=bucket.test.size, bound=policy.min_test_pool, note=aged))
    if bucket.batches and policy.fresh_share:
        note = "members that were in no batch yet; they are counted when all else holds"
        parts.append(_node("fresh", None, bound=policy.fresh_share * fill, note=note))
    return BucketConditions(joined(ROOT, parts), fill, cause)


def _node(name: str, holds: bool | None, **more: Any) -> ConditionNode:
    title, key = TITLES.get(name, (name.replace("_", " "), None))
    return ConditionNode(name=title, holds=holds, **{"policy_key": key, **more})


def _bound(name: str, bound: float | None) -> float | str | None:
    return f"below {bound:g}" if name == "not_good_enough" and bound is not None else bound


def _ways(policy: CuratePolicy, bucket: CurateBucket, recent: int, rare: bool, median: float | None) -> list[ConditionNode]:
    """What makes a fill enough: any of these."""
    aged = min(bucket.target, policy.aged_target)
    unit = "examples" if policy.threshold == "tiered" else "effective size"
    ways = [
        ConditionNode(
            name="its target",
            holds=bucket.fill >= bucket.target > 0,
            value=bucket.fill,
            bound=bucket.target,
            policy_key="curate.tiered" if policy.threshold == "tiered" else "curate.target_effective_size",
            note=f"{unit}, fixed when it opened",
        ),
        ConditionNode(
            name="less, as it is old",
            holds=bucket.aged and bucket.fill >= aged,
            value=bucket.fill,
            bound=aged,
            policy_key="curate.aged_target",
            note="it is past its age limit" if bucket.aged else f"from {policy.age_limit_days:g} days after it opened on",
        ),
    ]
    if policy.drift is not None:
        ways.append(
            ConditionNode(
                name="less, as its success has fallen",
                holds=bucket.drifted and bucket.fill >= aged,
                value=bucket.fill,
                bound=aged,
                policy_key="curate.drift",
                note="a fall was found" if bucket.drifted else "no fall was found since the last cut",
            )
        )
    if policy.rarity is not None:
        share = policy.rarity * bucket.target
        ways.append(
            ConditionNode(
                name="less, as it gets few",
                holds=None if median is None else rare and bucket.fill >= share > 0,
                value=bucket.fill,
                bound=share,
                policy_key="curate.rarity",
                note=f"{recent} examples in {RECENT_DAYS} days; few are less than {RARE:g} of the median bucket's"
                + ("" if median is None else f" {median:g}"),
            )
        )
    return ways
