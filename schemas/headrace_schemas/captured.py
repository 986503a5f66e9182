"""What an interaction may say beside what any stage reads, for what one day learns from it: how it was generated, and by what.

These are no fields of `Interaction`. Reward tells a redelivered interaction from another one by the digest of that struct, so a
field that it gains would change what earlier rule versions decided. They go through intake as they came, scrubbed like the rest;
the JSON Schema says their form and the door holds publishers to it, intake does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from headrace_schemas.errors import fault
from headrace_schemas.inputs import Digest, Int64, Key, NotNegative, Positive, Value, doc


class GenerationParameters(Value, frozen=True, kw_only=True):
    """How an answer was generated. Others than these are kept too."""

    temperature: Annotated[NotNegative | None, doc("Temperature of sampling; 0: the likeliest token.")] = None
    top_p: Annotated[Annotated[float, Meta(ge=0, le=1)] | None, doc("Share of probability that was sampled from, 0 to 1.")] = None
    max_tokens: Annotated[Positive | None, doc("At most so many tokens were generated.")] = None
    seed: Annotated[Int64 | None, doc("Seed of the sampling.")] = None
    stop: Annotated[str | list[str] | None, doc("Texts that end an answer.")] = None


class DataReference(Value, frozen=True, kw_only=True):
    """Data that is kept elsewhere, by its digest."""

    sha256: Annotated[Digest, doc("Its SHA-256.")]
    uri: Annotated[str | None, doc("Where it lies. Never fetched by the stages.")] = None


class CapturedFields(Value, frozen=True, kw_only=True):
    """Fields of an interaction's `data` that no stage reads."""

    parameters: Annotated[GenerationParameters | None, doc("How the answer was generated.")] = None
    token_ids: Annotated[DataReference | None, doc("Tokens of the answer, by reference.")] = None
    logprobs: Annotated[
        DataReference | None, doc("Their log probabilities under the policy that sampled them, by reference.")
    ] = None
    release_id: Annotated[Key | None, doc("The release by which the agent chose its adapter; absent: it doesn't say.")] = None


class _Holder(Value, frozen=True, kw_only=True):
    data: CapturedFields


_FIELDS = tuple(CapturedFields.__struct_fields__)


def check_captured(data: Mapping[str, Any]) -> None:
    """DecodeError for the first of these fields of an interaction's data, as plain JSON, that has another form."""
    given = {name: data[name] for name in _FIELDS if name in data}
    if not given:
        return
    tree = {"data": given}
    try:
        msgspec.convert(tree, _Holder)
    except msgspec.ValidationError as error:
        raise fault(error, tree) from None
