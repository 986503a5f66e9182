"""Whether a head is worse on a protected suite than what is served. Knows figures of tasks, no state and no events: the same
tasks are asked at every look, so that each look judges all of them anew, and nothing adds up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from headrace_processors.release.evidence import ZERO, log_capital, scaled, step
from headrace_processors.release.evidence_policy import EvidencePolicy
from headrace_schemas.derived import SuiteResult


class SuiteHarm(NamedTuple):
    """A suite on which a head looks worse. `shown`: a bet that it is not has lost; else tasks got worse so much more often than
    better that chance would seldom do it, but few of them, or by little; or, `unasked`, none of its tasks said anything."""

    suite: str
    shown: bool
    unasked: bool = False


def harm_on(policy: EvidencePolicy, suites: Sequence[SuiteResult], version: int = 5) -> SuiteHarm | None:
    """The first protected suite that is shown worse, else the first that looks worse, or, since rule version 5, of which no task
    could be asked: it protects nobody then; None when there is none of these. The chance of each without reason is `beta`, shared
    by the suites."""
    protected = [suite for suite in suites if suite.protected]
    chance = policy.beta / max(1, len(protected))
    doubtful: SuiteHarm | None = None
    for suite in protected:
        gains, margin = _gains(policy, suite)
        sums = ZERO
        for gain in gains:
            sums = step(sums, (-gain - margin) / (1 + margin))
        if log_capital(sums) >= -math.log(chance):
            return SuiteHarm(suite.name, shown=True)
        worse, better = sum(gain < -margin for gain in gains), sum(gain > margin for gain in gains)
        unasked = version > 4 and not gains
        if doubtful is None and (unasked or _sign_test(worse, better) <= chance):
            doubtful = SuiteHarm(suite.name, shown=False, unasked=unasked)
    return doubtful


def _gains(policy: EvidencePolicy, suite: SuiteResult) -> tuple[list[float], float]:
    """What each task gains, in [-1, 1], and the difference that is none: in success where tasks were graded, else in loss."""
    graded = [task.success_gain for task in suite.tasks if task.success_gain is not None]
    if graded:
        return [scaled(gain, 1.0) for gain in graded], policy.min_useful_success
    losses = [task.loss_gain for task in suite.tasks if task.loss_gain is not None]
    return [scaled(gain, policy.first_scale) for gain in losses], policy.harm_margin / policy.first_scale


def _sign_test(worse: int, better: int) -> float:
    """One-sided and exact: the chance of at least so many worse ones if worse and better were equally likely."""
    told = worse + better
    return sum(math.comb(told, count) for count in range(worse, told + 1)) / (1 << told)
