"""Release: what is served of a bucket, decided from evaluations and commands in one order. A pure fold over `outcomes`.

Every evaluation and every command gets one answer on `releases.history`, with `request_id` = its event id and the next
`sequence` of the bucket; a repeated event (same bucket, source and id) has been answered already and changes nothing, until
the policy forgets its answer.
Answers that change what is served stand on `releases` too, and tell curate which requirements are met now; so does another
evaluation of what is served.

In an answer `release_id` names the answer itself; adapter, version, evaluation and batches are those served after it, and of a
declined one those that were asked for. `parent_release_id` is what was served before. Only adapters that were evaluated are
ever served, and none that was revoked. Pausing stops what the system would do by itself, not what a person asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from headrace_processors.expiry import period_ms
from headrace_processors.release import state as release_state
from headrace_processors.release.answered import remember
from headrace_processors.release.evidence_step import EvidenceStep
from headrace_processors.release.policy import ReleasePolicy
from headrace_processors.release.state import answered_key, bucket_key
from headrace_processors.release.step import ReleaseStep, Request
from headrace_schemas.codec import decode
from headrace_schemas.events import (
    EvaluationCompleted,
    PauseRequested,
    PromoteRequested,
    ResumeRequested,
    RevokeRequested,
    RollbackRequested,
)
from headrace_streams.runtime.stage import Fold, Record, Step

NEWEST = 5  # rule version


class ReleaseFold(Fold):
    """The fold under one policy, as `stage.Fold` describes it. `outcomes` in; `releases`, `releases.history` and, for
    the requirements, `examples` out."""

    gauged = bucket_key("")

    def __init__(self, policy: ReleasePolicy, digest: str, *, version: int) -> None:
        """`digest` is that of the policy body as recorded, which today's model need not have."""
        self._policy, self._version = policy, version
        self._answering = EvidenceStep if version > 2 and policy.rule == "evidence" else ReleaseStep
        self._digests = {"release": digest}
        self._expire_ms = period_ms(policy.expire_after_days)

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        event = decode(record.value, record.headers)
        if not isinstance(event, Request):
            raise ValueError(f"{type(event).__name__}: not an event that release answers")
        answered = answered_key(event.data.bucket, event.source, event.id)
        if answered in state:
            return Step(counters={"answered": 1})
        step = self._answering(self._policy, self._digests, state, record, event, self._version)
        match event:
            case EvaluationCompleted(data=evaluation):
                step.evaluated(evaluation)
            case PromoteRequested(data=asked):
                step.promote(asked.version_id)
            case RollbackRequested(data=asked):
                step.roll_back(asked.release_id)
            case RevokeRequested(data=asked):
                step.revoke(asked.adapter)
            case PauseRequested() | ResumeRequested():
                step.set_paused(isinstance(event, PauseRequested))
        remember(step.changes, state, step.bucket, answered, step.release_id, now=record.now, period_ms=self._expire_ms)
        return Step(step.outputs, step.changes, {"answered": 1})

    def load(self, key: str, value: bytes) -> Any:
        return release_state.load(key, value)

    def gauges(self, key: str, value: Any) -> tuple[str, Mapping[str, float]]:
        return value.name, {"decisions": value.sequence, "paused": value.paused}


def build(body: Mapping[str, Any], digest: str, version: int = NEWEST) -> ReleaseFold:
    """The fold under a policy body; `digest` names it in what is written. Evidence decides, unless the policy's rule is gate;
    under rule versions 1 and 2, which decide alike, one look by the gate."""
    return ReleaseFold(ReleasePolicy.model_validate(body), digest, version=version)


build_2, build_3, build_4 = (partial(build, version=version) for version in (2, 3, 4))
