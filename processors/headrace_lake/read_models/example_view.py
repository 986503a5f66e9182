"""One example: what was asked, answered and corrected, its reward term by term, its revisions, why it was rejected, where it
went. Knows the other read models of examples, and the lake's lineage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import msgspec
from msgspec import Struct

from headrace_lake.learning_state import LearningState, state_and_lineage
from headrace_lake.lineage import LineageRecord
from headrace_lake.query import LakeQuery
from headrace_lake.read_models.recorded import RecordedEvent, recorded, rules_of_task
from headrace_lake.read_models.rejection_reason import RejectionReason, rejection_reason
from headrace_lake.read_models.reward_terms import RewardExplanation, reward_explanation, signals_of
from headrace_lake.read_models.text_diff import DiffPart, word_diff
from headrace_schemas.chat import context_text, text_of
from headrace_schemas.derived import Example
from headrace_schemas.events import (
    ExampleRejected,
    ExampleRewarded,
    ExampleSettled,
    ExampleWithdrawn,
    FeedbackRecorded,
    FeedbackRetracted,
    InteractionRecorded,
)
from headrace_schemas.inputs import Interaction, Message, Text
from headrace_schemas.plain_chat import answer_text
from headrace_schemas.splits import split_of

REVISIONS, NOTED = 200, 500  # records of an example and rejections, the newest, that are shown
TWINNED = 5  # rejections, the newest, whose twin is looked for: each may read 2,000 revisions


class TextBlock(Struct, frozen=True):
    """A message of a prompt, or an answer, as text; calls are lines at its end."""

    role: str
    text: str


class ExampleRevision(Struct, frozen=True, kw_only=True):
    """One word on an example. `changed`: the fields that differ from the revision before; `source`: the signal that led to it."""

    revision: int
    place: str
    appended_ms: int
    source: str | None
    withdrawn: str | None = None
    reward: float | None = None
    quality: float | None = None
    score: float | None = None
    voices: int | None = None
    contradicted: bool | None = None
    components: dict[str, Any] | None = None
    changed: list[str] = []


class TimelineEntry(Struct, frozen=True, kw_only=True):
    """One record about it: when, where, what it is, and what there is to say."""

    appended_ms: int
    place: str
    kind: str
    note: str


class ExampleView(Struct, frozen=True, kw_only=True):
    """An interaction and its example, if there is one. `correction`: output and target word by word, where somebody corrected."""

    interaction_id: str
    example_id: str | None
    state: LearningState
    bucket: str | None
    split: str | None
    facts: dict[str, Any]
    prompt: list[TextBlock]
    context: str
    tools: list[Any]
    output: str
    target: str | None
    correction: list[DiffPart] | None
    revision: int | None
    reward: RewardExplanation | None
    balance: float | None
    revisions: list[ExampleRevision]
    rejections: list[RejectionReason]
    timeline: list[TimelineEntry]
    went: list[LineageRecord]


def example_view(lake: LakeQuery, name: str, revision: int | None = None) -> ExampleView | None:
    """Of an example's or an interaction's id, at one of its revisions or the newest; None where nothing was ever said of it."""
    told = recorded(
        lake, "examples", "example_id = $name OR interaction_id = $name", {"name": name}, limit=REVISIONS, newest=True
    )
    settled = [each for each in told if isinstance(each.event, ExampleSettled)]
    told = [each for each in told if isinstance(each.event, ExampleRewarded | ExampleWithdrawn)]
    rewarded = [each for each in told if isinstance(each.event, ExampleRewarded)]
    interaction_id = _example(rewarded[-1]).interaction_id if rewarded else name
    signals = signals_of(lake, interaction_id)
    interaction = next((each.event.data for each in signals if isinstance(each.event, InteractionRecorded)), None)
    if not rewarded and not signals:
        return None
    shown = _at(rewarded, revision)
    example = None if shown is None else _example(shown)
    rejected = recorded(lake, "rejections", "interaction_id = $id", {"id": interaction_id}, limit=NOTED, newest=True)
    rejected = [each for each in rejected if isinstance(each.event, ExampleRejected)]
    rules_of = cache(partial(rules_of_task, lake, "curate", "examples"))  # most rejections are of one partition
    state, found = state_and_lineage(lake, interaction_id)
    went = [] if found is None else [one for kind in ("batch", "run", "version", "release") for one in found.of(kind)]
    content = example.content if example is not None else interaction  # None while only others have spoken of it
    target = None if example is None else answer_text(example.content.target)
    output = "" if content is None else answer_text(content.output)
    corrected = example is not None and example.components.correction is not None
    return ExampleView(
        interaction_id=interaction_id,
        example_id=None if example is None else example.example_id,
        state=state,
        bucket=None if example is None else example.bucket,
        split=None if example is None else split_of(example.bucket, example.prompt_group),
        facts=_facts(example, interaction) | ({"label": "final"} if settled and example is not None else {}),
        prompt=[] if content is None else _blocks(content.prompt),
        context="" if content is None else context_text(content.context),
        tools=[] if content is None else msgspec.to_builtins(content.tools or []),
        output=output,
        target=target,
        correction=word_diff(output, target) if corrected and target is not None else None,
        revision=None if example is None else example.revision,
        reward=None if shown is None else reward_explanation(lake, shown, signals),
        balance=None if example is None else example.weights.balance,
        revisions=_revisions(told),
        rejections=[
            rejection_reason(
                lake, each, _at(rewarded, each.event.data.revision), rules_of, twins=number >= len(rejected) - TWINNED
            )
            for number, each in enumerate(rejected)
            if isinstance(each.event, ExampleRejected)
        ],
        timeline=_timeline([*signals, *told, *settled, *rejected]),
        went=went,
    )


def _at(rewarded: Sequence[RecordedEvent], revision: int | None) -> RecordedEvent | None:
    """The revision of that number; the newest without one, or where there is none of that number."""
    wanted = [each for each in rewarded if _example(each).revision == revision]
    return next(iter(wanted[-1:] or rewarded[-1:]), None)


def _example(record: RecordedEvent) -> Example:
    assert isinstance(record.event, ExampleRewarded)
    return record.event.data


def _facts(example: Example | None, interaction: Interaction | None) -> dict[str, Any]:
    """What is known of it beside its texts, by name; what is not known is left out."""
    found: dict[str, Any] = {}
    if interaction is not None:
        usage = interaction.usage
        found |= {
            "agent": interaction.agent.name, "role": interaction.agent.role, "agent version": interaction.agent.version,
            "artifact type": interaction.artifact_type, "model": interaction.model, "adapter": interaction.adapter,
            "session": interaction.session_id, "turn": interaction.turn, "attempt": interaction.attempt,
            "finish reason": interaction.finish_reason, "latency ms": interaction.latency_ms,
            "input tokens": usage.input_tokens if usage else None, "output tokens": usage.output_tokens if usage else None,
            "cost USD": interaction.cost_usd, "error": interaction.error.type if interaction.error else None,
            "may be trained": interaction.train is not False,
        }  # fmt: skip
        found |= {f"attribute {name}": value for name, value in (interaction.attributes or {}).items()}
    if example is not None:
        found |= {
            "agent": example.agent.name, "role": example.agent.role, "model": example.model, "adapter": example.adapter,
            "artifact type": example.artifact_type, "prompt group": example.prompt_group, "event time": example.event_time,
            "finish reason": example.finish_reason, "may be trained": example.train, "label": example.maturity,
        }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def _blocks(prompt: Text) -> list[TextBlock]:
    if isinstance(prompt, str):
        return [TextBlock("user", prompt)]
    return [TextBlock(message.role, _message(message)) for message in prompt]


def _message(message: Message) -> str:
    return answer_text(message) if message.tool_calls else text_of(message)


def _revisions(told: Sequence[RecordedEvent]) -> list[ExampleRevision]:
    found: list[ExampleRevision] = []
    before: Example | None = None
    for each in told:
        known: dict[str, Any] = {
            "place": str(each.place),
            "appended_ms": each.appended_ms,
            "source": None if each.source is None else str(each.source),
        }
        if isinstance(each.event, ExampleWithdrawn):
            said = each.event.data
            found.append(ExampleRevision(revision=said.revision, withdrawn=said.reason, **known))
            continue
        example = _example(each)
        found.append(
            ExampleRevision(
                revision=example.revision,
                reward=example.reward,
                quality=example.quality,
                score=example.score,
                voices=example.voices,
                contradicted=example.contradicted,
                components=msgspec.to_builtins(example.components),
                changed=[] if before is None else _changed(before, example),
                **known,
            )
        )
        before = example
    return found


def _changed(before: Example, after: Example) -> list[str]:
    names = ("reward", "quality", "score", "voices", "derived", "contradicted", "principals", "components")
    changed = [name for name in names if getattr(before, name) != getattr(after, name)]
    return [*changed, *(["target"] if before.content.target != after.content.target else [])]


def _timeline(records: Sequence[RecordedEvent]) -> list[TimelineEntry]:
    """In the order of append times."""
    entries = [
        TimelineEntry(appended_ms=each.appended_ms, place=str(each.place), kind=_kind(each), note=_note(each)) for each in records
    ]
    return sorted(entries, key=lambda each: (each.appended_ms, each.place))


def _kind(record: RecordedEvent) -> str:
    named = str(type(record.event).__struct_config__.tag)
    return named.removeprefix("headrace.").removesuffix(".v1")


def _note(record: RecordedEvent) -> str:
    match record.event:
        case FeedbackRecorded(data=said):
            who = f" by {said.principal.kind}:{said.principal.id}" if said.principal else ""
            source = said.attributed_from
            if source is not None and source.derived_by is not None:
                who = f" derived by {source.derived_by} from {', '.join(source.causes or ())}"
            score = f" {said.score:g}" if said.score is not None else ""
            check = f" ({said.name})" if said.name else ""
            return f"{said.kind}{score}{check}{who}" + (f": {said.comment}" if said.comment else "")
        case FeedbackRetracted(data=taken):
            return f"feedback {taken.feedback_id} is taken back"
        case ExampleRewarded(data=example):
            return f"revision {example.revision}: reward {example.reward:.4g}, quality {example.quality:.4g}"
        case InteractionRecorded(data=done):
            return f"{done.agent.name} answered with {done.model}"
    data: Mapping[str, Any] = msgspec.to_builtins(record.event.data)
    return ": ".join(str(data[name]) for name in ("reason", "rule") if data.get(name))
