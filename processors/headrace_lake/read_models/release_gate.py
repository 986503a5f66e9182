"""Why a version may be served, or not, as a tree of conditions: what release decided by, from what it recorded. Knows the
policy's figures and the evidence on the log; runs no rule again.
"""

from __future__ import annotations

from headrace_lake.read_models.conditions import ConditionNode, joined
from headrace_processors.release.policy import ReleasePolicy
from headrace_schemas.derived import Comparison, Evaluation, HeadEvidence, ReleaseDecision

_AFTER_THE_RULE = ("paused", "awaiting_promotion")  # what is asked only of what the rule lets pass


def gate_tree(
    policy: ReleasePolicy | None, evaluation: Evaluation | None, decision: ReleaseDecision | None
) -> ConditionNode | None:
    """Of the answer to an evaluation: under the rule `evidence` its head's bets, under `gate` the one comparison. None where
    nothing was compared."""
    parts: list[ConditionNode] = []
    version_id = evaluation.version_id if evaluation is not None else decision.version_id if decision is not None else None
    head = None if decision is None else next((each for each in decision.evidence or [] if each.version_id == version_id), None)
    if head is not None:
        parts.append(evidence_tree(head, policy))
    elif evaluation is not None and policy is not None:
        parts.append(comparison_tree(policy, evaluation.comparison))
    if not parts:
        return None
    if decision is not None:
        reason, asked = decision.reason, True
        for name, prefix, note in (
            ("it was not revoked", "revoked", ""),
            ("it is not what is served already", "already_served", ""),
            ("what it was compared with is still what is served", "stale", "the comparison is made again, not the training"),
            ("the bucket's releases are not paused", "paused", ""),
            ("no person has to promote it", "awaiting_promotion", "the policy's mode is manual"),
        ):
            broken = reason.startswith(prefix)
            asked = asked and (broken or prefix not in _AFTER_THE_RULE or parts[0].holds is not False)
            parts.append(ConditionNode(name=name, holds=not broken if asked else None, note=note if broken else ""))
            asked = asked and not broken
    return joined("it may be served", parts)


def comparison_tree(policy: ReleasePolicy, comparison: Comparison) -> ConditionNode:
    """The rule `gate`."""
    gain = comparison.loss_gain
    parts = [
        ConditionNode(
            name="enough test rows",
            holds=comparison.n >= policy.min_test_rows,
            value=comparison.n,
            bound=f"at least {policy.min_test_rows}",
            policy_key="release.min_test_rows",
        ),
        ConditionNode(
            name="the gain in loss is sure",
            holds=gain.low > policy.min_gain,
            value=gain.low,
            bound=f"above {policy.min_gain:g}",
            note=f"lower end of the 95 % interval of {gain.value:.4g} nats a token",
            policy_key="release.min_gain",
        ),
    ]
    wins, losses = comparison.wins, comparison.losses
    graded = wins is not None and losses is not None
    parts.append(
        ConditionNode(
            name="more wins than losses",
            holds=wins > losses if wins is not None and losses is not None else None,
            value=wins,
            bound=f"above {losses}" if graded else None,
            note="" if graded else "no grader was asked",
        )
    )
    return joined("the comparison speaks for it (rule gate)", parts)


def evidence_tree(head: HeadEvidence, policy: ReleasePolicy | None = None) -> ConditionNode:
    """The rule `evidence`, at one look. Log capitals are in nats."""
    least = None if policy is None else policy.evidence.min_groups
    horizon = None if policy is None else policy.evidence.horizon
    apart = head.apart or 0
    parts = [
        ConditionNode(
            name="it can be judged",
            holds=head.verdict != "invalid",
            note=head.reason if head.verdict == "invalid" else "",
        ),
        ConditionNode(
            name="no harm is shown",
            holds=head.harm < head.alarm and not head.reason.startswith("harm"),
            value=head.harm,
            bound=f"below {head.alarm:.4g}",
            note=head.reason if head.reason.startswith("harm") else "log capital of the bet that its loss is not worse",
            policy_key="release.evidence.beta",
        ),
        ConditionNode(
            name="enough groups",
            holds=None if least is None else head.groups - apart >= least or head.groups >= least,
            value=head.groups,
            bound=None if least is None else f"at least {least}",
            note=f"{apart} that feedback selected are counted apart" if apart else "",
            policy_key="release.evidence.min_groups",
        ),
        ConditionNode(
            name="a useful gain is not ruled out",
            holds=head.useless < head.alarm,
            value=head.useless,
            bound=f"below {head.alarm:.4g}",
            note="log capital of the bet that its gain is worth a release",
            policy_key="release.evidence.beta",
        ),
        ConditionNode(
            name="the bet that it is no better has lost",
            holds=head.capital >= head.needed,
            value=head.capital,
            bound=f"at least {head.needed:.4g}",
            note=f"chance of error {head.alpha:.3g}, as head number {head.h} since the last promotion",
            policy_key="release.evidence.alpha",
        ),
        ConditionNode(
            name="no person has to decide",
            holds=head.verdict != "needs_decision",
            note=head.reason if head.verdict == "needs_decision" else "",
        ),
    ]
    looks = f"look {head.looks}" + (f" of {horizon}" if horizon is not None else "")
    return joined(f"the evidence speaks for it ({looks}, {head.measure})", parts, note=f"{head.verdict}: {head.reason}")
