"""The gate: whether a comparison of candidate and incumbent speaks for the candidate. Pure; knows no state.

The rule: the lower bound of the paired bootstrap 95 % interval of the loss gain is above `min_gain`, and where a grader
counted wins and losses on the same rows, there are more wins than losses; on at least `min_test_rows` rows.
"""

from __future__ import annotations

from headrace_processors.release.policy import ReleasePolicy
from headrace_schemas.derived import Comparison


def refusal(policy: ReleasePolicy, comparison: Comparison) -> str | None:
    """Why the candidate may not be served, figures included; None when it may."""
    if comparison.n < policy.min_test_rows:
        return f"insufficient_evidence: {comparison.n} test rows, at least {policy.min_test_rows} are needed"
    if not comparison.loss_gain.low > policy.min_gain:
        return f"no_gain: {comparison_text(comparison)}; the gain's lower bound must be above {policy.min_gain:g}"
    if comparison.wins is not None and comparison.losses is not None and comparison.wins <= comparison.losses:
        return f"no_wins: {comparison_text(comparison)}; wins must be more than losses"
    return None


def comparison_text(comparison: Comparison) -> str:
    """`loss gain 0.12 [0.04, 0.2] on 200 rows, 31 wins, 12 losses`."""
    gain = comparison.loss_gain
    text = f"loss gain {gain.value:.4g} [{gain.low:.4g}, {gain.high:.4g}] on {comparison.n} rows"
    if comparison.wins is None or comparison.losses is None:
        return text
    return f"{text}, {comparison.wins} wins, {comparison.losses} losses"
