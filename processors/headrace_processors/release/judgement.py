"""What evidence decides: verdicts on the heads of a look, the promotion of one, the watch over it. Pure; knows no events.

Capital is never carried from one head to another. What a head must reach grows with its number `h`: the prices of all heads
between two promotions add up to `alpha`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

from msgspec.structs import replace

from headrace_processors.release.evidence import (
    SCREEN,
    UNIFORM,
    ZERO,
    GroupFigures,
    alarmed,
    cut,
    log_capital,
    scaled,
)
from headrace_processors.release.evidence_policy import EvidencePolicy
from headrace_processors.release.evidence_state import EvidenceState, HarmWatch, Head, Tally
from headrace_processors.release.protected import SuiteHarm
from headrace_schemas.canonical import rounded
from headrace_schemas.derived import ends_chain
from headrace_schemas.ids import derive_id

HEAVY_TAIL = 3  # groups cut off on the low side, from which on the mean may hide a loss

Kind = Literal["invalid", "declined", "needs_decision", "promote", "pending"]


class Verdict(NamedTuple):
    """What is said of a head, and the figures it stands on: log capitals against their thresholds, in nats. `stays`: it goes on
    waiting for evidence."""

    kind: Kind
    reason: str
    alpha: float
    up: float
    down: float
    harm: float
    stays: bool = False

    @property
    def needed(self) -> float:
        """Log capital at which the head is promoted."""
        return reached_by(self.alpha)


def reached_by(chance: float) -> float:
    """The log capital, in nats, that a bet against what is true reaches with this chance at most."""
    return rounded(-math.log(chance))


def alpha_of(policy: EvidencePolicy, h: int, promotions: int) -> float:
    """The chance of error that head number `h` may take. Under `per_release` they add up to alpha between two promotions;
    `strict` also pays for the promotions before (gamma_r = 1 / (3.388 r ln(r + 1)^2), which add up to 1)."""
    if policy.claim == "plain":
        return policy.alpha
    alpha = policy.alpha / (h * (h + 1))
    if policy.claim == "strict":
        alpha /= 3.388 * math.log(promotions + 2) ** 2  # (r + 1) gamma_{r+1}
    return rounded(alpha)


def basis_of(policy: EvidencePolicy, head: Head) -> Head | Tally:
    """What a head is judged on: groups that no feedback selected, once there are enough of them to decide anything; until then
    all groups, which take it no further than to a person."""
    enough = head.unselected is not None and head.unselected.n >= policy.min_groups
    return head.unselected if enough and head.unselected is not None else head


def judge(
    policy: EvidencePolicy, head: Head, promotions: int, invalid: str | None = None, on_suite: SuiteHarm | None = None
) -> Verdict:
    """The first rule that holds. `invalid`: why the head can't be judged at all; `on_suite`: where it is, or looks, worse on what
    is protected."""
    alpha, basis = alpha_of(policy, head.h, promotions), basis_of(policy, head)
    logw = head.frozen.logw if head.frozen else UNIFORM
    up, down, harm = log_capital(basis.up, logw), log_capital(basis.down), log_capital(head.harm)
    against = alarm_of(policy)

    def verdict(kind: Kind, reason: str, stays: bool = False) -> Verdict:
        return Verdict(kind, reason, alpha, up, down, harm, stays)

    if invalid is not None:
        return verdict("invalid", invalid)
    if harm >= against:
        return verdict("declined", "harm")
    for name, sums in head.slices.items():
        if log_capital(sums) >= against:
            return verdict("declined", f"harm: {name}")
    if on_suite is not None and on_suite.shown:
        return verdict("declined", f"harm: suite {on_suite.suite}")
    over = head.looks >= policy.horizon
    if basis.n < policy.min_groups:
        return verdict("needs_decision", "few_groups") if over else verdict("pending", "few_groups", stays=True)
    if down >= against:
        return verdict("declined", "no_useful_gain")
    if basis.clipped_low > basis.clipped_high and basis.clipped_low >= HEAVY_TAIL:
        return verdict("needs_decision", "heavy_tail", stays=not over)
    if up >= reached_by(alpha):
        if basis is head and head.selected and not policy.accept_selected_rows:
            return verdict("needs_decision", "selected_rows", stays=not over)
        if on_suite is not None:
            unasked = ", of which no task could be asked" if on_suite.unasked else ""
            return verdict("needs_decision", f"protected: suite {on_suite.suite}{unasked}", stays=not over)
        return verdict("promote", "evidence", stays=not over)
    if over:
        return verdict("needs_decision", "no_evidence")
    return verdict("pending", "no_evidence", stays=True)


def alarm_of(policy: EvidencePolicy) -> float:
    """Log capital at which a head counts as harmful or useless, in nats."""
    return reached_by(policy.beta)


class Judgement(NamedTuple):
    """Verdicts by version, the head that may be served, if any, and the state without those that are done with. `restarts`: the
    learner's newest head did harm, or was none, and the learner begins again from what is served."""

    verdicts: dict[str, Verdict]
    winner: Head | None
    state: EvidenceState
    restarts: bool


def judged(
    policy: EvidencePolicy,
    state: EvidenceState,
    looked: Sequence[Head],
    invalid: Mapping[str, str],
    on_suites: Mapping[str, SuiteHarm] = MappingProxyType({}),
    *,
    version: int = 4,
) -> Judgement:
    """All heads of a look are judged before any is served; of several that pass, the one that is furthest above its threshold.
    Until rule version 4 whatever was invalid ended the chain."""
    verdicts = {
        head.version_id: judge(policy, head, state.promotions, invalid.get(head.version_id), on_suites.get(head.version_id))
        for head in looked
    }
    passed = [head for head in looked if verdicts[head.version_id].kind == "promote"]
    winner = max(passed, key=lambda head: (_margin(verdicts[head.version_id]), head.cut), default=None)
    now = {head.version_id: head for head in looked}
    pending = [now.get(head.version_id, head) for head in state.pending]
    stay = tuple(head for head in pending if head.version_id not in verdicts or verdicts[head.version_id].stays)
    newest = verdicts.get(pending[-1].version_id) if pending else None
    broken = newest is not None and newest.kind == "invalid" and version < 4
    restarts = newest is not None and (broken or ends_chain(newest.kind, newest.reason))
    return Judgement(verdicts, winner, replace(state, pending=stay), restarts)


def _margin(verdict: Verdict) -> float:
    return verdict.up - verdict.needed


def promoted(policy: EvidencePolicy, state: EvidenceState, head: Head, *, position: int) -> EvidenceState:
    """`head` is served by evidence from `position` on: everything seen until now is spent. The learner's newest head enters
    against it as the first of a new row, with nothing."""
    newer = [each for each in state.pending if each.cut > head.cut]
    fresh = replace(state, since=position, promotions=state.promotions + 1, cuts=0, pending=(), watch=watched(policy, head))
    return cut(policy, fresh, newer[-1].version_id, newer[-1].cut) if newer else fresh


def watched(policy: EvidencePolicy, head: Head | None, version_id: str = "") -> HarmWatch:
    """The watch over a promotion: in the scale of its evidence, where there was any."""
    scales = head.frozen.scales if head and head.frozen else {}
    return HarmWatch(
        version_id=head.version_id if head else version_id,
        scale=scales.get(SCREEN, policy.first_scale),
        harm=ZERO,
    )


def restarted(state: EvidenceState, position: int, watch: HarmWatch | None = None) -> EvidenceState:
    """Somebody changed what is served, or what heads are made from or measured by: what was seen until now is spent; the price
    of the next head stays."""
    return replace(state, since=position, pending=(), watch=watch)


def watched_further(
    policy: EvidencePolicy, watch: HarmWatch, groups: Sequence[GroupFigures], *, since: int, first_seen: Mapping[str, int]
) -> HarmWatch | None:
    """The watch after a look at what is served now against what was served before; None when `horizon` looks saw no harm.
    `proposed` once the alarm has sounded; then nothing is counted any more."""
    if watch.proposed:
        return watch
    known = frozenset(watch.counted)
    fresh = [
        figures
        for figures in groups
        if figures.side != "validation"
        and figures.group not in known
        and SCREEN in figures.values
        and first_seen[figures.group] > since
    ]
    fresh.sort(key=lambda figures: derive_id("look", watch.version_id, figures.group))
    harm, counted = watch.harm, list(watch.counted)
    for figures in fresh[: policy.max_groups]:
        harm = alarmed(policy, harm, scaled(figures.values[SCREEN], watch.scale), watch.scale)
        counted.append(figures.group)
    proposed = log_capital(harm) >= alarm_of(policy)
    if watch.looks + 1 >= policy.horizon and not proposed:
        return None
    return replace(watch, harm=harm, counted=tuple(sorted(counted)), looks=watch.looks + 1, n=len(counted), proposed=proposed)
