"""The reward stage: an interaction and all feedback on it become an example, revision by revision. Pure fold over signals.

Order does not matter: whatever comes first opens the interaction's case, and the outcome is computed anew from all that is
known. A revision is written only when the outcome changed, an example only once there is feedback. The first of several events
with one identity wins; the others are counted as duplicate or conflict and named on `rejections`. Counters: applied, duplicate,
conflict, waiting, expired; what waited moves to applied when its other half comes, and to expired when it never does.

These are rule versions 2 to 5; version_1 is what came before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from headrace_processors.expiry import period_ms, touched_of
from headrace_processors.reward import keys
from headrace_processors.reward.policy import RewardPolicy
from headrace_processors.reward.state import (
    ErasedSubject,
    InteractionContent,
    InteractionState,
    TypeCounts,
    has_prompt_alone,
    is_expired,
    plainly_touched,
    settles_of,
)
from headrace_processors.reward.step import STAGE, RewardStep
from headrace_processors.reward.texts import SEALED_TEXT, content_stand_in
from headrace_processors.reward.trace import RewardTrace, trace_of
from headrace_processors.reward.weighing import hearing_of
from headrace_schemas.derived import ErasureContinuation, InteractionExpiry, InteractionSettlement
from headrace_schemas.events import (
    ErasureContinued,
    FeedbackRecorded,
    FeedbackRetracted,
    InteractionExpired,
    InteractionRecorded,
    InteractionRetracted,
    InteractionSettled,
    SubjectErased,
    make,
)
from headrace_schemas.ids import derive_id
from headrace_schemas.signals import decode_signal
from headrace_schemas.times import rfc3339
from headrace_streams.runtime.stage import Fold, Record, Step, Write

NEWEST = 5  # rule version
_INTERACTION, _ERASING = keys.INTERACTION, keys.ERASING
_AS_VALUES: dict[str, msgspec.json.Decoder[Any]] = {
    keys.SUBJECT: msgspec.json.Decoder(ErasedSubject),
    keys.TYPE_COUNTS: msgspec.json.Decoder(TypeCounts),
}
_AS_BYTES: dict[str, msgspec.json.Decoder[Any]] = {
    keys.INTERACTION: msgspec.json.Decoder(InteractionState),
    keys.CONTENT: msgspec.json.Decoder(InteractionContent),
    keys.CORRECTION: msgspec.json.Decoder(msgspec.Raw),
    keys.OVER: msgspec.json.Decoder(list[str]),
    keys.ERASING: msgspec.json.Decoder(list[str]),
}


class RewardFold(Fold):
    """`headrace_streams.runtime.stage.Fold` under one policy."""

    as_bytes = tuple(_AS_BYTES)

    def __init__(self, policy: RewardPolicy, *, version: int = NEWEST) -> None:
        self._policy, self._version = policy, version
        self._expire_ms = period_ms(policy.expire_after_days)
        self._forget_ms = period_ms(policy.forget_after_days)
        self._forget_prompts_ms = period_ms(policy.forget_prompts_after_days) or self._forget_ms
        self._settle = {kind: period_ms(days) for kind, days in policy.settle_after_days.items()}

    def load(self, key: str, value: bytes) -> Any:
        """Bytes stay as they are once they are known to be what they should be: 2 us a value, against 16 us as objects."""
        kind = key[: key.find("/") + 1] or key
        decoder = _AS_BYTES.get(kind)
        if decoder is None:
            return _AS_VALUES[kind].decode(value)
        decoder.decode(value)
        if kind == keys.INTERACTION:
            touched_of(value)
        return value

    def dump(self, key: str, value: Any) -> bytes:
        return value if type(value) is bytes else msgspec.json.encode(value)

    def stand_in(self, key: str, value: bytes) -> bytes:
        """Of a content what is no text; of a correction a text that says that it was one."""
        return content_stand_in(value) if key.startswith(keys.CONTENT) else SEALED_TEXT

    def deadline(self, key: str, value: Any) -> int | None:
        if key.startswith(_INTERACTION):
            touched = plainly_touched(value)
            if touched is not None:  # as of nearly every case: not expired, not provisional. 0.5 us instead of 2, for each record
                return touched + self._expire_ms if self._expire_ms else None
            expires, settles = self._expiry(value), settles_of(value)
            return settles if settles and (expires is None or settles < expires) else expires
        return 0 if key.startswith(_ERASING) else None

    def _expiry(self, value: bytes) -> int | None:
        """The fold time at which a case expires, or is forgotten."""
        period = self._expire_ms
        if is_expired(value):
            period = self._forget_prompts_ms if has_prompt_alone(value) else self._forget_ms
        return touched_of(value) + period if period else None

    def deadlines(self, state: Mapping[str, Any]) -> dict[str, int]:
        """Of a million open cases, most of which are not expired and begin as `plainly_touched` says: a third of the time."""
        found: dict[str, int] = {}
        period = self._expire_ms
        for key, value in state.items():
            if key.startswith(_INTERACTION):
                touched = plainly_touched(value) if period else None
                at = self.deadline(key, value) if touched is None else touched + period
                if at is not None:
                    found[key] = at
            elif key.startswith(_ERASING):
                found[key] = 0
        return found

    def overdue(self, state: Mapping[str, Any], keys_: Sequence[str], now: int) -> Sequence[Write]:
        return [self._continued(key, now) if key.startswith(keys.ERASING) else self._passed(state, key, now) for key in keys_]

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        event = decode_signal(record.value, record.headers)
        step = RewardStep(self._policy, state, record, event, self._version, self._settle)
        match event:
            case InteractionRecorded():
                step.interaction_recorded(event)
            case FeedbackRecorded():
                step.feedback_recorded(event)
            case FeedbackRetracted():
                step.feedback_retracted(event)
            case InteractionRetracted():
                step.interaction_retracted(event)
            case SubjectErased():
                step.subject_erased(event)
            case ErasureContinued():
                step.erasure_continued(event)
            case InteractionExpired():
                step.interaction_expired(event, self._expiry)
            case InteractionSettled():
                step.interaction_settled(event)
            case _:
                raise ValueError(f"type: {type(event).__name__} is no signal")
        counters = {**step.counters, **step.tallies} if step.tallies else step.counters
        return Step(step.outputs, step.changes, counters, step.owners)

    def trace(self, state: Mapping[str, Any], interaction_id: str) -> RewardTrace | None:
        """How the reward of an interaction came about, as its case stands; None of one without."""
        value, content = state.get(keys.INTERACTION + interaction_id), state.get(keys.CONTENT + interaction_id)
        if value is None or content is None:
            return None
        case: InteractionState = _AS_BYTES[keys.INTERACTION].decode(value)
        if case.ended or not case.recorded:
            return None
        said: InteractionContent = _AS_BYTES[keys.CONTENT].decode(content)
        correction = None if case.similarity is None else 1 - case.similarity.value
        return trace_of(
            self._policy,
            said.artifact_type,
            said.prompt_chars,
            said.context_chars,
            case.feedback,
            correction,
            *hearing_of(self._policy, self._version, case),
        )

    def _passed(self, state: Mapping[str, Any], key: str, now: int) -> Write:
        """Its time to settle, or else to expire."""
        interaction_id = key.removeprefix(keys.INTERACTION)
        touched, settles = touched_of(state[key]), settles_of(state[key])
        if 0 < settles <= now:
            settled = make(
                InteractionSettled,
                InteractionSettlement(interaction_id=interaction_id, settles=rfc3339(settles)),
                id=derive_id("interaction.settled", interaction_id, settles),
                writer=STAGE,
                time_ms=now,
            )
            return Write("signals", interaction_id, settled)
        event = make(
            InteractionExpired,
            InteractionExpiry(interaction_id=interaction_id, last_heard=rfc3339(touched)),
            id=derive_id("interaction.expired", interaction_id, touched),
            writer=STAGE,
            time_ms=now,
        )
        return Write("signals", interaction_id, event)

    def _continued(self, key: str, now: int) -> Write:
        subject, _, number = key.removeprefix(keys.ERASING).partition("/")
        event = make(
            ErasureContinued,
            ErasureContinuation(subject=subject, portion=int(number)),
            id=derive_id("erasure.continued", subject, int(number), now),
            writer=STAGE,
            time_ms=now,
        )
        return Write("signals", subject, event)


def build(body: Mapping[str, Any], digest: str, version: int = NEWEST) -> RewardFold:
    """The fold under a policy body. It names no policy in what it writes, so `digest` is not used."""
    return RewardFold(RewardPolicy.model_validate(body), version=version)


build_2 = partial(build, version=2)
build_3 = partial(build, version=3)
build_4 = partial(build, version=4)
