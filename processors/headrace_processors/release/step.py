"""One answer of release in the making, where the gate decides. Knows one record and the state, not what evidence is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from headrace_processors.release.gate import comparison_text, refusal
from headrace_processors.release.policy import ReleasePolicy
from headrace_processors.release.state import (
    AnswerReference,
    ReleaseBucket,
    ServableVersion,
    ServedRelease,
    bucket_key,
    release_key,
    revoked_key,
    version_key,
)
from headrace_schemas.derived import Evaluation, HarmEvidence, HeadEvidence, ReleaseDecision, Requirement, Tracking
from headrace_schemas.events import (
    Envelope,
    EvaluationCompleted,
    Event,
    PauseRequested,
    PromoteRequested,
    ReleaseDeclined,
    ReleasePaused,
    ReleasePromoted,
    ReleaseResumed,
    ReleaseRevoked,
    ReleaseRolledBack,
    RequirementsTracked,
    ResumeRequested,
    RevokeRequested,
    RollbackRequested,
    make,
)
from headrace_schemas.ids import derive_id
from headrace_streams.runtime.stage import Record, Write

STAGE = "release"
BASE = "base"  # names the base in a roll-back, as a release id would

Request = EvaluationCompleted | PromoteRequested | RollbackRequested | RevokeRequested | PauseRequested | ResumeRequested
_BASE_RELEASE = ServedRelease("", ServableVersion())


class ReleaseStep:
    """One answer in the making. `_noted` and `_decide` are this rule's; all else holds for any."""

    def __init__(
        self,
        policy: ReleasePolicy,
        digests: Mapping[str, str],
        state: Mapping[str, Any],
        record: Record,
        event: Request,
        version: int,
    ) -> None:
        self.version = version  # of the rules
        self.policy, self.digests, self.state, self.record, self.event = policy, digests, state, record, event
        name = event.data.bucket
        self.bucket: ReleaseBucket = state.get(bucket_key(name)) or ReleaseBucket(name)
        self.sequence = self.bucket.sequence + 1
        self.release_id = derive_id("release", name, self.sequence, event.id)
        self.changes: dict[str, Any] = {}
        self.outputs: list[Write] = []
        self.why: str | None = getattr(event.data, "reason", None)
        self.serving = self._release(self.bucket.serving) or _BASE_RELEASE
        self.heads: list[HeadEvidence] | None = None
        self.watch: HarmEvidence | None = None

    def evaluated(self, evaluation: Evaluation) -> None:
        version = self._noted(evaluation)
        parent = self._release(evaluation.parent_release_id)
        if (reason := self._unservable(version)) is not None:
            self._decline(version, reason)
            if version.digest == self.serving.version.digest:
                self._remeasured(version)
        elif parent is None or parent.version.digest != self.serving.version.digest:
            compared, now = evaluation.parent_release_id or BASE, self.bucket.serving or BASE
            self._decline(version, f"stale: it was compared with {compared}, and {now} is served now")
        else:
            self._decide(evaluation, version)

    def promote(self, version_id: str) -> None:
        version: ServableVersion | None = self.state.get(version_key(version_id, self.bucket.name))
        if version is None:
            reason = f"not_evaluated: version {version_id} has no evaluation in {self.bucket.name}"
            self._decline(ServableVersion(version_id=version_id), reason)
        elif (reason := self._unservable(version) or "") != "":
            self._decline(version, reason)
        else:
            although = f" although the gate said {version.refusal}" if version.refusal else ""
            self._serve(ReleasePromoted, version, self.bucket.serving, self._because(f"requested{although}"))

    def roll_back(self, release_id: str | None) -> None:
        if release_id is None:
            if self.serving.version.adapter is None:
                return self._decline(self.serving.version, "nothing_before: the base is served")
            target: ServedRelease | None = self._previous(self.serving)
        else:
            target = self._release(None if release_id == BASE else release_id)
        if target is None:
            return self._decline(ServableVersion(), f"unknown_release: {release_id} was never served in {self.bucket.name}")
        reason = self._unservable(target.version)
        if reason is not None:
            return self._decline(target.version, reason)
        self._serve(
            ReleaseRolledBack, target.version, target.previous, self._because(f"requested, to {target.release_id or BASE}")
        )

    def revoke(self, digest: str) -> None:
        self.changes[revoked_key(digest, self.bucket.name)] = AnswerReference(self.release_id)
        if self.serving.version.digest != digest:
            return self._answer(ReleaseRevoked, self.serving.version, self._because(f"revoked {digest}, which is not served"))
        target = self._previous(self.serving)
        reason = self._because(f"revoked {digest}, back to {target.release_id or BASE}")
        self._serve(ReleaseRevoked, target.version, target.previous, reason)

    def set_paused(self, paused: bool) -> None:
        already = "already " if self.bucket.paused == paused else ""
        self.bucket = replace(self.bucket, paused=paused)
        kind = ReleasePaused if paused else ReleaseResumed
        self._answer(kind, self.serving.version, self._because(f"{already}{'paused' if paused else 'running'}"))

    def _noted(self, evaluation: Evaluation) -> ServableVersion:
        """The version as it is remembered, with what the rule says against it as far as that is known by now."""
        against = self._invalid(evaluation) or refusal(self.policy, evaluation.comparison) or ""
        return self._remembered(self._version_of(evaluation, against))

    def _invalid(self, evaluation: Evaluation) -> str | None:
        """Why the evaluated version is none, however good it looks: it has learnt what was taken back, say. Looked at since rule
        version 5."""
        own = (head.invalid for head in evaluation.heads or () if head.version_id == evaluation.version_id)
        reason = next(own, None) if self.version > 4 else None
        return None if reason is None else f"invalid: {reason}"

    def _decide(self, evaluation: Evaluation, version: ServableVersion) -> None:
        """What the rule makes of a version that was compared with what is served."""
        if version.refusal:
            self._decline(version, version.refusal)
        elif (why := self._withheld("gate")) is not None:
            self._decline(version, why)
        else:
            self._serve(ReleasePromoted, version, self.bucket.serving, f"gate: {comparison_text(evaluation.comparison)}")

    def _withheld(self, rule: str) -> str | None:
        """Why what the rule lets pass is not served all the same."""
        if self.bucket.paused:
            return "paused: the bucket's releases are paused"
        if self.policy.mode == "manual":
            return f"awaiting_promotion: the {rule} lets it pass, and the policy leaves promotion to a person"
        return None

    def _version_of(self, evaluation: Evaluation, against: str) -> ServableVersion:
        """What an evaluation says of its version; what it was taught since rule version 5."""
        version = version_of(evaluation, against)
        return replace(version, dataset_digest=evaluation.dataset_digest) if self.version > 4 else version

    def _remembered(self, version: ServableVersion) -> ServableVersion:
        assert version.version_id is not None
        self.changes[version_key(version.version_id, self.bucket.name)] = version
        return version

    def _release(self, release_id: str | None) -> ServedRelease | None:
        """A release that was served once; None names the base. None when there was no such release."""
        if release_id is None:
            return _BASE_RELEASE
        release: ServedRelease | None = self.state.get(release_key(release_id, self.bucket.name))
        return release

    def _previous(self, release: ServedRelease) -> ServedRelease:
        """The newest release before `release` that may be served again and differs from it, or the base."""
        digest = release.version.digest
        while release.version.digest == digest or self._is_revoked(release.version):
            previous = self._release(release.previous)
            assert previous is not None, f"release {release.previous} of {self.bucket.name} is not known"
            if previous.version.adapter is None:
                return previous
            release = previous
        return release

    def _is_revoked(self, version: ServableVersion) -> bool:
        key = revoked_key(version.digest or "", self.bucket.name)
        return key in self.changes or key in self.state

    def _unservable(self, version: ServableVersion) -> str | None:
        if self._is_revoked(version):
            return f"revoked: adapter {version.digest} was revoked"
        if version.digest == self.serving.version.digest:
            return f"already_served: {version.digest or 'the base'} is what is served"
        return None

    def _because(self, what: str) -> str:
        return f"{what}: {self.why}" if self.why else what

    def _decline(self, version: ServableVersion, reason: str) -> None:
        self._answer(ReleaseDeclined, version, reason)

    def _serve(self, kind: type[Envelope], version: ServableVersion, previous: str | None, reason: str) -> None:
        self.changes[release_key(self.release_id, self.bucket.name)] = ServedRelease(self.release_id, version, previous)
        self.bucket = replace(self.bucket, serving=self.release_id)
        self._answer(kind, version, reason)
        answer = self.outputs[-1]
        self.outputs.append(answer._replace(topic="releases"))
        self._track(self.release_id, version.requirements)

    def _remeasured(self, version: ServableVersion) -> None:
        """What is served was evaluated again: it may meet other requirements now, or there may be others. Without this a
        bucket that satisfied all would never be cut again, whatever is required of it later."""
        if version.requirements == self.serving.version.requirements:
            return
        served = replace(self.serving.version, requirements=version.requirements)
        release = replace(self.serving, version=served)
        self.changes[release_key(release.release_id, self.bucket.name)] = release
        self._track(release.release_id, version.requirements)

    def _track(self, release_id: str, required: list[Requirement]) -> None:
        """Tells curate which requirements the served release meets."""
        tracking = make(
            RequirementsTracked,
            Tracking(
                bucket=self.bucket.name,
                release_id=release_id,
                satisfied=bool(required) and all(requirement.satisfied for requirement in required),
                requirements=required,
            ),
            id=derive_id("requirements.tracked", self.release_id),
            writer=STAGE,
            time_ms=self.record.now,
            traceparent=self.event.traceparent,
        )
        self.outputs.append(Write("examples", self.bucket.name, tracking))

    def _answer(self, kind: type[Envelope], version: ServableVersion, reason: str) -> None:
        name = self.bucket.name
        self.bucket = replace(self.bucket, sequence=self.sequence)
        self.changes[bucket_key(name)] = self.bucket
        artifact_type, _, base = name.partition("/")
        event: Event = make(  # type: ignore[assignment]
            kind,
            ReleaseDecision(
                release_id=self.release_id,
                sequence=self.sequence,
                bucket=name,
                artifact_type=artifact_type,
                base=base,
                batch_ids=version.batch_ids,
                reason=reason,
                policy_digests={**version.policy_digests, **self.digests},
                request_id=self.event.id,
                adapter=version.adapter,
                version_id=version.version_id,
                parent_release_id=self.serving.release_id or None,
                evaluation_id=version.evaluation_id,
                requested_by=getattr(self.event.data, "requested_by", None),
                base_digest=version.base_digest,
                evidence=self.heads,
                watch=self.watch,
                dataset_digest=version.dataset_digest,
            ),
            id=derive_id("release.answer", self.release_id),
            writer=STAGE,
            time_ms=self.record.now,
            traceparent=self.event.traceparent,
        )
        self.outputs.append(Write("releases.history", name, event))


def version_of(evaluation: Evaluation, against: str) -> ServableVersion:
    return ServableVersion(
        adapter=evaluation.adapter,
        version_id=evaluation.version_id,
        evaluation_id=evaluation.evaluation_id,
        batch_ids=[evaluation.batch_id],
        requirements=evaluation.requirements,
        policy_digests=evaluation.policy_digests,
        refusal=against,
    )
