"""What there is to say of a release, in plain sentences: why, what changed, verdict, chain. Pure; knows events, no lake."""

from __future__ import annotations

from collections.abc import Sequence

from headrace_processors.release.gate import comparison_text
from headrace_schemas.derived import Batch, Evaluation, HeadEvidence, ModelVersion, ReleaseDecision

KINDS = {
    "promoted": "was promoted",
    "declined": "was declined",
    "rolled_back": "was rolled back to",
    "revoked": "was answered by a revocation",
    "paused": "paused automatic releases",
    "resumed": "let automatic releases go on",
}


def release_text(
    kind: str,
    decision: ReleaseDecision,
    *,
    version: ModelVersion | None = None,
    batches: Sequence[Batch] = (),
    evaluation: Evaluation | None = None,
    previous: ReleaseDecision | None = None,
) -> dict[str, str]:
    """Sentences by heading: `why`, `what changed`, `verdict`, `chain`; without those of which nothing is known."""
    found = {"why": _why(kind, decision)}
    if (changed := _changed(decision, version, batches)) is not None:
        found["what changed"] = changed
    if (verdict := _verdict(decision, evaluation)) is not None:
        found["verdict"] = verdict
    found["chain"] = _chain(decision, previous)
    return found


def _why(kind: str, decision: ReleaseDecision) -> str:
    what = "the base" if decision.adapter is None else f"adapter {_short(decision.adapter.digest)}"
    done = KINDS.get(kind, kind)
    by = "the policy alone decided" if decision.requested_by is None else f"{decision.requested_by} asked for it"
    told = f"Of {decision.bucket}, {what} {done}" if kind not in ("paused", "resumed") else f"{decision.bucket}: this {done}"
    return f"{told}: {decision.reason}. Here {by}."


def _changed(decision: ReleaseDecision, version: ModelVersion | None, batches: Sequence[Batch]) -> str | None:
    if version is None:
        return "It serves the base again, without an adapter." if decision.adapter is None else None
    start = "the base" if version.parent_adapter is None else f"adapter {_short(version.parent_adapter)}"
    told = [
        f"Version {_short(version.version_id)} went on from {start} and learnt {version.rows:,} rows ({version.tokens:,} tokens) "
        f"in {version.seconds:,.0f} s."
    ]
    for batch in batches:
        said = batch.statistics
        negatives = f" and {said.negatives} to be avoided" if said.negatives else ""
        told.append(
            f"Batch {_short(batch.batch_id)} was cut for {batch.cause} at a fill of {batch.target:g}: {said.examples} examples "
            f"to learn{negatives}, mean reward {said.mean_reward:.3g}."
        )
    return " ".join(told)


def _verdict(decision: ReleaseDecision, evaluation: Evaluation | None) -> str | None:
    own = next((head for head in decision.evidence or [] if head.version_id == decision.version_id), None)
    told: list[str] = []
    if own is not None:
        told.append(_evidence(own))
    if evaluation is not None:
        told.append(f"On its test rows: {comparison_text(evaluation.comparison)}.")
        required = evaluation.requirements
        if required:
            met = sum(requirement.satisfied for requirement in required)
            told.append(f"It meets {met} of {len(required)} requirements.")
    if decision.watch is not None:
        watch = decision.watch
        told.append(
            f"The promotion of version {_short(watch.version_id)} is watched: {watch.looks} looks, {watch.groups} groups"
            + (", and a roll-back is proposed." if watch.proposed else ".")
        )
    return " ".join(told) or None


def _evidence(head: HeadEvidence) -> str:
    unit = "of success" if head.measure == "success" else "nats a token"
    return (
        f"After {head.looks} {'look' if head.looks == 1 else 'looks'} at {head.groups} groups it is {head.mean:+.3g} {unit} on "
        f"average; its log capital is {head.capital:.3g} of the {head.needed:.3g} that a promotion needs at a chance of error of "
        f"{head.alpha:.3g}: {head.verdict}, {head.reason}."
    )


def _chain(decision: ReleaseDecision, previous: ReleaseDecision | None) -> str:
    if decision.parent_release_id is None:
        return f"It is answer number {decision.sequence} of its bucket; before it the base was served."
    number = "" if previous is None else f" (number {previous.sequence})"
    before = f"release {_short(decision.parent_release_id)}{number}"
    return f"It is answer number {decision.sequence} of its bucket; before it {before} was served."


def _short(name: str) -> str:
    return name.removeprefix("sha256:")[:12]
