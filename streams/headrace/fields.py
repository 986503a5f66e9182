"""What the door's methods take, as types: for editors and type checkers. Knows no rule beyond them; the decoder has the rules.

A test holds these against the structs of `headrace_schemas.inputs`: same names, and same types but for what is wider here. None
counts as absent everywhere, pairs do for refs, and messages, tools, usage and finish reason may be what a model library returned.
Fields of an agent's own go through too, but a type checker refuses them: `attributes` is their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol, Required, TypedDict

EventTime = str | datetime | None
"""RFC 3339 text with an offset, an aware datetime, or None: now."""
Ref = tuple[str, str] | Mapping[str, str]
"""A foreign id: (system, id), or an object of both."""


class Call(NamedTuple):
    """An interaction that was recorded: what feedback refers to, and what a following one is the child of.

    `prompt_group` and `session_id` are those that it was given or has from its parent; None where the stages derive them."""

    interaction_id: str
    prompt_group: str | None = None
    session_id: str | None = None


class ModelObject(Protocol):
    """What model libraries return: a pydantic model."""

    def model_dump(self, *, mode: str = ..., exclude_none: bool = ...) -> dict[str, Any]: ...


Given = Mapping[str, Any] | ModelObject
"""An object in the contract's form or in that of a provider; `headrace_schemas.provider_messages` says which are read."""
Prompt = str | Sequence[Given] | Given
Output = str | Given | Sequence[Given]
Scalar = str | int | float | bool | None


class AgentFields(TypedDict, total=False):
    name: Required[str]
    role: str | None
    version: str | None


class ContextItemFields(TypedDict, total=False):
    content: Required[str]
    id: str | None
    score: float | None


class CallErrorFields(TypedDict, total=False):
    type: Required[str]
    message: Required[str]


class PromptTemplateFields(TypedDict, total=False):
    name: Required[str]
    version: str | None


class ExperimentFields(TypedDict, total=False):
    id: Required[str]
    arm: Required[str]
    propensity: Required[float]


class PrincipalFields(TypedDict, total=False):
    id: Required[str]
    kind: Required[str]


class GenerationParametersFields(TypedDict, total=False):
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    seed: int | None
    stop: str | Sequence[str] | None


class DataReferenceFields(TypedDict, total=False):
    sha256: Required[str]
    uri: str | None


class InteractionFields(TypedDict, total=False):
    """What an agent did (docs/contract.md). Times in milliseconds, costs in US dollars, `adapter` a digest `sha256:…`."""

    interaction_id: str | None
    agent: AgentFields | None
    artifact_type: Required[str]
    model: Required[str]
    adapter: str | None
    prompt: Required[Prompt]
    output: Required[Output]
    context: str | Sequence[ContextItemFields] | None
    tools: Sequence[Given] | None
    prompt_group: str | None
    session_id: str | None
    turn: int | None
    parent_interaction_id: str | None
    refs: Sequence[Ref] | None
    attempt: int | None
    latency_ms: float | None
    ttft_ms: float | None
    cost_usd: float | None
    usage: Given | None
    finish_reason: str | None
    error: CallErrorFields | None
    prompt_template: PromptTemplateFields | None
    experiment: ExperimentFields | None
    data_subject: str | None
    train: bool | None
    attributes: Mapping[str, Scalar] | None
    # Kept and passed on; no stage reads them (headrace_schemas.captured).
    parameters: GenerationParametersFields | None
    token_ids: DataReferenceFields | None
    logprobs: DataReferenceFields | None
    release_id: str | None


class FeedbackFields(TypedDict, total=False):
    """How good an interaction was (docs/contract.md). `score` lies within `scale`, which is (0, 100) unless given."""

    feedback_id: str | None
    interaction_id: str | None
    ref: Ref | None
    session_id: str | None  # instead of them, or beside the interaction_id: credited by policy
    content: str | None  # of the kind content_reported, on a session: what something, called `name`, holds now
    kind: Required[str]
    score: float | None
    scale: Sequence[float] | None
    name: str | None
    corrected_output: Output | None
    over: Sequence[Call | str] | None
    comment: str | None
    principal: PrincipalFields | None
