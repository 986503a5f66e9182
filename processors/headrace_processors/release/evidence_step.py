"""One answer of release in the making, where evidence decides (since rule version 3). Knows the record and the state; the
formulas are in `evidence` and `judgement`.

Positions are sequences of the bucket: each evaluation and each command has one. What somebody changes by hand spends the evidence
that there is: groups that were seen until then count no more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec.structs import replace

from headrace_processors.release.evidence import (
    MICRO,
    GroupFigures,
    Measure,
    cut,
    log_capital,
    looked_at,
    noted,
    scaled,
)
from headrace_processors.release.evidence_state import EvidenceState, HarmWatch, Head
from headrace_processors.release.groups import forgotten, looked_at_again
from headrace_processors.release.judgement import (
    Judgement,
    Verdict,
    alarm_of,
    basis_of,
    judged,
    promoted,
    restarted,
    watched,
    watched_further,
)
from headrace_processors.release.protected import harm_on
from headrace_processors.release.state import GroupSeen, ServableVersion, evidence_key, seen_key, version_key
from headrace_processors.release.step import ReleaseStep
from headrace_schemas.canonical import digest, rounded
from headrace_schemas.derived import Evaluation, EvidenceSeen, GroupResult, HarmEvidence, HeadEvidence
from headrace_schemas.events import ReleasePromoted


class EvidenceStep(ReleaseStep):
    """An answer, and what it leaves of the bucket's evidence."""

    first_seen: Mapping[str, int]  # of the evaluation's groups, this time included

    @property
    def _apart(self) -> bool:
        """Whether groups that feedback selected are counted apart: since version 4, unless they are as good as others."""
        return self.version > 3 and not self.policy.evidence.accept_selected_rows

    def _noted(self, evaluation: Evaluation) -> ServableVersion:
        version = self._remembered(replace(self._version_of(evaluation, ""), base_digest=_base(evaluation)))
        self.first_seen = self._seen(evaluation)
        return version

    def _decide(self, evaluation: Evaluation, version: ServableVersion) -> None:
        if evaluation.heads is None or evaluation.measure is None:
            reason = "needs_decision: no_groups: the evaluation does not tell groups apart (an older trainer made it)"
            self._decline(self._remembered(replace(version, refusal=reason)), reason)
        else:
            state = self._based(self._evidence(), evaluation)
            self.changes[evidence_key(self.bucket.name)] = self._looked(state, evaluation, version)

    def promote(self, version_id: str) -> None:
        before = self.bucket.serving
        super().promote(version_id)
        if self.bucket.serving != before:
            state = self._evidence()
            head = next((head for head in state.pending if head.version_id == version_id), None)
            self._spent(state, watched(self.policy.evidence, head, version_id))

    def roll_back(self, release_id: str | None) -> None:
        before = self.bucket.serving
        super().roll_back(release_id)
        if self.bucket.serving != before:
            self._spent(self._evidence())

    def revoke(self, digest: str) -> None:
        super().revoke(digest)
        self._spent(self._evidence())

    def _spent(self, state: EvidenceState, watch: HarmWatch | None = None) -> None:
        self.changes[evidence_key(self.bucket.name)] = restarted(state, self.sequence, watch)

    def _evidence(self) -> EvidenceState:
        """Where something was served by older rules, what was seen until now counts no more."""
        state: EvidenceState | None = self.state.get(evidence_key(self.bucket.name))
        return state or EvidenceState(since=-1 if self.bucket.serving is None else self.sequence)

    def _based(self, state: EvidenceState, evaluation: Evaluation) -> EvidenceState:
        """Evidence that was counted in another way, or under another policy, is none: it begins anew with this look."""
        policy = self.policy.evidence.model_dump(mode="json", exclude_unset=True)  # as recorded: a key of later has no part in it
        basis = digest([evaluation.measure, _base(evaluation), policy, dict(sorted(evaluation.policy_digests.items()))])
        if state.basis not in ("", basis):
            state = restarted(state, max(state.since, self.sequence - 1), state.watch)
        return replace(state, basis=basis)

    def _seen(self, evaluation: Evaluation) -> dict[str, int]:
        """When each group of the evaluation was first seen; remembers those that are new."""
        results = [*(result.groups for result in evaluation.heads or ()), evaluation.watched or ()]
        groups = sorted({result.group for found in results for result in found})
        name = self.bucket.name
        known = {group: entry.position for group in groups if (entry := self.state.get(seen_key(group, name))) is not None}
        new = noted(known, groups, self.sequence)
        self.changes |= {seen_key(group, name): GroupSeen(position) for group, position in new.items()}
        if self.version > 4 and self.policy.remembered_groups is not None:
            self._forget_groups(groups, len(new), self.policy.remembered_groups)
        return {**known, **new}

    def _forget_groups(self, groups: Collection[str], new: int, limit: int) -> None:
        """Lets go of groups that were looked at longest ago, where the bucket remembers more than `limit`."""
        self.changes |= looked_at_again(self.state, self.bucket.name, groups, self.sequence)
        grown = replace(self.bucket, groups=self.bucket.groups + new)
        gone, left = forgotten(self.state, grown, limit, groups)
        self.changes |= dict.fromkeys(gone)
        self.bucket = replace(grown, groups=left)

    def _looked(self, state: EvidenceState, evaluation: Evaluation, version: ServableVersion) -> EvidenceState:
        """Counts a look, judges its heads, answers."""
        policy, results, measure = self.policy.evidence, evaluation.heads or (), evaluation.measure
        assert measure is not None
        if all(head.version_id != evaluation.version_id for head in state.pending):
            state = cut(policy, state, evaluation.version_id, self.sequence)
        given = {result.version_id: _figures(result.groups) for result in results}
        looked = [
            looked_at(
                policy,
                head,
                given[head.version_id],
                measure=measure,
                since=state.since,
                first_seen=self.first_seen,
                apart=self._apart,
                deep=self.version > 3,
            )
            for head in state.pending
            if head.version_id in given
        ]
        invalid = {result.version_id: result.invalid for result in results if result.invalid is not None}
        asked = {result.version_id: harm_on(policy, result.suites or (), self.version) for result in results if self.version > 3}
        harmed = {version_id: harm for version_id, harm in asked.items() if harm is not None}
        before = {head.version_id: head for head in state.pending}
        judgement = judged(policy, state, looked, invalid, harmed, version=self.version)
        self.heads = [
            self._head_evidence(
                state, head, judgement, measure, self._counted(before[head.version_id], head, given[head.version_id], measure)
            )
            for head in looked
        ]
        state = self._watched(judgement.state, evaluation)
        winner, verdict = judgement.winner, judgement.verdicts.get(evaluation.version_id)
        if winner is None:
            reason = f"{_named(verdict)}: {self._text(looked[-1], verdict, measure)}" if verdict else _NOT_LOOKED_AT
            self._decline(self._remembered(replace(version, refusal=reason)), reason + self._alarm())
        elif (after := self._passed(state, winner, judgement.verdicts[winner.version_id], measure)) is not None:
            return after
        return restarted(state, self.sequence, state.watch) if judgement.restarts else state

    def _passed(self, state: EvidenceState, winner: Head, verdict: Verdict, measure: Measure) -> EvidenceState | None:
        """Serves a head that evidence speaks for, unless somebody wants to do that; the state after it.

        None when it is not served."""
        version = self._remembered(replace(self._known(winner), refusal=""))
        text = self._text(winner, verdict, measure)
        if (why := self._withheld("evidence")) is not None:
            self._decline(version, f"{why}; {text}{self._alarm()}")
            return None
        self._serve(ReleasePromoted, version, self.bucket.serving, f"evidence: {text}")
        return promoted(self.policy.evidence, state, winner, position=self.sequence)

    def _known(self, head: Head) -> ServableVersion:
        key = version_key(head.version_id, self.bucket.name)
        version: ServableVersion = self.changes.get(key) or self.state[key]
        return version

    def _watched(self, state: EvidenceState, evaluation: Evaluation) -> EvidenceState:
        watch, policy, seen = state.watch, self.policy.evidence, self.first_seen
        if watch is not None and evaluation.watched is not None:
            watch = watched_further(policy, watch, _figures(evaluation.watched), since=state.since, first_seen=seen)
        if watch is not None:
            self.watch = HarmEvidence(
                version_id=watch.version_id,
                looks=watch.looks,
                groups=watch.n,
                harm=log_capital(watch.harm),
                alarm=alarm_of(policy),
                proposed=watch.proposed,
            )
        return replace(state, watch=watch)

    def _alarm(self) -> str:
        if self.watch is None or not self.watch.proposed:
            return ""
        return f"; roll back: what is served loses more than what was served before it, on {self.watch.groups} groups"

    def _text(self, head: Head, verdict: Verdict, measure: Measure) -> str:
        """`success gain 0.12 on 40 groups in 2 looks, evidence 4.1 of 3.69 nats, loss not shown worse (0.1 of 3 nats)`."""
        frozen, alarm, basis = head.frozen, alarm_of(self.policy.evidence), basis_of(self.policy.evidence, head)
        mean = basis.sum_x / MICRO / basis.n * (frozen.scales[measure] if frozen else 1) if basis.n else 0.0
        groups, looks = f"{basis.n} group{'s' * (basis.n != 1)}", f"{head.looks} look{'s' * (head.looks != 1)}"
        where = " where our model was corrected" if basis is head and head.selected else ""
        worse = "shown worse" if verdict.harm >= alarm else "not shown worse"
        return (
            f"{measure} gain {mean:.4g} on {groups}{where} in {looks}, evidence {verdict.up:.3g} of {verdict.needed:.3g} nats "
            f"({self.policy.evidence.claim}), loss {worse} ({verdict.harm:.3g} of {alarm:.3g} nats)"
        )

    def _counted(self, before: Head, head: Head, given: Sequence[GroupFigures], measure: Measure) -> list[EvidenceSeen]:
        """What the look has added to a head, by group."""
        assert head.frozen is not None
        new = frozenset(head.counted) - frozenset(before.counted)
        by_group = {figures.group: figures for figures in given}
        scale = head.frozen.scales[measure]
        return [
            EvidenceSeen(
                group=group,
                first_seen=self.first_seen[group],
                x=scaled(by_group[group].values[measure], scale),
                selected=self._apart and by_group[group].selected,
            )
            for group in sorted(new)
        ]

    def _head_evidence(
        self, state: EvidenceState, head: Head, judgement: Judgement, measure: Measure, seen: list[EvidenceSeen]
    ) -> HeadEvidence:
        verdict, frozen, basis = judgement.verdicts[head.version_id], head.frozen, basis_of(self.policy.evidence, head)
        assert frozen is not None
        return HeadEvidence(
            version_id=head.version_id,
            adapter=self._known(head).digest or "",
            verdict=verdict.kind,
            reason=verdict.reason,
            waits=verdict.stays and not judgement.restarts,
            h=head.h,
            cut=head.cut,
            since=state.since,
            claim=self.policy.evidence.claim,
            measure=measure,
            alpha=verdict.alpha,
            needed=verdict.needed,
            capital=verdict.up,
            useless=verdict.down,
            harm=verdict.harm,
            alarm=alarm_of(self.policy.evidence),
            looks=head.looks,
            groups=basis.n,
            discordant=basis.discordant,
            selected=head.selected if basis is head else 0,
            clipped_low=basis.clipped_low,
            clipped_high=basis.clipped_high,
            mean=rounded(basis.sum_x / MICRO / basis.n * frozen.scales[measure]) if basis.n else 0.0,
            scale=frozen.scales[measure],
            bets=list(frozen.logw),
            old_groups=frozen.groups,
            old_digest=frozen.digest,
            seen=seen,
            apart=None if basis is head else head.selected,
        )


_NOT_LOOKED_AT = "needs_decision: no_groups: the evaluation has no groups of its own version"


def _base(evaluation: Evaluation) -> str | None:
    return None if evaluation.base_identity is None else evaluation.base_identity.digest


def _named(verdict: Verdict) -> str:
    """The name that a reason begins with: what was decided, and by which rule."""
    return verdict.reason if verdict.kind == "declined" else f"{verdict.kind}: {verdict.reason}"


def _figures(results: Sequence[GroupResult]) -> list[GroupFigures]:
    """ValueError for a group that comes twice: one group is one unit."""
    if len({result.group for result in results}) < len(results):
        raise ValueError("data.heads: a group stands twice in one result")
    return [
        GroupFigures(result.group, result.side, _values(result), result.selected, tuple(result.slices or ()))
        for result in results
    ]


def _values(result: GroupResult) -> dict[str, float]:
    """By measure, those that there are."""
    named = (("loss", result.loss_gain), ("margin", result.margin_gain), ("success", result.success_gain))
    return {name: value for name, value in named if value is not None}
