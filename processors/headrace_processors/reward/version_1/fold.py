"""Rule version 1 of the reward stage, which logs of before November 2026 were written by. Kept for verify; decides as it did.

All texts of an interaction and of what corrects it stand in one state value, an erasure is one step, nothing ever expires.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import msgspec
from msgspec import structs

from headrace_processors.reward import events
from headrace_processors.reward.feedback import PREFERENCE, aggregate, corrected_of
from headrace_processors.reward.formula import balance_of, bonus_of, count_type, difficulty_of, reward_of
from headrace_processors.reward.policy import RewardPolicy
from headrace_processors.reward.similarity import similarity
from headrace_processors.reward.state import ErasedSubject, TypeCounts
from headrace_processors.reward.trace import RewardTrace, trace_of
from headrace_processors.reward.version_1.state import (
    FeedbackRecord1,
    InteractionFacts1,
    InteractionState1,
    InteractionTexts1,
    RewardOutcome1,
    without_text,
)
from headrace_schemas.canonical import rounded
from headrace_schemas.codec import decode
from headrace_schemas.derived import Content
from headrace_schemas.events import (
    Event,
    FeedbackRecorded,
    FeedbackRetracted,
    InteractionRecorded,
    InteractionRetracted,
    SubjectErased,
)
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import Feedback, Output
from headrace_schemas.text import prompt_group, render
from headrace_schemas.times import parse_ns
from headrace_streams.runtime.stage import Fold, Record, Step, Write

TYPE_COUNTS = "shares"  # state key, as it stands on the log
_INTERACTION = "interaction/"
_SUBJECT = "subject/"
_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    _INTERACTION: msgspec.json.Decoder(InteractionState1),
    _SUBJECT: msgspec.json.Decoder(ErasedSubject),
    TYPE_COUNTS: msgspec.json.Decoder(TypeCounts),
}
_UNKNOWN = InteractionState1()


class RewardFold1(Fold):
    """`headrace_streams.runtime.stage.Fold` under one policy."""

    def __init__(self, policy: RewardPolicy) -> None:
        self._policy = policy

    def load(self, key: str, value: bytes) -> Any:
        return _DECODERS[key[: key.find("/") + 1] or key].decode(value)

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        event = decode(record.value, record.headers)
        step = RewardStep1(self._policy, state, record, event)
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
            case _:
                raise ValueError(f"type: {type(event).__name__} is no signal")
        return Step(step.outputs, step.changes, step.counters)

    def trace(self, state: Mapping[str, Any], interaction_id: str) -> RewardTrace | None:
        """How the reward of an interaction came about, as its case stands; None of one without."""
        case: InteractionState1 | None = state.get(_INTERACTION + interaction_id)
        facts = None if case is None else case.facts
        if case is None or facts is None or facts.texts is None or case.ended:
            return None
        corrected = corrected_of(case.feedback)
        correction = None if corrected is None else 1 - similarity_1(self._policy, facts.texts.output, corrected)
        return trace_of(self._policy, facts.artifact_type, facts.prompt_chars, facts.context_chars, case.feedback, correction)


class RewardStep1:
    """One step in the making."""

    def __init__(self, policy: RewardPolicy, state: Mapping[str, Any], record: Record, event: Event) -> None:
        self.policy, self.state, self.record, self.event = policy, state, record, event
        self.outputs: list[Write] = []
        self.changes: dict[str, Any] = {}
        self.counters: dict[str, int] = {}

    def interaction_recorded(self, event: InteractionRecorded) -> None:
        data = event.data
        interaction_id, before = self._interaction(data.interaction_id)
        digest = _digest(data)
        if before.facts is not None:
            return self._known(interaction_id, before, before.facts.digest, digest)
        time_ns = _time_ns(event)
        prompt, context = render(data.prompt), render(data.context)
        facts = InteractionFacts1(
            digest=digest,
            event_time=event.time or "",
            time_ns=time_ns,
            artifact_type=data.artifact_type,
            model=data.model,
            agent=data.agent,
            prompt_group=prompt_group(prompt, context) if data.prompt_group is None else data.prompt_group,
            prompt_chars=len(prompt),
            context_chars=len(context),
            texts=InteractionTexts1(prompt=data.prompt, output=data.output, context=data.context, tools=data.tools),
            adapter=data.adapter,
            data_subject=data.data_subject,
            train=data.train is not False,
            traceparent=event.traceparent,
        )
        after = structs.replace(before, facts=facts)
        if self._is_erased(data.data_subject, time_ns):
            after = after.tombstone("erased")
            self._reject(interaction_id, "erased", "subject")
        elif before.ended:
            after = after.tombstone(before.ended)
        self._revise(interaction_id, before, after)

    def feedback_recorded(self, event: FeedbackRecorded) -> None:
        data = event.data
        feedback_id = data.feedback_id or event.id
        interaction_id, before = self._interaction(data.interaction_id)
        digest = _digest(structs.replace(data, feedback_id=feedback_id))
        known = before.find_feedback(event.source, feedback_id)
        if known is not None and known.received:
            return self._known(interaction_id, before, known.digest, digest)
        retracted = known is not None
        feedback = FeedbackRecord1(
            source=event.source,
            feedback_id=feedback_id,
            time_ns=_time_ns(event),
            digest=digest,
            kind=data.kind,
            score=score_of_100(data),
            name=data.name,
            principal=None if data.principal is None else data.principal.id,
            corrected=None if retracted else data.corrected_output,
            size=0 if retracted or data.corrected_output is None else len(self.record.value or b""),
            over=tuple(data.over or ()),
            under=data.under is not None,
            retracted=retracted,
        )
        if before.ended:
            feedback = without_text(feedback, before.ended)
        self._apply_feedback(interaction_id, before, feedback)

    def feedback_retracted(self, event: FeedbackRetracted) -> None:
        data = event.data
        interaction_id, before = self._interaction(data.interaction_id)
        known = before.find_feedback(event.source, data.feedback_id)
        if known is None:
            known = FeedbackRecord1(source=event.source, feedback_id=data.feedback_id, time_ns=_time_ns(event))
        elif known.retracted:
            return self._refuse(interaction_id, "duplicate")
        self._apply_feedback(interaction_id, before, structs.replace(known, corrected=None, size=0, retracted=True))

    def interaction_retracted(self, event: InteractionRetracted) -> None:
        interaction_id, before = self._interaction(event.data.interaction_id)
        if before.ended:
            return self._refuse(interaction_id, "duplicate")
        self._revise(interaction_id, before, before.tombstone("retracted"))

    def subject_erased(self, event: SubjectErased) -> None:
        """Every interaction of the subject in this partition: rare enough to look through all instead of keeping an index."""
        subject = event.data.data_subject
        erased: ErasedSubject | None = self.state.get(_subject_key(subject))
        time_ns = _time_ns(event)
        if erased is None or erased.time_ns < time_ns:
            self.changes[_subject_key(subject)] = ErasedSubject(time_ns)
        for key, before in self.state.items():
            if isinstance(before, InteractionState1) and before.facts is not None and before.facts.data_subject == subject:
                self._revise(key.removeprefix(_INTERACTION), before, before.tombstone("erased"))
        self.counters = {"applied": 1}  # one record, however many interactions it ended; nothing of them waited

    def _apply_feedback(self, interaction_id: str, before: InteractionState1, feedback: FeedbackRecord1) -> None:
        after, dropped = before.with_feedback(feedback)
        for oldest in dropped:
            self._reject(interaction_id, "voice_limit", "voices", oldest.feedback_id)
        if feedback.received and feedback.retracted and feedback.kind == PREFERENCE:
            self.outputs += events.preference_retractions(self.event, interaction_id, feedback, feedback.over)
        self._revise(interaction_id, before, after)

    def _revise(self, interaction_id: str, before: InteractionState1, after: InteractionState1) -> None:
        """Writes the revision that `after` deserves, if any, and counts what moved from waiting to applied."""
        scored = self._outcome(after)
        outcome = None if scored is None else scored[0]
        if outcome != after.outcome:
            facts = after.facts
            assert facts is not None  # without facts there is no outcome, neither before nor now
            trace = self.event.traceparent or facts.traceparent
            if scored is None:
                after = structs.replace(after, revision=after.revision + 1, outcome=None)
                self.outputs.append(events.withdrawn(self.record, interaction_id, after, trace))
            else:
                if not after.bucket:
                    after = self._first_revision(after, facts)
                after = structs.replace(after, revision=after.revision + 1, outcome=scored[0])
                self.outputs.append(self._rewarded(interaction_id, after, facts, *scored, trace))
        self.changes[_INTERACTION + interaction_id] = after
        moved = before.waiting - after.waiting
        self.counters = {name: count for name, count in (("applied", 1 + moved), ("waiting", -moved)) if count}

    def _rewarded(
        self,
        interaction_id: str,
        after: InteractionState1,
        facts: InteractionFacts1,
        outcome: RewardOutcome1,
        texts: InteractionTexts1,
        target: Output,
        trace: str | None,
    ) -> Write:
        content = Content(prompt=texts.prompt, output=texts.output, target=target, context=texts.context, tools=texts.tools)
        return events.rewarded(self.record, interaction_id, after, facts, facts.prompt_group, outcome, content, trace)

    def _outcome(self, interaction: InteractionState1) -> tuple[RewardOutcome1, InteractionTexts1, Output] | None:
        """What the interaction is worth now, its texts and its target; None when nothing counts."""
        facts = interaction.facts
        if facts is None or facts.texts is None or interaction.ended:
            return None
        summary = aggregate(interaction.feedback, partial(bonus_of, self.policy))
        if summary is None:
            return None
        target, correction, digest = facts.texts.output, None, ""
        if summary.corrected is not None:
            target, digest = summary.corrected, _digest(summary.corrected)
            correction = 1 - similarity_1(self.policy, facts.texts.output, target)
        difficulty = difficulty_of(self.policy, facts.artifact_type, facts.prompt_chars, facts.context_chars)
        result = reward_of(self.policy, summary, difficulty, correction)
        outcome = RewardOutcome1(
            quality=result.quality,
            reward=result.reward,
            components=result.components,
            contradicted=summary.contradicted,
            voices=summary.voices,
            score=None if summary.score is None else rounded(summary.score),
            target=digest,
        )
        return outcome, facts.texts, target

    def _first_revision(self, interaction: InteractionState1, facts: InteractionFacts1) -> InteractionState1:
        """With what is fixed at revision 1, bucket and balance; the counts of artifact types take this one in."""
        counts = self.state.get(TYPE_COUNTS, TypeCounts({})).by_type
        self.changes[TYPE_COUNTS] = TypeCounts(count_type(self.policy, counts, facts.artifact_type, facts.time_ns))
        base = self.policy.base_of(facts.artifact_type, facts.model, facts.agent.role)
        balance = balance_of(self.policy, counts, facts.artifact_type)
        return structs.replace(interaction, bucket=f"{facts.artifact_type}/{base}", balance=balance)

    def _interaction(self, interaction_id: str | None) -> tuple[str, InteractionState1]:
        if interaction_id is None:
            raise ValueError("data.interaction_id: missing on signals")
        return interaction_id, self.state.get(_INTERACTION + interaction_id, _UNKNOWN)

    def _is_erased(self, subject: str | None, time_ns: int) -> bool:
        erased = None if subject is None else self.state.get(_subject_key(subject))
        return erased is not None and time_ns <= erased.time_ns

    def _known(self, interaction_id: str, interaction: InteractionState1, first: str, digest: str) -> None:
        """An identity that was there before: the same data is a duplicate, other data a conflict, and the first one stays."""
        if interaction.ended == "erased":
            self._reject(interaction_id, "erased", "subject")
            self.counters = {"duplicate": 1}
        else:
            self._refuse(interaction_id, "duplicate" if first == digest else "conflict")

    def _refuse(self, interaction_id: str, counter: Literal["duplicate", "conflict"]) -> None:
        self._reject(interaction_id, counter, "identity")
        self.counters = {counter: 1}

    def _reject(self, interaction_id: str, reason: str, rule: str, feedback_id: str | None = None) -> None:
        self.outputs.append(events.rejected(self.record, self.event, interaction_id, reason, rule, feedback_id))


def score_of_100(feedback: Feedback) -> float | None:
    """The score mapped from its scale to 0-100. Not finite on a scale whose length is not."""
    if feedback.score is None or feedback.scale is None:
        return feedback.score
    low, high = feedback.scale
    return (feedback.score - low) / (high - low) * 100


def similarity_1(policy: RewardPolicy, output: Output, corrected: Output) -> float:
    return similarity(
        render(output),
        render(corrected),
        overlap=policy.overlap,
        edit_weight=policy.similarity_weights.edit,
        overlap_weight=policy.similarity_weights.overlap,
    )


def _subject_key(subject: str) -> str:
    return _SUBJECT + derive_id("subject", subject)


def _digest(data: Any) -> str:
    return hashlib.blake2b(_ENCODER.encode(data), digest_size=16).hexdigest()


def _time_ns(event: Event) -> int:
    if event.time is None:
        raise ValueError("time: missing on signals")
    return parse_ns(event.time)


def build(body: Mapping[str, Any], digest: str) -> RewardFold1:
    """The fold under a policy body."""
    return RewardFold1(RewardPolicy.model_validate(body))
