"""Where an input event goes and under which key; the same in every rule version. Knows no scrubbing."""

from __future__ import annotations

from headrace_processors.intake.preference import fan_out
from headrace_schemas.derived import RecordError
from headrace_schemas.events import (
    FeedbackRecorded,
    FeedbackRetracted,
    InputEvent,
    InteractionLinked,
    InteractionRecorded,
    SubjectErased,
)
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import Link, Ref
from headrace_schemas.topics import ref_key
from headrace_streams.runtime.stage import Record, Step, Write
from headrace_streams.runtime.step import dead_letter

STAGE = "intake"
_FEEDBACK = (FeedbackRecorded, FeedbackRetracted)


def misplaced(record: Record, event: InputEvent) -> Step | None:
    """The dead letter of an event on the other input topic than its own; None where it belongs."""
    topic = "feedback" if isinstance(event, _FEEDBACK) else "interactions"
    if record.topic == topic:
        return None
    name = str(type(event).__struct_config__.tag)
    return dead(record, "wrong_topic", "type", f"type: {name!r} belongs on {topic}, not on {record.topic}")


def routed(event: InputEvent, value: bytes) -> list[Write]:
    """The writes of an event that is passed on as `value`: to signals, to refs, and the links and copies that follow from it."""
    if isinstance(event, InteractionRecorded):
        interaction_id = event.data.interaction_id or ""
        if not event.data.refs:
            return [Write("signals", interaction_id, value)]
        refs = list(dict.fromkeys((ref.system, ref.id) for ref in event.data.refs))
        return [Write("signals", interaction_id, value), *(_link(event, interaction_id, *ref) for ref in refs)]
    if isinstance(event, InteractionLinked):
        return [Write("refs", ref_key(event.data.ref), value)]
    if isinstance(event, SubjectErased):
        return [Write("signals", event.data.data_subject, value, everywhere=True)]
    if isinstance(event, FeedbackRecorded):
        if event.data.ref is not None:
            return [Write("refs", ref_key(event.data.ref), value)]
        written = [Write("signals", event.data.interaction_id or "", value)]
        if copies := fan_out(event):
            written += [Write("signals", other, copy) for other, copy in copies]
        return written
    return [Write("signals", event.data.interaction_id, value)]


def _link(event: InteractionRecorded, interaction_id: str, system: str, foreign_id: str) -> Write:
    ref = Ref(system=system, id=foreign_id)
    linked = InteractionLinked(
        specversion="1.0",
        id=derive_id("interaction.linked", interaction_id, system, foreign_id),
        source=f"headrace:{STAGE}",
        time=event.time,
        traceparent=event.traceparent,
        data=Link(interaction_id=interaction_id, ref=ref),
    )
    return Write("refs", ref_key(ref), linked)


def dead(record: Record, code: str, field: str | None, message: str) -> Step:
    """A record as a dead letter."""
    return Step([dead_letter(STAGE, record, RecordError(code=code, field=field, message=message))], {}, {"dead": 1})
