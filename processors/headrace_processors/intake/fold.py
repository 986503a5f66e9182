"""The intake stage: what others publish is validated, scrubbed and re-keyed, or becomes a dead letter. Stateless fold.

Facts go to `signals` under their interaction id (an erasure to every partition of it), whatever names or teaches a foreign id
goes to `refs` under that id. Fields that we do not know pass through, scrubbed like the rest. Handles (text_fields.py) are never
touched: joins and erasure go by them. Counters: signals, dead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace_processors.intake.policy import IntakePolicy
from headrace_processors.intake.preference import fan_out
from headrace_processors.intake.scrub import Scrubber
from headrace_processors.intake.text_fields import text_fields
from headrace_schemas.codec import Decoded, DecodeError, decode_input, encode_tree
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
from headrace_schemas.inputs import COMMENT_LIMIT, Link, Ref
from headrace_streams.runtime.stage import Record, StatelessFold, Step, Write
from headrace_streams.runtime.step import dead_letter

STAGE = "intake"
_FEEDBACK = FeedbackRecorded | FeedbackRetracted


class IntakeFold(StatelessFold):
    """`headrace_streams.runtime.stage.Fold` under one policy."""

    def __init__(self, policy: IntakePolicy) -> None:
        self._scrubber = Scrubber(policy.scrub)

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        try:
            decoded = decode_input(record.value, record.headers, append_time_ms=record.timestamp)
        except DecodeError as error:
            return _dead(record, error.code, error.field, error.message)
        event = decoded.event
        topic = "feedback" if isinstance(event, _FEEDBACK) else "interactions"
        if record.topic != topic:
            name = str(type(event).__struct_config__.tag)
            return _dead(record, "wrong_topic", "type", f"type: {name!r} belongs on {topic}, not on {record.topic}")
        return Step(_routed(event, self._scrubbed(decoded)), {}, {"signals": 1})

    def _scrubbed(self, decoded: Decoded) -> bytes:
        """The event as it is passed on. Always written anew from what was looked at: of a name that occurs twice in an object
        only the last value is, so the bytes as they came could hold more."""
        tree = decoded.tree()
        fields = text_fields(tree)
        rules = self._scrubber.suspects("\n".join([field.text for field in fields]))
        if rules:
            for holder, key, text in fields:
                clean = self._scrubber.clean(text, rules)
                # a placeholder may be longer than what it stands for, and a comment must stay a valid one
                holder[key] = clean[:COMMENT_LIMIT] if key == "comment" and holder is tree["data"] else clean
        return encode_tree(tree)


def _routed(event: InputEvent, value: bytes) -> list[Write]:
    if isinstance(event, InteractionRecorded):
        interaction_id = event.data.interaction_id or ""
        refs = list(dict.fromkeys((ref.system, ref.id) for ref in event.data.refs or ()))
        return [Write("signals", interaction_id, value), *(_link(event, interaction_id, *ref) for ref in refs)]
    if isinstance(event, InteractionLinked):
        return [Write("refs", ref_key(event.data.ref), value)]
    if isinstance(event, SubjectErased):
        return [Write("signals", event.data.data_subject, value, everywhere=True)]
    if isinstance(event, FeedbackRecorded):
        if event.data.ref is not None:
            return [Write("refs", ref_key(event.data.ref), value)]
        copies = [Write("signals", other, copy) for other, copy in fan_out(event)]
        return [Write("signals", event.data.interaction_id or "", value), *copies]
    return [Write("signals", event.data.interaction_id, value)]


def ref_key(ref: Ref) -> str:
    """The record key of a foreign id. Two ids may share one; whoever joins by them compares both parts."""
    return f"{ref.system}:{ref.id}"


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


def _dead(record: Record, code: str, field: str | None, message: str) -> Step:
    return Step([dead_letter(STAGE, record, RecordError(code=code, field=field, message=message))], {}, {"dead": 1})


def build(body: Mapping[str, Any], digest: str) -> IntakeFold:
    """The fold under a policy body. It names no policy in what it writes, so `digest` is not used."""
    return IntakeFold(IntakePolicy.model_validate(body))
