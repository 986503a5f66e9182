"""One sample per event type and version: what was once said must be read for ever, and is written as it was."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from headrace_schemas.canonical import canonical
from headrace_schemas.codec import decode, encode
from headrace_schemas.events import EVENT_TYPES
from headrace_schemas.generate import event_schema

GOLDENS = Path(__file__).parents[1] / "goldens"
SAMPLES = sorted(GOLDENS.glob("*.json"))


def test_every_event_type_has_a_golden_sample() -> None:
    assert set(EVENT_TYPES) <= {path.stem for path in SAMPLES}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_golden_is_read_and_written_as_it_was(path: Path) -> None:
    event = decode(path.read_bytes())
    if path.stem in EVENT_TYPES:  # else an older version, which reads as the one of today
        assert type(event) is EVENT_TYPES[path.stem]
        assert canonical(json.loads(encode(event))) == canonical(json.loads(path.read_bytes()))


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_a_golden_fills_every_field_of_its_data(name: str) -> None:
    """A field that no golden has could be renamed without anybody noticing."""
    tree = json.loads((GOLDENS / f"{name}.json").read_bytes())
    fields = {field.encode_name for field in msgspec.structs.fields(msgspec.structs.fields(EVENT_TYPES[name])[-1].type)}
    exclusive = {"ref"} if name == "headrace.feedback.recorded.v1" else set()
    back_to_base = {"adapter", "version_id", "evaluation_id"} if "rolled_back" in name else set()
    assert fields - exclusive - back_to_base - {"requested_by"} <= set(tree["data"])


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_the_json_schema_accepts_the_golden_and_refuses_a_broken_one(name: str) -> None:
    schema = event_schema(EVENT_TYPES[name])
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    tree = json.loads((GOLDENS / f"{name}.json").read_bytes())
    validator.validate(tree)
    assert not validator.is_valid({**tree, "data": {}})
    assert not validator.is_valid({**tree, "type": "other"})
