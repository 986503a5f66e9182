"""The generated documents are current, say what the codec says, and hang together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import jsonschema
import msgspec
import pytest
import yaml

from headrace_schemas import generate, inputs
from headrace_schemas.events import EVENT_TYPES, FeedbackRecorded
from headrace_schemas.topics import TOPIC_NAMES, TOPICS

HERE = generate.HERE


def test_committed_files_are_current() -> None:
    assert generate.main(["--check"]) == 0


def test_check_names_what_is_not_current_and_generating_repairs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "HERE", tmp_path)
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    (tmp_path / "json" / "gone.json").write_text("{}")
    (tmp_path / "asyncapi.yaml").write_text("")
    assert generate.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "asyncapi.yaml" in said
    assert "gone.json" in said
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0


def test_the_topics_carry_every_event_type() -> None:
    assert {cls for topic in TOPICS for cls in topic.events} == set(EVENT_TYPES.values())


def test_every_field_of_every_event_says_what_it_means() -> None:
    documents = {name: generate.event_schema(cls) for name, cls in EVENT_TYPES.items()}
    structs = {f"{name}: {title}": struct for name, event in documents.items() for title, struct in event["$defs"].items()}
    structs |= documents | yaml.safe_load((HERE / "asyncapi.yaml").read_bytes())["components"]["schemas"]
    fields = [(f"{name}.{field}", sub) for name, struct in structs.items() for field, sub in struct["properties"].items()]
    assert len(fields) > 10 * len(EVENT_TYPES)
    assert [name for name, sub in fields if not sub.get("description")] == []
    assert [name for name, struct in structs.items() if not struct.get("description")] == []


def test_saying_what_a_field_means_checks_nothing() -> None:
    described = Annotated[str, inputs.doc("a name")]
    assert msgspec.convert("", described) == ""
    with pytest.raises(msgspec.ValidationError, match="Expected `str`"):
        msgspec.convert(1, described)


def test_asyncapi_refers_only_to_what_is_there() -> None:
    document = yaml.safe_load((HERE / "asyncapi.yaml").read_bytes())
    assert document["asyncapi"] == "3.0.0"
    assert set(document["channels"]) == set(TOPIC_NAMES)
    todo, seen = [document], 0
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                target = document
                for step in node["$ref"].removeprefix("#/").split("/"):
                    target = target[step]
                seen += 1
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)
    assert seen > len(EVENT_TYPES)
    assert all(operation["action"] in ("send", "receive") for operation in document["operations"].values())


def test_channels_say_who_writes_and_who_reads() -> None:
    channels = generate.asyncapi()["channels"]
    assert "Operators publish their requests here. Written by train. Read by release." in channels["outcomes"]["description"]
    assert "Written by reward, curate, release. Read by curate, train." in channels["examples"]["description"]
    assert " by " not in channels["releases.history"]["description"].replace("Written by release. Read by train.", "")


@pytest.mark.parametrize(
    ("data", "valid"),
    [
        ({"interaction_id": "i", "kind": "success"}, True),
        ({"interaction_id": "i", "ref": None, "kind": "success", "new": 1}, True),
        ({"ref": {"system": "s", "id": "1"}, "kind": "success"}, True),
        ({"kind": "success"}, False),
        ({"interaction_id": "i", "ref": {"system": "s", "id": "1"}, "kind": "success"}, False),
        ({"interaction_id": "i", "kind": "user_correction"}, False),
        ({"interaction_id": "i", "kind": "user_correction", "corrected_output": "x"}, True),
        ({"interaction_id": "i", "kind": "preference", "over": None}, False),
        ({"interaction_id": "i\u0001", "kind": "success"}, False),
        ({"interaction_id": "i", "kind": "success\n"}, False),
    ],
)
def test_schemas_say_the_rules_between_fields(data: dict[str, Any], valid: bool) -> None:
    event = {"specversion": "1.0", "id": "1", "source": "x", "type": "headrace.feedback.recorded.v1", "data": data}
    assert jsonschema.Draft202012Validator(generate.event_schema(FeedbackRecorded)).is_valid(event) is valid
