"""What an interaction says beside what any stage reads: kept byte for byte, its form described, and held to at the door alone."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from headrace.publishing import EventFactory
from headrace_processors.intake import fold as intake
from headrace_schemas.captured import CapturedFields, check_captured
from headrace_schemas.errors import DecodeError
from headrace_schemas.events import InteractionRecorded
from headrace_schemas.generate import event_schema
from headrace_schemas.inputs import Interaction
from support.signals import StageRun, interaction, tree_of

DIGEST = "sha256:" + "ab12" * 16
WHOLE: dict[str, Any] = {
    "parameters": {"temperature": 0.7, "top_p": 1.0, "max_tokens": 512, "seed": -3, "stop": ["\n\n"], "top_k": 40},
    "token_ids": {"sha256": DIGEST, "uri": "s3://kept/tokens.npz"},
    "logprobs": {"sha256": DIGEST},
    "release_id": "r-17",
}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"parameters": 5}, "data.parameters"),
    ({"parameters": {"temperature": -1.0}}, "data.parameters.temperature"),
    ({"parameters": {"max_tokens": 0}}, "data.parameters.max_tokens"),
    ({"token_ids": {"uri": "s3://x"}}, "data.token_ids.sha256"),
    ({"logprobs": {"sha256": "ab"}}, "data.logprobs.sha256"),
    ({"release_id": ""}, "data.release_id"),
]


def test_no_stage_has_a_field_of_it_as_its_digest_of_an_interaction_would_be_another() -> None:
    assert not set(CapturedFields.__struct_fields__) & set(Interaction.__struct_fields__)


@pytest.mark.parametrize("fields", [WHOLE, *(wrong for wrong, _ in WRONG)])
def test_intake_passes_it_on_as_it_came_whatever_its_form(fields: dict[str, Any]) -> None:
    stage = StageRun(intake.build({}, "sha256:test"), "interactions")
    stage.feed(interaction("i1", **fields))
    (write,) = stage.outputs
    data = tree_of(write)["data"]
    assert {name: data[name] for name in fields} == fields


def test_the_door_takes_the_form_that_the_schema_describes() -> None:
    check_captured(WHOLE)
    check_captured(dict.fromkeys(WHOLE))
    schema = jsonschema.Draft202012Validator(event_schema(InteractionRecorded))
    assert schema.is_valid(json.loads(interaction("i1", **WHOLE)))


@pytest.mark.parametrize(("fields", "field"), WRONG)
def test_another_form_is_refused_at_the_door_and_by_the_schema(fields: dict[str, Any], field: str) -> None:
    given = {"artifact_type": "sql", "model": "m", "prompt": "p", "output": "o", **fields}
    with pytest.raises(DecodeError) as refused:
        EventFactory("bot").interaction(given, None, None)
    assert refused.value.field == field
    assert not jsonschema.Draft202012Validator(event_schema(InteractionRecorded)).is_valid(
        json.loads(interaction("i1", **fields))
    )
