"""What the reward stage writes: examples, their withdrawals, rejected signals, the other side of a retracted preference.

Builds events from state; knows no formula and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Raw

from headrace_processors.owners import interaction_owner
from headrace_processors.reward.feedback import FeedbackRecord
from headrace_processors.reward.state import NOTHING, InteractionContent, InteractionState, RewardOutcome
from headrace_processors.reward.version_1.state import FeedbackRecord1, InteractionFacts1, InteractionState1, RewardOutcome1
from headrace_schemas.codec import encode_numbered
from headrace_schemas.derived import (
    Content,
    DrawnPrompt,
    Example,
    ExampleSettlement,
    PromptContent,
    SessionLeave,
    SignalRejection,
    Weights,
    Withdrawal,
)
from headrace_schemas.events import (
    Event,
    ExampleRewarded,
    ExampleSettled,
    ExampleWithdrawn,
    FeedbackRetracted,
    PromptDrawn,
    SessionLeft,
    SignalRejected,
    make,
)
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import FeedbackRetraction
from headrace_streams.runtime.stage import Record, Write

STAGE = "reward"


def rejected(
    record: Record,
    event: Event,
    interaction_id: str,
    reason: str,
    rule: str,
    feedback_id: str | None = None,
    source: str | None = None,
) -> Write:
    """`feedback_id` names what was rejected when that is not the event at hand, and `source` whose it is when several may be
    rejected at once."""
    parts = (record.coordinates, reason, feedback_id or "", *(() if source is None else (source,)))
    rejection = make(
        SignalRejected,
        SignalRejection(interaction_id=interaction_id, event_id=feedback_id or event.id, reason=reason, rule=rule),
        id=derive_id("signal.rejected", *parts),
        writer=STAGE,
        time_ms=record.now,
        traceparent=event.traceparent,
    )
    return Write("rejections", interaction_id, rejection)


def preference_retractions(
    event: Event, interaction_id: str, preference: FeedbackRecord | FeedbackRecord1, over: Iterable[str]
) -> list[Write]:
    """A preference that is retracted is retracted on the other side too: its copies have the same source and feedback id."""
    return [
        Write(
            "signals",
            other,
            FeedbackRetracted(
                specversion="1.0",
                id=derive_id("preference.retracted", preference.source, preference.feedback_id, interaction_id, other),
                source=preference.source,
                time=event.time,
                traceparent=event.traceparent,
                data=FeedbackRetraction(feedback_id=preference.feedback_id, interaction_id=other),
            ),
        )
        for other in dict.fromkeys(over)
        if other != interaction_id
    ]


def withdrawn(
    record: Record, interaction_id: str, interaction: InteractionState | InteractionState1, traceparent: str | None
) -> Write:
    event = make(
        ExampleWithdrawn,
        Withdrawal(
            example_id=derive_id("example", interaction_id),
            revision=interaction.revision,
            interaction_id=interaction_id,
            bucket=interaction.bucket,
            reason=interaction.ended or "feedback_retracted",
        ),
        id=derive_id("example.withdrawn", interaction_id, interaction.revision),
        writer=STAGE,
        time_ms=record.now,
        traceparent=traceparent,
    )
    return Write("examples", interaction.bucket, event)


def settled(record: Record, interaction_id: str, interaction: InteractionState, traceparent: str | None) -> Write:
    event = make(
        ExampleSettled,
        ExampleSettlement(
            example_id=derive_id("example", interaction_id),
            revision=interaction.revision,
            interaction_id=interaction_id,
            bucket=interaction.bucket,
        ),
        id=derive_id("example.settled", interaction_id, interaction.revision),
        writer=STAGE,
        time_ms=record.now,
        traceparent=traceparent,
    )
    return Write("examples", interaction.bucket, event)


def prompt_drawn(
    record: Record, interaction_id: str, bucket: str, facts: InteractionContent, prompt_group: str, traceparent: str | None
) -> Write:
    texts: Any = PromptContent  # of raw texts, as they came
    prompt = DrawnPrompt(
        prompt_id=derive_id("prompt", interaction_id),
        interaction_id=interaction_id,
        bucket=bucket,
        artifact_type=facts.artifact_type,
        model=facts.model,
        agent=facts.agent,
        prompt_group=prompt_group,
        content=texts(
            prompt=facts.prompt,
            context=None if facts.context is NOTHING else facts.context,
            tools=None if facts.tools is NOTHING else facts.tools,
        ),
        event_time=facts.event_time,
        adapter=facts.adapter,
        data_subject=facts.data_subject,
    )
    event_id = derive_id("prompt.drawn", interaction_id)
    event = make(PromptDrawn, prompt, id=event_id, writer=STAGE, time_ms=record.now, traceparent=traceparent)
    return Write("examples", bucket, encode_numbered(event), owner=interaction_owner(interaction_id) if facts.sealed else "")


def left_session(record: Record, interaction_id: str, session_id: str, traceparent: str | None) -> Write:
    left = SessionLeave(session_id=session_id, interaction_id=interaction_id)
    event_id = derive_id("session.left", session_id, interaction_id)
    event = make(SessionLeft, left, id=event_id, writer=STAGE, time_ms=record.now, traceparent=traceparent)
    return Write("sessions", session_id, event)


def prompt_withdrawn(
    record: Record, interaction_id: str, bucket: str, reason: Literal["retracted", "erased"], traceparent: str | None
) -> Write:
    prompt_id = derive_id("prompt", interaction_id)
    gone = Withdrawal(example_id=prompt_id, revision=2, interaction_id=interaction_id, bucket=bucket, reason=reason)
    event_id = derive_id("prompt.withdrawn", interaction_id)
    event = make(ExampleWithdrawn, gone, id=event_id, writer=STAGE, time_ms=record.now, traceparent=traceparent)
    return Write("examples", bucket, event)


def rewarded(
    record: Record,
    interaction_id: str,
    interaction: InteractionState | InteractionState1,
    facts: InteractionContent | InteractionFacts1,
    prompt_group: str,
    outcome: RewardOutcome | RewardOutcome1,
    content: Content,
    traceparent: str | None,
    finish_reason: str | None = None,
    principals: list[str] | None = None,
    maturity: Literal["provisional", "final"] | None = None,
    derived: int | None = None,
) -> Write:
    parts = outcome.components
    event = make(
        ExampleRewarded,
        Example(
            example_id=derive_id("example", interaction_id),
            revision=interaction.revision,
            interaction_id=interaction_id,
            bucket=interaction.bucket,
            artifact_type=facts.artifact_type,
            model=facts.model,
            agent=facts.agent,
            prompt_group=prompt_group,
            content=content,
            quality=outcome.quality,
            reward=outcome.reward,
            components=parts,
            weights=Weights(balance=interaction.balance),
            contradicted=outcome.contradicted,
            voices=outcome.voices,
            event_time=facts.event_time,
            train=facts.train,
            score=outcome.score,
            adapter=facts.adapter,
            data_subject=facts.data_subject,
            finish_reason=finish_reason,
            principals=principals,
            maturity=maturity,
            derived=derived,
        ),
        id=derive_id("example.rewarded", interaction_id, interaction.revision),
        writer=STAGE,
        time_ms=record.now,
        traceparent=traceparent,
    )
    if not isinstance(content.output, Raw):
        return Write("examples", interaction.bucket, event)
    owner = interaction_owner(interaction_id) if isinstance(facts, InteractionContent) and facts.sealed else ""
    numbers = (outcome.quality, outcome.reward, parts.validation, parts.feedback, parts.difficulty, parts.multiplier)
    more = parts.correction or 0.0, outcome.score or 0.0, interaction.balance
    value = encode_numbered(event, *numbers, *more)  # raw texts hold no number of ours
    return Write("examples", interaction.bucket, value, False, owner)
