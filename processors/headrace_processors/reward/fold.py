"""The reward stage: an interaction and all that is said of it become an example, revision by revision. Pure fold over signals.

Order does not matter: whatever comes first opens the case, and the outcome is computed anew from all that is known. A revision
is written only when the outcome changed, an example only once somebody said something. The first of several events with one
identity wins; the others are counted as duplicate or conflict and named on `rejections`. Boxes: applied, duplicate, conflict,
waiting; what waited moves to applied when its other half comes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec import structs

from headrace_processors.reward.feedback import PREFERENCE, Statement, hear, on_hundred
from headrace_processors.reward.formula import balance_of, bonus_of, counted, difficulty_of, worth_of
from headrace_processors.reward.policy import RewardPolicy
from headrace_processors.reward.similarity import similarity
from headrace_processors.reward.state import Case, Facts, Forgotten, Original, Outcome, Shares, ended, textless
from headrace_schemas.canonical import rounded
from headrace_schemas.codec import decode
from headrace_schemas.derived import Content, Example, SignalRejection, Weights, Withdrawal
from headrace_schemas.events import (
    Event,
    ExampleRewarded,
    ExampleWithdrawn,
    FeedbackRecorded,
    FeedbackRetracted,
    InteractionRecorded,
    InteractionRetracted,
    SignalRejected,
    SubjectErased,
)
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import FeedbackRetraction, Output
from headrace_schemas.text import prompt_group, render
from headrace_schemas.times import parse_ns, rfc3339
from headrace_streams.runtime.stage import Fold, Record, Step, Write

SOURCE = "headrace:reward"
SHARES = "shares"
_CASE = "interaction/"
_SUBJECT = "subject/"
_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    _CASE: msgspec.json.Decoder(Case),
    _SUBJECT: msgspec.json.Decoder(Forgotten),
    SHARES: msgspec.json.Decoder(Shares),
}


class Reward(Fold):
    """`headrace_streams.runtime.stage.Fold` under one policy."""

    def __init__(self, policy: RewardPolicy) -> None:
        self._policy = policy
        self._bonus = partial(bonus_of, policy)

    def load(self, key: str, value: bytes) -> Any:
        return _DECODERS[key[: key.find("/") + 1] or key].decode(value)

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        event = decode(record.value, record.headers)
        match event:
            case InteractionRecorded():
                return self._recorded(state, record, event)
            case FeedbackRecorded():
                return self._said(state, record, event)
            case FeedbackRetracted():
                return self._unsaid(state, record, event)
            case InteractionRetracted():
                return self._retracted(state, record, event)
            case SubjectErased():
                return self._erased(state, record, event)
        raise ValueError(f"type: {type(event).__name__} is no signal")

    def _recorded(self, state: Mapping[str, Any], record: Record, event: InteractionRecorded) -> Step:
        data = event.data
        key, case = _case_of(state, data.interaction_id)
        digest = _digest(data)
        if case.facts is not None:
            return _again(record, event, key, case, case.facts.digest, digest)
        time_ns = _time_ns(event)
        context = render(data.context)
        facts = Facts(
            digest=digest,
            event_time=event.time or "",
            time_ns=time_ns,
            artifact_type=data.artifact_type,
            model=data.model,
            agent=data.agent,
            prompt_group=prompt_group(data),
            prompt_chars=len(render(data.prompt)),
            context_chars=len(context),
            original=Original(prompt=data.prompt, output=data.output, context=data.context, tools=data.tools),
            adapter=data.adapter,
            data_subject=data.data_subject,
            train=data.train is not False,
            traceparent=event.traceparent,
        )
        after = structs.replace(case, facts=facts)
        outputs: list[Write] = []
        if _forgotten(state, data.data_subject, time_ns):
            after = ended(after, "erased")
            outputs.append(_rejected(record, event, key, "erased", "subject"))
        elif case.ended:
            after = ended(after, case.ended)
        return self._settle(state, record, event, key, case, after, outputs)

    def _said(self, state: Mapping[str, Any], record: Record, event: FeedbackRecorded) -> Step:
        data = event.data
        feedback_id = data.feedback_id or event.id
        key, case = _case_of(state, data.interaction_id)
        digest = _digest(structs.replace(data, feedback_id=feedback_id))
        known = case.find(event.source, feedback_id)
        if known is not None and known.said:
            return _again(record, event, key, case, known.digest, digest)
        retracted = known is not None
        statement = Statement(
            source=event.source,
            feedback_id=feedback_id,
            time_ns=_time_ns(event),
            digest=digest,
            kind=data.kind,
            score=on_hundred(data),
            name=data.name,
            principal=None if data.principal is None else data.principal.id,
            corrected=None if retracted else data.corrected_output,
            size=0 if retracted or data.corrected_output is None else len(record.value or b""),
            over=tuple(data.over or ()),
            under=data.under is not None,
            retracted=retracted,
        )
        if case.ended:
            statement = textless(statement, case.ended)
        return self._told(state, record, event, key, case, statement)

    def _unsaid(self, state: Mapping[str, Any], record: Record, event: FeedbackRetracted) -> Step:
        data = event.data
        key, case = _case_of(state, data.interaction_id)
        known = case.find(event.source, data.feedback_id)
        if known is None:
            known = Statement(source=event.source, feedback_id=data.feedback_id, time_ns=_time_ns(event))
        elif known.retracted:
            return Step([_rejected(record, event, key, "duplicate", "identity")], {}, {"duplicate": 1})
        return self._told(state, record, event, key, case, structs.replace(known, corrected=None, size=0, retracted=True))

    def _told(
        self,
        state: Mapping[str, Any],
        record: Record,
        event: FeedbackRecorded | FeedbackRetracted,
        key: str,
        case: Case,
        statement: Statement,
    ) -> Step:
        after, dropped = case.tell(statement)
        outputs = [_rejected(record, event, key, "voice_limit", "voices", one.feedback_id) for one in dropped]
        if statement.said and statement.retracted and statement.kind == PREFERENCE:
            outputs += _taken_back(event, key, statement)
        return self._settle(state, record, event, key, case, after, outputs)

    def _retracted(self, state: Mapping[str, Any], record: Record, event: InteractionRetracted) -> Step:
        key, case = _case_of(state, event.data.interaction_id)
        if case.ended:
            return Step([_rejected(record, event, key, "duplicate", "identity")], {}, {"duplicate": 1})
        return self._settle(state, record, event, key, case, ended(case, "retracted"), [])

    def _erased(self, state: Mapping[str, Any], record: Record, event: SubjectErased) -> Step:
        """Every case of the subject in this partition: rare enough to look through all instead of keeping an index."""
        subject = event.data.data_subject
        mark = _SUBJECT + derive_id("subject", subject)
        changes: dict[str, Any] = {}
        outputs: list[Write] = []
        before = state.get(mark)
        time_ns = _time_ns(event)
        if before is None or before.time_ns < time_ns:
            changes[mark] = Forgotten(time_ns)
        for key, case in state.items():
            if isinstance(case, Case) and case.facts is not None and case.facts.data_subject == subject:
                step = self._settle(state, record, event, key, case, ended(case, "erased"), [])
                outputs += step.outputs
                changes.update(step.changes)
        return Step(outputs, changes, {"applied": 1})

    def _settle(
        self,
        state: Mapping[str, Any],
        record: Record,
        event: Event,
        key: str,
        before: Case,
        after: Case,
        outputs: list[Write],
    ) -> Step:
        """Writes the revision that `after` deserves, if any, and counts what moved from waiting to applied."""
        changes: dict[str, Any] = {}
        outcome, target = self._outcome(after)
        if outcome != after.outcome:
            revision = after.revision + 1
            facts = after.facts
            assert facts is not None  # without facts there is no outcome, neither before nor now
            trace = event.traceparent or facts.traceparent
            if outcome is None:
                after = structs.replace(after, revision=revision, outcome=None)
                outputs.append(_withdrawn(record, key, after, trace))
            else:
                if not after.bucket:
                    after, changes[SHARES] = self._first(state, after, facts)
                after = structs.replace(after, revision=revision, outcome=outcome)
                outputs.append(_rewarded(record, key, after, facts, outcome, target, trace))
        changes[key] = after
        moved = before.waiting - after.waiting
        counts = {"applied": 1 + moved, "waiting": -moved}
        return Step(outputs, changes, {box: count for box, count in counts.items() if count})

    def _outcome(self, case: Case) -> tuple[Outcome | None, Output | None]:
        """What the case is worth now, and its target; None when nothing counts."""
        facts = case.facts
        if facts is None or facts.original is None or case.ended:
            return None, None
        verdict = hear(case.statements, self._bonus)
        if verdict is None:
            return None, None
        target, correction, digest = facts.original.output, None, ""
        if verdict.corrected is not None:
            target, digest = verdict.corrected, _digest(verdict.corrected)
            correction = 1 - similarity(render(facts.original.output), render(target), self._policy.overlap)
        difficulty = difficulty_of(self._policy, facts.artifact_type, facts.prompt_chars, facts.context_chars)
        worth = worth_of(self._policy, verdict, difficulty, correction)
        outcome = Outcome(
            quality=worth.quality,
            reward=worth.reward,
            components=worth.components,
            contradicted=verdict.contradicted,
            voices=verdict.voices,
            score=None if verdict.score is None else rounded(verdict.score),
            target=digest,
        )
        return outcome, target

    def _first(self, state: Mapping[str, Any], case: Case, facts: Facts) -> tuple[Case, Shares]:
        """What is fixed at revision 1: bucket and balance; and the shares, which now count this one."""
        shares = state.get(SHARES, Shares({})).by_type
        base = self._policy.base_of(facts.artifact_type, facts.model, facts.agent.role)
        case = structs.replace(
            case, bucket=f"{facts.artifact_type}/{base}", balance=balance_of(self._policy, shares, facts.artifact_type)
        )
        return case, Shares(counted(self._policy, shares, facts.artifact_type, facts.time_ns))


def _case_of(state: Mapping[str, Any], interaction_id: str | None) -> tuple[str, Case]:
    if interaction_id is None:
        raise ValueError("data.interaction_id: missing on signals")
    key = _CASE + interaction_id
    return key, state.get(key, _NEW)


def _forgotten(state: Mapping[str, Any], subject: str | None, time_ns: int) -> bool:
    mark = None if subject is None else state.get(_SUBJECT + derive_id("subject", subject))
    return mark is not None and time_ns <= mark.time_ns


def _digest(data: Any) -> str:
    return hashlib.blake2b(_ENCODER.encode(data), digest_size=16).hexdigest()


def _time_ns(event: Event) -> int:
    if event.time is None:
        raise ValueError("time: missing on signals")
    return parse_ns(event.time)


def _again(record: Record, event: Event, key: str, case: Case, first: str, digest: str) -> Step:
    """An identity that was there before: the same data is a duplicate, other data a conflict, and the first one stays."""
    if case.ended == "erased":
        return Step([_rejected(record, event, key, "erased", "subject")], {}, {"duplicate": 1})
    box = "duplicate" if first == digest else "conflict"
    return Step([_rejected(record, event, key, box, "identity")], {}, {box: 1})


def _rejected(record: Record, event: Event, key: str, reason: str, rule: str, feedback_id: str | None = None) -> Write:
    """`feedback_id` names what was rejected when that is not the event at hand."""
    interaction_id = key.removeprefix(_CASE)
    coordinates = f"{record.topic}/{record.partition}/{record.offset}"
    rejected = SignalRejected(
        specversion="1.0",
        id=derive_id("signal.rejected", coordinates, reason, feedback_id or ""),
        source=SOURCE,
        time=rfc3339(record.now),
        traceparent=event.traceparent,
        data=SignalRejection(interaction_id=interaction_id, event_id=feedback_id or event.id, reason=reason, rule=rule),
    )
    return Write("rejections", interaction_id, rejected)


def _taken_back(event: Event, key: str, statement: Statement) -> list[Write]:
    """A preference that is retracted is retracted on the other side too: its copies have the same source and feedback id."""
    own = key.removeprefix(_CASE)
    return [
        Write(
            "signals",
            other,
            FeedbackRetracted(
                specversion="1.0",
                id=derive_id("preference.retracted", statement.source, statement.feedback_id, own, other),
                source=statement.source,
                time=event.time,
                traceparent=event.traceparent,
                data=FeedbackRetraction(feedback_id=statement.feedback_id, interaction_id=other),
            ),
        )
        for other in dict.fromkeys(statement.over)
        if other != own
    ]


def _withdrawn(record: Record, key: str, case: Case, traceparent: str | None) -> Write:
    interaction_id = key.removeprefix(_CASE)
    event = ExampleWithdrawn(
        specversion="1.0",
        id=derive_id("example.withdrawn", interaction_id, case.revision),
        source=SOURCE,
        time=rfc3339(record.now),
        traceparent=traceparent,
        data=Withdrawal(
            example_id=derive_id("example", interaction_id),
            revision=case.revision,
            interaction_id=interaction_id,
            bucket=case.bucket,
            reason=case.ended or "feedback_retracted",
        ),
    )
    return Write("examples", case.bucket, event)


def _rewarded(
    record: Record, key: str, case: Case, facts: Facts, outcome: Outcome, target: Output | None, traceparent: str | None
) -> Write:
    interaction_id = key.removeprefix(_CASE)
    original = facts.original
    assert original is not None  # else there would be no outcome
    assert target is not None
    event = ExampleRewarded(
        specversion="1.0",
        id=derive_id("example.rewarded", interaction_id, case.revision),
        source=SOURCE,
        time=rfc3339(record.now),
        traceparent=traceparent,
        data=Example(
            example_id=derive_id("example", interaction_id),
            revision=case.revision,
            interaction_id=interaction_id,
            bucket=case.bucket,
            artifact_type=facts.artifact_type,
            model=facts.model,
            agent=facts.agent,
            prompt_group=facts.prompt_group,
            content=Content(
                prompt=original.prompt, output=original.output, target=target, context=original.context, tools=original.tools
            ),
            quality=outcome.quality,
            reward=outcome.reward,
            components=outcome.components,
            weights=Weights(balance=case.balance),
            contradicted=outcome.contradicted,
            voices=outcome.voices,
            event_time=facts.event_time,
            train=facts.train,
            score=outcome.score,
            adapter=facts.adapter,
            data_subject=facts.data_subject,
        ),
    )
    return Write("examples", case.bucket, event)


_NEW = Case()


def build(body: Mapping[str, Any], digest: str) -> Reward:
    """The fold under a policy body. It names no policy in what it writes, so `digest` is not used."""
    return Reward(RewardPolicy.model_validate(body))
