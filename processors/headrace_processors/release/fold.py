"""Release: what is served of a bucket, decided from evaluations and commands in one order. A pure fold over `outcomes`.

Every evaluation and every command gets one answer on `releases.history`, with `request_id` = its event id and the next
`sequence` of the bucket; a repeated event (same bucket, source and id) has been answered already and changes nothing.
Answers that change what is served stand on `releases` too, and tell curate which requirements are met now; so does another
evaluation of what is served.

In an answer `release_id` names the answer itself; adapter, version, evaluation and batches are those served after it, and of a
declined one those that were asked for. `parent_release_id` is what was served before. Only adapters that were evaluated are
ever served, and none that was revoked. Pausing stops what the system would do by itself, not what a person asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, json
from msgspec.structs import replace

from headrace_processors.release.gate import figures, refusal
from headrace_processors.release.policy import ReleasePolicy
from headrace_schemas.codec import decode
from headrace_schemas.derived import Adapter, Evaluation, ReleaseDecision, Requirement, Tracking
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
)
from headrace_schemas.ids import derive_id
from headrace_schemas.times import rfc3339
from headrace_streams.runtime.stage import Fold, Record, Step, Write

SOURCE = "headrace:release"
BASE = "base"  # names the base in a roll-back, as a release id would

Request = EvaluationCompleted | PromoteRequested | RollbackRequested | RevokeRequested | PauseRequested | ResumeRequested


class Candidate(Struct, frozen=True, omit_defaults=True):
    """What may be served: the adapter of an evaluated version, by its latest evaluation; without one, the base itself.

    `refusal`: what the gate said against it, "" for nothing."""

    adapter: Adapter | None = None
    version_id: str | None = None
    evaluation_id: str | None = None
    batch_ids: list[str] = []
    requirements: list[Requirement] = []
    policy_digests: dict[str, str] = {}
    refusal: str = ""

    @property
    def digest(self) -> str | None:
        return None if self.adapter is None else self.adapter.digest


class Served(Struct, frozen=True, omit_defaults=True):
    """A release that was served once. `before`: the release that a roll-back from it leads to; None is the base."""

    release_id: str
    candidate: Candidate
    before: str | None = None


class Bucket(Struct, frozen=True, omit_defaults=True):
    """`serving`: id of the release that is served; None before the first, which is the base."""

    name: str
    sequence: int = 0
    serving: str | None = None
    paused: bool = False


class Mark(Struct, frozen=True):
    """That something is so: a digest revoked, a request answered; and by which answer."""

    release_id: str


class ReleaseFold(Fold):
    """The fold under one policy, as `stage.Fold` describes it. `outcomes` in; `releases`, `releases.history` and, for
    the requirements, `examples` out."""

    def __init__(self, policy: ReleasePolicy, digest: str) -> None:
        """`digest` is that of the policy body as recorded, which today's model need not have."""
        self._policy = policy
        self._digests = {"release": digest}

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        event = decode(record.value, record.headers)
        if not isinstance(event, Request):
            raise ValueError(f"{type(event).__name__}: not an event that release answers")
        answered = f"answered:{derive_id('answered', event.data.bucket, event.source, event.id)}"
        if answered in state:
            return Step(counters={"answered": 1})
        turn = _Turn(self._policy, self._digests, state, record, event)
        match event:
            case EvaluationCompleted(data=evaluation):
                turn.evaluated(evaluation)
            case PromoteRequested(data=asked):
                turn.promote(asked.version_id)
            case RollbackRequested(data=asked):
                turn.roll_back(asked.release_id)
            case RevokeRequested(data=asked):
                turn.revoke(asked.adapter)
            case PauseRequested() | ResumeRequested():
                turn.switch(isinstance(event, PauseRequested))
        turn.changes[answered] = Mark(turn.release_id)
        return Step(turn.outputs, turn.changes, {"answered": 1})

    def load(self, key: str, value: bytes) -> Any:
        """ValueError when the key is none of release's or the value is not what belongs to it."""
        kind = _TYPES.get(key.partition(":")[0])
        if kind is None:
            raise ValueError(f"state key: {key!r} is none of release's")
        return json.decode(value, type=kind)


class _Turn:
    """One answer in the making."""

    def __init__(
        self, policy: ReleasePolicy, digests: Mapping[str, str], state: Mapping[str, Any], record: Record, event: Request
    ) -> None:
        self.policy, self.digests, self.state, self.record, self.event = policy, digests, state, record, event
        name = event.data.bucket
        self.bucket: Bucket = state.get(f"bucket:{name}") or Bucket(name)
        self.sequence = self.bucket.sequence + 1
        self.release_id = derive_id("release", name, self.sequence, event.id)
        self.changes: dict[str, Any] = {}
        self.outputs: list[Write] = []
        self.said = getattr(event.data, "reason", None)
        self.serving = self.served(self.bucket.serving) or Served("", Candidate())

    def evaluated(self, evaluation: Evaluation) -> None:
        against = refusal(self.policy, evaluation.comparison)
        candidate = Candidate(
            adapter=evaluation.adapter,
            version_id=evaluation.version_id,
            evaluation_id=evaluation.evaluation_id,
            batch_ids=[evaluation.batch_id],
            requirements=evaluation.requirements,
            policy_digests=evaluation.policy_digests,
            refusal=against or "",
        )
        self.changes[f"version:{evaluation.version_id}:{self.bucket.name}"] = candidate
        parent = self.served(evaluation.parent_release_id)
        if (reason := self._unservable(candidate)) is not None:
            self._decline(candidate, reason)
            if candidate.digest == self.serving.candidate.digest:
                self._remeasured(candidate)
        elif parent is None or parent.candidate.digest != self.serving.candidate.digest:
            compared, now = evaluation.parent_release_id or BASE, self.bucket.serving or BASE
            self._decline(candidate, f"stale: it was compared with {compared}, and {now} is served now")
        elif against is not None:
            self._decline(candidate, against)
        elif self.bucket.paused:
            self._decline(candidate, "paused: the bucket's releases are paused")
        elif self.policy.mode == "manual":
            self._decline(candidate, "awaiting_promotion: the gate lets it pass, and the policy leaves promotion to a person")
        else:
            self._serve(ReleasePromoted, candidate, self.bucket.serving, f"gate: {figures(evaluation.comparison)}")

    def promote(self, version_id: str) -> None:
        candidate: Candidate | None = self.state.get(f"version:{version_id}:{self.bucket.name}")
        if candidate is None:
            reason = f"not_evaluated: version {version_id} has no evaluation in {self.bucket.name}"
            self._decline(Candidate(version_id=version_id), reason)
        elif (reason := self._unservable(candidate) or "") != "":
            self._decline(candidate, reason)
        else:
            although = f" although the gate said {candidate.refusal}" if candidate.refusal else ""
            self._serve(ReleasePromoted, candidate, self.bucket.serving, self._because(f"requested{although}"))

    def roll_back(self, release_id: str | None) -> None:
        if release_id is None:
            if self.serving.candidate.adapter is None:
                return self._decline(self.serving.candidate, "nothing_before: the base is served")
            target: Served | None = self._before(self.serving)
        else:
            target = self.served(None if release_id == BASE else release_id)
        if target is None:
            return self._decline(Candidate(), f"unknown_release: {release_id} was never served in {self.bucket.name}")
        reason = self._unservable(target.candidate)
        if reason is not None:
            return self._decline(target.candidate, reason)
        self._serve(
            ReleaseRolledBack, target.candidate, target.before, self._because(f"requested, to {target.release_id or BASE}")
        )

    def revoke(self, digest: str) -> None:
        self.changes[_revoked(digest, self.bucket.name)] = Mark(self.release_id)
        if self.serving.candidate.digest != digest:
            return self._answer(ReleaseRevoked, self.serving.candidate, self._because(f"revoked {digest}, which is not served"))
        target = self._before(self.serving)
        reason = self._because(f"revoked {digest}, back to {target.release_id or BASE}")
        self._serve(ReleaseRevoked, target.candidate, target.before, reason)

    def switch(self, paused: bool) -> None:
        already = "already " if self.bucket.paused == paused else ""
        self.bucket = replace(self.bucket, paused=paused)
        kind = ReleasePaused if paused else ReleaseResumed
        self._answer(kind, self.serving.candidate, self._because(f"{already}{'paused' if paused else 'running'}"))

    def served(self, release_id: str | None) -> Served | None:
        """A release that was served once; None names the base. None when there was no such release."""
        if release_id is None:
            return Served("", Candidate())
        found: Served | None = self.state.get(f"release:{release_id}:{self.bucket.name}")
        return found

    def _before(self, release: Served) -> Served:
        """The newest release before `release` that may be served again and differs from it, or the base."""
        left = release.candidate.digest
        while release.candidate.digest == left or self._is_revoked(release.candidate):
            found = self.served(release.before)
            assert found is not None, f"release {release.before} of {self.bucket.name} is not known"
            if found.candidate.adapter is None:
                return found
            release = found
        return release

    def _is_revoked(self, candidate: Candidate) -> bool:
        key = _revoked(candidate.digest or "", self.bucket.name)
        return key in self.changes or key in self.state

    def _unservable(self, candidate: Candidate) -> str | None:
        if self._is_revoked(candidate):
            return f"revoked: adapter {candidate.digest} was revoked"
        if candidate.digest == self.serving.candidate.digest:
            return f"already_served: {candidate.digest or 'the base'} is what is served"
        return None

    def _because(self, what: str) -> str:
        return f"{what}: {self.said}" if self.said else what

    def _decline(self, candidate: Candidate, reason: str) -> None:
        self._answer(ReleaseDeclined, candidate, reason)

    def _serve(self, kind: type[Envelope], candidate: Candidate, before: str | None, reason: str) -> None:
        self.changes[f"release:{self.release_id}:{self.bucket.name}"] = Served(self.release_id, candidate, before)
        self.bucket = replace(self.bucket, serving=self.release_id)
        self._answer(kind, candidate, reason)
        answer = self.outputs[-1]
        self.outputs.append(answer._replace(topic="releases"))
        self._track(self.release_id, candidate.requirements)

    def _remeasured(self, candidate: Candidate) -> None:
        """What is served was evaluated again: it may meet other requirements now, or there may be others. Without this a
        bucket that satisfied all would never be cut again, whatever is required of it later."""
        if candidate.requirements == self.serving.candidate.requirements:
            return
        known = replace(self.serving.candidate, requirements=candidate.requirements)
        served = replace(self.serving, candidate=known)
        self.changes[f"release:{served.release_id}:{self.bucket.name}"] = served
        self._track(served.release_id, candidate.requirements)

    def _track(self, release_id: str, required: list[Requirement]) -> None:
        """Tells curate which requirements the served release meets."""
        tracking = RequirementsTracked(
            specversion="1.0",
            id=derive_id("requirements.tracked", self.release_id),
            source=SOURCE,
            time=rfc3339(self.record.now),
            traceparent=self.event.traceparent,
            data=Tracking(
                bucket=self.bucket.name,
                release_id=release_id,
                satisfied=bool(required) and all(requirement.satisfied for requirement in required),
                requirements=required,
            ),
        )
        self.outputs.append(Write("examples", self.bucket.name, tracking))

    def _answer(self, kind: type[Envelope], candidate: Candidate, reason: str) -> None:
        name = self.bucket.name
        self.bucket = replace(self.bucket, sequence=self.sequence)
        self.changes[f"bucket:{name}"] = self.bucket
        artifact_type, _, base = name.partition("/")
        event: Event = kind(  # type: ignore[call-arg,assignment]
            specversion="1.0",
            id=derive_id("release.answer", self.release_id),
            source=SOURCE,
            time=rfc3339(self.record.now),
            traceparent=self.event.traceparent,
            data=ReleaseDecision(
                release_id=self.release_id,
                sequence=self.sequence,
                bucket=name,
                artifact_type=artifact_type,
                base=base,
                batch_ids=candidate.batch_ids,
                reason=reason,
                policy_digests={**candidate.policy_digests, **self.digests},
                request_id=self.event.id,
                adapter=candidate.adapter,
                version_id=candidate.version_id,
                parent_release_id=self.serving.release_id or None,
                evaluation_id=candidate.evaluation_id,
                requested_by=getattr(self.event.data, "requested_by", None),
            ),
        )
        self.outputs.append(Write("releases.history", name, event))


def _revoked(digest: str, bucket: str) -> str:
    return f"revoked:{digest}:{bucket}"


_TYPES: dict[str, Any] = {"bucket": Bucket, "version": Candidate, "release": Served, "revoked": Mark, "answered": Mark}


def build(body: Mapping[str, Any], digest: str) -> ReleaseFold:
    """The fold under a policy body; `digest` names it in what is written."""
    return ReleaseFold(ReleasePolicy.model_validate(body), digest)
