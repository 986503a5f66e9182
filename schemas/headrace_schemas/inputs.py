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


def doc(description: str) -> Meta:
    """What a field means, for the JSON Schemas: `Annotated[str, doc("…")]`. It checks nothing when an event is read."""
    return Meta(description=description)


Key = Annotated[str, Meta(min_length=1, max_length=KEY_LIMIT, pattern=NO_CONTROL)]
ArtifactType = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$(?!\n)")]
Kind = Annotated[str, Meta(pattern=r"^[a-z_]{1,40}$(?!\n)")]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$(?!\n)")]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Number = float  # an integer on the wire is accepted
# Published within +-1e9 (constraints.check_scale); records of before may say otherwise, so only the JSON Schema bounds it here.
ScaleEnd = Annotated[float, Meta(extra_json_schema={"minimum": -1e9, "maximum": 1e9})]
Scalar = str | int | float | bool | None


class Value(Struct, frozen=True, omit_defaults=True):
    """Base of everything inside `data`: immutable, absent when default. (`kw_only` is per class, so each repeats it.)"""


class Agent(Value, frozen=True, kw_only=True):
    """Who acted."""

    name: Annotated[Key, doc("Name of the agent; the same for all its instances.")]
    role: Annotated[str | None, doc("What it does in its team, such as coder or reviewer.")] = None
    version: Annotated[str | None, doc("Version of its code and prompts.")] = None


class TextPart(Value, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """A piece of a message that is text."""

    text: Annotated[str, doc("The text.")]


class RefPart(Value, frozen=True, kw_only=True, tag_field="type", tag="ref"):
    """A piece of a message that is not text, by reference."""

    media_type: Annotated[str, doc("Its media type, such as image/png.")]
    uri: Annotated[str, doc("Where it lies. Never fetched by the stages.")]
    sha256: Annotated[str | None, doc("Its SHA-256.")] = None


class ToolCall(Value, frozen=True, kw_only=True):
    """A call that the model asked for."""

    id: Annotated[str, doc("Id of the call, which the tool's message answers.")]
    name: Annotated[str, doc("Name of the tool.")]
    arguments: Annotated[Any, doc("Its arguments, as the provider gave them: a string of JSON or an object.")] = None


class Message(Value, frozen=True, kw_only=True):
    """One message of a conversation."""

    role: Annotated[Literal["system", "developer", "user", "assistant", "tool"], doc("Who speaks.")]
    content: Annotated[str | list[TextPart | RefPart] | None, doc("What is said: text or parts; null beside tool calls.")] = None
    tool_calls: Annotated[list[ToolCall] | None, doc("Calls that an assistant's message asks for.")] = None
    tool_call_id: Annotated[str | None, doc("Of a tool's message: the call that it answers.")] = None


class ContextItem(Value, frozen=True, kw_only=True):
    """Something that was retrieved or attached."""

    content: Annotated[str, doc("Its text.")]
    id: Annotated[str | None, doc("Its id where it came from.")] = None
    score: Annotated[Number | None, doc("The retriever's score of it.")] = None


class Tool(Value, frozen=True, kw_only=True):
    """A tool that the model could call."""

    name: Annotated[str, doc("Its name.")]
    description: Annotated[str | None, doc("What the model was told about it.")] = None
    parameters: Annotated[Any, doc("JSON Schema of its arguments.")] = None


class Ref(Value, frozen=True, kw_only=True):
    """A foreign id: what another system calls this interaction."""

    system: Annotated[Key, doc("The other system, such as jira.")]
    id: Annotated[Key, doc("The id there.")]


class Usage(Value, frozen=True, kw_only=True):
    """Tokens, as the provider counted them."""

    input_tokens: Annotated[Natural | None, doc("Tokens that went in.")] = None
    output_tokens: Annotated[Natural | None, doc("Tokens that came out.")] = None


class CallError(Value, frozen=True, kw_only=True):
    """Why a call failed."""

    type: Annotated[str, doc("Kind of the error.")]
    message: Annotated[str, doc("What it said.")]


class PromptTemplate(Value, frozen=True, kw_only=True):
    """What the prompt was made from."""

    name: Annotated[str, doc("Name of the template.")]
    version: Annotated[str | None, doc("Its version.")] = None


class Experiment(Value, frozen=True, kw_only=True):
    """The experiment that routed a call."""

    id: Annotated[Key, doc("Id of the experiment.")]
    arm: Annotated[Key, doc("The arm that answered.")]
    propensity: Annotated[float, Meta(ge=0, le=1), doc("Probability with which this arm was chosen, 0 to 1.")]


class Principal(Value, frozen=True, kw_only=True):
    """Who says so."""

    id: Annotated[Key, doc("Their id. All that one principal says under one check name is one voice.")]
    kind: Annotated[Literal["human", "validator", "test", "agent"], doc("What they are.")]


Text = str | list[Message]
Output = str | Message
Context = str | list[ContextItem] | None
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "cancelled", "error", "other"]
NotNegative = Annotated[float, Meta(ge=0)]


class Interaction(Value, frozen=True, kw_only=True):
    """What an agent did: the `data` of `headrace.interaction.recorded.v1`."""

    interaction_id: Annotated[Key | None, doc("Globally unique. Absent: intake derives it from the event's source and id.")] = (
        None
    )
    agent: Annotated[Agent, doc("Who acted.")]
    artifact_type: Annotated[ArtifactType, doc("Kind of work, such as code, tests, sql, review or docs.")]
    model: Annotated[Key, doc("Who answered: name of the model as the agent knows it.")]
    adapter: Annotated[Digest | None, doc("Digest of the adapter that answered; absent: the base alone.")] = None
    prompt: Annotated[Text, doc("What was asked: text or messages; not empty.")]
    output: Annotated[Output, doc("What was answered: text or one assistant message; may be empty.")]
    context: Annotated[Context, doc("What was retrieved or attached.")] = None
    tools: Annotated[list[Tool] | None, doc("Tools that the model could call.")] = None
    prompt_group: Annotated[
        Key | None, doc("The same task is the same group. Absent: the session's, else by the last question.")
    ] = None
    session_id: Annotated[Key | None, doc("Conversation or episode that it belongs to.")] = None
    turn: Annotated[Int64 | None, doc("Its number in the session.")] = None
    parent_interaction_id: Annotated[Key | None, doc("The interaction that it follows or was called by.")] = None
    refs: Annotated[Annotated[list[Ref], Meta(max_length=16)] | None, doc("Foreign ids by which feedback may come.")] = None
    attempt: Annotated[Positive | None, doc("The n-th try at this task; absent means the first.")] = None
    latency_ms: Annotated[NotNegative | None, doc("From question to complete output, in ms. The event's time is the end.")] = None
    ttft_ms: Annotated[NotNegative | None, doc("Time to the first token, in ms.")] = None
    cost_usd: Annotated[NotNegative | None, doc("What the call cost, in US dollars.")] = None
    usage: Annotated[Usage | None, doc("Tokens used.")] = None
    finish_reason: Annotated[FinishReason | None, doc("Why the output ended.")] = None
    error: Annotated[CallError | None, doc("Given when the call failed.")] = None
    prompt_template: Annotated[PromptTemplate | None, doc("What the prompt was made from.")] = None
    experiment: Annotated[Experiment | None, doc("The experiment that routed the call.")] = None
    data_subject: Annotated[Key | None, doc("Whose personal data this may hold: the handle for erasure.")] = None
    train: Annotated[bool | None, doc("False: scored and counted, but never trained on. Absent and null mean true.")] = None
    attributes: Annotated[dict[str, Scalar] | None, doc("Whatever else the publisher wants to keep with it.")] = None


class Link(Value, frozen=True, kw_only=True):
    """A foreign id that was learnt after the interaction was published."""

    interaction_id: Annotated[Key, doc("The interaction.")]
    ref: Annotated[Ref, doc("What the other system calls it.")]


class InteractionRetraction(Value, frozen=True, kw_only=True):
    """An interaction that is to be forgotten: its texts go, and so does its example."""

    interaction_id: Annotated[Key, doc("The interaction.")]
    reason: Annotated[str | None, doc("Why, for people.")] = None


class SubjectErasure(Value, frozen=True, kw_only=True):
    """A person whose data is to be forgotten: all interactions that name them, until now and later ones of before."""

    data_subject: Annotated[Key, doc("The handle that the interactions carry.")]


class Attribution(Value, frozen=True, kw_only=True):
    """What feedback was derived from: what was said of a session, or what a derivation saw in it."""

    session_id: Annotated[Key, doc("The session.")]
    feedback_id: Annotated[
        Key, doc("What was said of it, by its id at the same source; of what a derivation saw the feedback itself.")
    ]
    share: Annotated[float, Meta(ge=0, le=1), doc("How much of it this interaction is credited with; the shares add up to 1.")]
    derived_by: Annotated[
        Key | None, doc("On feedback that nobody gave: the derivation that saw it in the session, as name@version.")
    ] = None
    causes: Annotated[
        list[Key] | None, doc("What that was seen in: ids of interactions, and of what was reported of the session.")
    ] = None


class Feedback(Value, frozen=True, kw_only=True):
    """How good an interaction was: the `data` of `headrace.feedback.recorded.v1`. Exactly one of `interaction_id` and `ref`."""

    feedback_id: Annotated[Key | None, doc("Unique per source and interaction. Absent: the event's id.")] = None
    interaction_id: Annotated[Key | None, doc("What it is about. May come before, long after or without its interaction.")] = None
    ref: Annotated[Ref | None, doc("What it is about, by a foreign id.")] = None
    kind: Annotated[
        Kind,
        doc(
            "success, validation_failure, user_correction, explicit_positive, explicit_negative, rating, preference or "
            "another; what another kind is worth stands in the policy, 0 by default."
        ),
    ]
    score: Annotated[Number | None, doc("How good, within the scale.")] = None
    scale: Annotated[
        tuple[ScaleEnd, ScaleEnd] | None, doc("Lowest and highest possible score, within -1e9 and 1e9; absent means 0 and 100.")
    ] = None
    name: Annotated[Key | None, doc("Which check, such as unit_tests or lint: each name is a voice of its own.")] = None
    corrected_output: Annotated[Output | None, doc("What the output should have been; required for user_correction.")] = None
    over: Annotated[
        Annotated[list[Key], Meta(max_length=OVER_LIMIT)] | None, doc("Of a preference: interactions that it was preferred to.")
    ] = None
    under: Annotated[Key | None, doc("On an interaction that a preference was over: what was preferred to it. Intake's.")] = None
    comment: Annotated[Annotated[str, Meta(max_length=COMMENT_LIMIT)] | None, doc("In words.")] = None
    principal: Annotated[Principal | None, doc("Who says so; absent: each feedback is a voice of its own.")] = None
    attributed_from: Annotated[
        Attribution | None, doc("On feedback that was derived from what was said of a session. The attribute stage's.")
    ] = None


class FeedbackRetraction(Value, frozen=True, kw_only=True):
    """Feedback that is taken back."""

    feedback_id: Annotated[Key, doc("The feedback, by its id at the same source.")]
    interaction_id: Annotated[Key, doc("What it was about.")]
    reason: Annotated[str | None, doc("Why, for people.")] = None
