"""Writes json/*.json and asyncapi.yaml from the structs, the tables of topics and stages, and the rules between fields.

`python -m headrace_schemas.generate` writes, `--check` only says (exit 1) which files are not current. Needs pyyaml, which is
a tool of development: nothing at run time imports this module.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import orjson
import yaml

from headrace_schemas.captured import CapturedFields
from headrace_schemas.events import EVENT_TYPES, Envelope
from headrace_schemas.inputs import KEY_LIMIT
from headrace_schemas.topics import ANYBODY, BY_NAME, DAY_MS, FOREVER, OBSERVER, OPERATOR, Topic
from headrace_schemas.topology import TOPOLOGY

HERE = Path(__file__).parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"
Json = dict[str, Any]

_RECEIVED = [topic.name for topic in BY_NAME.values() if {ANYBODY, OPERATOR} & set(topic.writers)]  # where others publish
_SENT = [topic.name for topic in BY_NAME.values() if set(topic.writers) - {ANYBODY, OPERATOR}]  # what stages write


def _given(field: str) -> Json:
    return {"required": [field], "properties": {field: {"not": {"type": "null"}}}}


# The rules of headrace_schemas.constraints that JSON Schema can say, laid over the structs' schemas.
_OVERLAYS: dict[str, Json] = {
    "Interaction": {"properties": {"prompt": {"minLength": 1, "minItems": 1}}},
    "Feedback": {
        "oneOf": [_given("interaction_id"), _given("ref"), {**_given("session_id"), "not": _given("interaction_id")}],
        "allOf": [
            {"if": {"properties": {"kind": {"const": "user_correction"}}}, "then": _given("corrected_output")},
            {"if": {"properties": {"kind": {"const": "preference"}}}, "then": {"anyOf": [_given("over"), _given("under")]}},
        ],
    },
    "FeedbackRetraction": {"required": ["feedback_id"], "anyOf": [_given("interaction_id"), _given("session_id")]},
}


def files() -> dict[str, bytes]:
    """Every generated file: path below this folder -> bytes."""
    made = {f"json/{name}.json": _pretty(event_schema(cls)) for name, cls in EVENT_TYPES.items()}
    made["asyncapi.yaml"] = yaml.safe_dump(asyncapi(), sort_keys=False, allow_unicode=True, width=130).encode()
    return made


def event_schema(cls: type[Envelope]) -> Json:
    """The JSON Schema of one event, whole: envelope, data and all that they use."""
    (root,), parts = msgspec.json.schema_components([cls], ref_template="#/$defs/{name}")
    parts = _overlaid(_with_captured(parts, "#/$defs/{name}"))
    own = root["$ref"].rpartition("/")[2]
    return {"$schema": DIALECT, **parts.pop(own), "title": str(cls.__struct_config__.tag), "$defs": parts}


def asyncapi() -> Json:
    """The AsyncAPI 3 document: one channel per topic, one message per event type, one operation per channel."""
    _, parts = msgspec.json.schema_components(EVENT_TYPES.values(), ref_template="#/components/schemas/{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Headrace",
            "version": "1",
            "description": "CloudEvents 1.0 in JSON, one per Kafka record, structured or binary mode. Unknown attributes and "
            "fields are kept and passed on. Topic names start with the deployment's name.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/cloudevents+json",
        "channels": {name: _channel(topic) for name, topic in BY_NAME.items()},
        "operations": {
            **{f"receive.{topic}": _operation("receive", topic) for topic in _RECEIVED},
            **{f"send.{topic}": _operation("send", topic) for topic in _SENT},
        },
        "components": {
            "messages": {
                name: {"name": name, "payload": {"$ref": f"#/components/schemas/{cls.__name__}"}}
                for name, cls in EVENT_TYPES.items()
            },
            "schemas": _overlaid(_with_captured(parts, "#/components/schemas/{name}")),
        },
    }


def main(arguments: list[str]) -> int:
    """Writes the files, or with `--check` says which are not what they should be. The number of those decides the exit code."""
    check = "--check" in arguments
    made = files()
    stale = [path for path, content in made.items() if not (HERE / path).is_file() or (HERE / path).read_bytes() != content]
    extra = [f"json/{path.name}" for path in sorted((HERE / "json").glob("*")) if f"json/{path.name}" not in made]
    if check:
        for path in [*stale, *extra]:
            print(f"{path}: not current; run `python -m headrace_schemas.generate`", file=sys.stderr)
        return 1 if stale or extra else 0
    (HERE / "json").mkdir(exist_ok=True)
    for path in stale:
        (HERE / path).write_bytes(made[path])
    for path in extra:
        (HERE / path).unlink()
    return 0


def _channel(topic: Topic) -> Json:
    names = [str(cls.__struct_config__.tag) for cls in topic.events]
    writers = {
        ANYBODY: "Anybody may publish.",
        OPERATOR: "Operators publish their requests here.",
        OBSERVER: "The worker's observer writes here.",
    }
    said = " ".join([*(writers[name] for name in topic.writers if name in writers), *_stages_of(topic)])
    key = f"{topic.key}{'' if topic.trusted_key else '; not trusted'}"
    kept = "Compacted" if topic.compacted else f"Kept {kept_for(topic)}"
    return {
        "address": "{deployment}." + topic.name,
        "description": f"{topic.description[:1].upper()}{topic.description[1:]}. {said} {kept}. Record key: {key}.",
        "parameters": {"deployment": {"description": "The deployment's name.", "default": "headrace"}},
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {"kafka": {"bindingVersion": "0.5.0"}},
    }


def _stages_of(topic: Topic) -> list[str]:
    writers = [name for name in topic.writers if name not in (ANYBODY, OPERATOR, OBSERVER)]
    readers = [stage.name for stage in TOPOLOGY if topic.name in (*stage.inputs, *stage.lookups)]
    return [f"{how} by {', '.join(names)}." for how, names in (("Written", writers), ("Read", readers)) if names]


def kept_for(topic: Topic) -> str:
    """`for ever`, or `7 days`."""
    return "for ever" if topic.retention_ms == FOREVER else f"{topic.retention_ms // DAY_MS} days"


def _operation(action: str, topic: str) -> Json:
    return {"action": action, "channel": {"$ref": f"#/channels/{topic}"}}


SESSION_ID = {  # of feedback and its retraction: published, taken out of what becomes a signal
    "anyOf": [{"type": "string", "minLength": 1, "maxLength": KEY_LIMIT}, {"type": "null"}],
    "description": "What it is about: a session, whose interactions policy credits with it. Instead of interaction_id and ref, "
    "or beside the interaction_id up to which it counts.",
    "default": None,
}


def _with_captured(parts: Json, template: str) -> Json:
    """Interactions have the fields, too, that are passed on and read by nobody; feedback may be on a session."""
    for name in ("Feedback", "FeedbackRetraction"):
        if name in parts:
            schema = parts[name]
            parts = {**parts, name: {**schema, "properties": {**schema["properties"], "session_id": SESSION_ID}}}
    if "Interaction" not in parts:
        return parts
    _, captured = msgspec.json.schema_components([CapturedFields], ref_template=template)
    fields = captured.pop("CapturedFields")["properties"]
    interaction = parts["Interaction"]
    return {**parts, **captured, "Interaction": {**interaction, "properties": {**interaction["properties"], **fields}}}


def _overlaid(parts: Json) -> Json:
    out = {}
    for name, schema in sorted(parts.items()):
        overlay = _OVERLAYS.get(name, {})
        rules = overlay.get("properties", {})
        fields = {field: _described(field, {**sub, **rules.get(field, {})}, parts) for field, sub in schema["properties"].items()}
        out[name] = {**schema, **{key: value for key, value in overlay.items() if key != "properties"}, "properties": fields}
    return out


def _described(field: str, schema: Json, parts: Json) -> Json:
    """A tag says that it is one; a field that is a struct and says nothing itself says what the struct does."""
    if "description" in schema:
        return schema
    if field == "type" and "enum" in schema:
        return {"description": "Says what this is.", **schema}
    if "$ref" in schema:
        said = parts[schema["$ref"].rpartition("/")[2]].get("description", "")
        return {"description": said.partition("\n")[0], **schema} if said else schema
    return schema


def _pretty(schema: Json) -> bytes:
    return orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
