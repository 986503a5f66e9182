"""When a bucket is worth a run: how large it must become, fixed when it opens. Pure; knows policies and numbers, no state.

`effective` (default) asks for an effective sample size under decay, `tiered` for a number of examples that grows with what the
bucket has seen. The tiers are a common heuristic of feedback pipelines; evaluated at every example instead of once, they would
always cut at the lowest.
"""

from __future__ import annotations

from headrace_processors.curate.policy import CuratePolicy, TieredPolicy
from headrace_schemas.canonical import rounded

RECENT_DAYS = 30  # of fold time
RARE = 0.1


def target(policy: CuratePolicy, bucket: str, admitted: int, last_reward: float | None) -> float:
    """The fill at which a bucket that opens now is cut: an effective sample size, or a count under `tiered`.

    `admitted`: distinct examples ever admitted to the bucket before; `last_reward`: mean reward of its last batch, if any.
    """
    return tiered(policy.tiered, admitted, last_reward) if policy.threshold == "tiered" else policy.effective_target(bucket)


def is_rare(own: int, median: float) -> bool:
    """Whether a bucket gets so little that waiting for its whole target would leave it out: `own` and `median` are examples
    admitted in RECENT_DAYS, to it and to the median bucket of its partition that got any."""
    return own < RARE * median


def tiered(policy: TieredPolicy, admitted: int, last_reward: float | None) -> float:
    """The first step that `admitted` is below, else `beyond`; times the factors that apply; clamped to [low, high]."""
    size = next((size for below, size in policy.steps if admitted < below), policy.beyond)
    if last_reward is not None and last_reward >= policy.good_reward:
        size *= policy.good_factor
    if admitted < policy.young_below:
        size *= policy.young_factor
    return rounded(min(max(size, policy.low), policy.high))
