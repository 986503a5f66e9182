"""What others say: the `data` of interaction and feedback events, as frozen msgspec Structs. Knows no envelope, no Kafka.

The rules here are the only ones of the wire: a value that these types accept is valid, up to the few rules between fields
that `codec` adds. Scores are as published (`scale` maps them to 0-100), digests are `sha256:` and 64 hex digits.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

KEY_LIMIT = 200  # characters of any string that is used as a key
VOICE_LIMIT = 64  # voices kept of one interaction
COMMENT_LIMIT = 16 * 1024
OVER_LIMIT = 1000  # interactions that one preference may be over: each gets a signal of its own
# Patterns are read by Python here and by ECMAScript in the JSON Schemas: only Python's `$` also matches before a last newline.
NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f]*$(?!\n)"

Key = Annotated[str, Meta(min_length=1, max_length=KEY_LIMIT, pattern=NO_CONTROL)]
ArtifactType = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$(?!\n)")]
Kind = Annotated[str, Meta(pattern=r"^[a-z_]{1,40}$(?!\n)")]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$(?!\n)")]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Number = float  # an integer on the wire is accepted
Scalar = str | int | float | bool | None


class Value(Struct, frozen=True, omit_defaults=True):
    """Base of everything inside `data`: immutable, absent when default. (`kw_only` is per class, so each repeats it.)"""


class Agent(Value, frozen=True, kw_only=True):
    name: Key
    role: str | None = None
    version: str | None = None


class TextPart(Value, frozen=True, kw_only=True, tag_field="type", tag="text"):
    text: str


class RefPart(Value, frozen=True, kw_only=True, tag_field="type", tag="ref"):
    media_type: str
    uri: str
    sha256: str | None = None


class ToolCall(Value, frozen=True, kw_only=True):
    id: str
    name: str
    arguments: Any = None  # as the provider gave it: a JSON string or an object


class Message(Value, frozen=True, kw_only=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart | RefPart] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class ContextItem(Value, frozen=True, kw_only=True):
    content: str
    id: str | None = None
    score: Number | None = None


class Tool(Value, frozen=True, kw_only=True):
    name: str
    description: str | None = None
    parameters: Any = None


class Ref(Value, frozen=True, kw_only=True):
    system: Key
    id: Key


class Usage(Value, frozen=True, kw_only=True):
    input_tokens: Natural | None = None
    output_tokens: Natural | None = None


class CallError(Value, frozen=True, kw_only=True):
    type: str
    message: str


class PromptTemplate(Value, frozen=True, kw_only=True):
    name: str
    version: str | None = None


class Experiment(Value, frozen=True, kw_only=True):
    id: Key
    arm: Key
    propensity: Annotated[float, Meta(ge=0, le=1)]


class Principal(Value, frozen=True, kw_only=True):
    id: Key
    kind: Literal["human", "validator", "test", "agent"]


Text = str | list[Message]
Output = str | Message
Context = str | list[ContextItem] | None
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "cancelled", "error", "other"]


class Interaction(Value, frozen=True, kw_only=True):
    """`data` of `headrace.interaction.recorded.v1`: what an agent did. `interaction_id` is filled by intake when absent."""

    interaction_id: Key | None = None
    agent: Agent
    artifact_type: ArtifactType
    model: Key
    adapter: Digest | None = None
    prompt: Text
    output: Output
    context: Context = None
    tools: list[Tool] | None = None
    prompt_group: Key | None = None
    session_id: Key | None = None
    turn: Int64 | None = None
    parent_interaction_id: Key | None = None
    refs: Annotated[list[Ref], Meta(max_length=16)] | None = None
    attempt: Positive | None = None
    latency_ms: Annotated[float, Meta(ge=0)] | None = None
    ttft_ms: Annotated[float, Meta(ge=0)] | None = None
    cost_usd: Annotated[float, Meta(ge=0)] | None = None
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    error: CallError | None = None
    prompt_template: PromptTemplate | None = None
    experiment: Experiment | None = None
    data_subject: Key | None = None
    train: bool | None = None  # absent and null mean true
    attributes: dict[str, Scalar] | None = None


class Link(Value, frozen=True, kw_only=True):
    interaction_id: Key
    ref: Ref


class InteractionRetraction(Value, frozen=True, kw_only=True):
    interaction_id: Key
    reason: str | None = None


class SubjectErasure(Value, frozen=True, kw_only=True):
    data_subject: Key


class Feedback(Value, frozen=True, kw_only=True):
    """`data` of `headrace.feedback.recorded.v1`: how good it was. Exactly one of `interaction_id` and `ref` (codec checks)."""

    feedback_id: Key | None = None
    interaction_id: Key | None = None
    ref: Ref | None = None
    kind: Kind
    score: Number | None = None
    scale: tuple[Number, Number] | None = None
    name: Key | None = None
    corrected_output: Output | None = None
    over: Annotated[list[Key], Meta(max_length=OVER_LIMIT)] | None = None
    under: Key | None = None  # on an interaction that a preference was over: what was preferred to it
    comment: Annotated[str, Meta(max_length=COMMENT_LIMIT)] | None = None
    principal: Principal | None = None


class FeedbackRetraction(Value, frozen=True, kw_only=True):
    feedback_id: Key
    interaction_id: Key
    reason: str | None = None
