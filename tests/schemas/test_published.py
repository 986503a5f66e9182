"""What others publish: the strict way and the general way are one decoder, its bounds hold, and what it says is of use."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from headrace_schemas.codec import DecodeError, decode_input, encode, encode_tree
from headrace_schemas.errors import CODES
from headrace_schemas.events import Event, FeedbackRecorded, InputEvent, InteractionRecorded
from headrace_schemas.inputs import NO_CONTROL
from headrace_schemas.json_limits import VALUE_LIMIT
from headrace_schemas.published import decode_published
from headrace_schemas.strict import decode_strictly, says_no_more
from support.strategies import JSON, TEXTS, events, values

NOW = 4_102_444_800_000
INPUTS = InputEvent.__args__
LIMITS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
ENVELOPE: dict[str, Any] = {"specversion": "1.0", "id": "e1", "source": "agent:x", "time": "2026-11-21T10:00:00Z"}
DATA: dict[str, Any] = {
    "interaction_id": "i1", "agent": {"name": "a"}, "artifact_type": "sql", "model": "m", "prompt": "p",
    "output": ""}  # fmt: skip
SAID: dict[str, Any] = {"interaction_id": "i1", "feedback_id": "f1", "kind": "rating", "score": 4, "scale": [1, 5]}


def interaction(**data: Any) -> bytes:
    return compact({**ENVELOPE, "type": "headrace.interaction.recorded.v1", "data": {**DATA, **data}})


def feedback(**data: Any) -> bytes:
    return compact({**ENVELOPE, "type": "headrace.feedback.recorded.v1", "data": {**SAID, **data}})


def compact(tree: Any) -> bytes:
    return json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode()


def general(raw: bytes) -> tuple[Any, ...]:
    """What the old path says: the event and the bytes that are passed on, or code and field of the error."""
    try:
        decoded = decode_input(raw, append_time_ms=NOW)
    except DecodeError as error:
        return error.code, error.field
    return decoded.event, encode_tree(decoded.tree())


def agrees(raw: bytes) -> None:
    expected = general(raw)
    strict = decode_strictly(raw)
    try:
        published = decode_published(raw, append_time_ms=NOW)
    except DecodeError as error:
        found = (error.code, error.field)
        assert error.code in CODES and expected in (found, ("not_json", None))  # noqa: PT017, PT018 - the parser names no place
        return
    event = msgspec.convert(msgspec.to_builtins(published.event), type(expected[0]))  # integers become floats where they may be
    assert (event, published.written()) == expected
    assert published.strict is (strict is not None)


@given(events(*INPUTS), st.booleans(), st.booleans())
@LIMITS
def test_valid_events_are_the_same_by_both_ways(event: Event, shuffled: bool, whole: bool) -> None:
    raw = encode(event)
    agrees(raw)
    tree = json.loads(raw)
    if whole:  # integers where floats may stand
        tree = json.loads(raw, parse_float=lambda text: int(float(text)))
    if shuffled:
        tree = {**dict(reversed(tree.items())), "data": dict(reversed(tree["data"].items()))}
    agrees(compact(tree))
    agrees(json.dumps(tree).encode())


@given(events(*INPUTS), st.data())
@settings(LIMITS, max_examples=300)
def test_damaged_events_are_refused_alike_by_both_ways(event: Event, data: st.DataObject) -> None:
    raw = encode(event)
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 40)))
    pieces = [b"", b"null", b"1.0", b"-1", b"1e400", b"9" * 30, b'"\\ud800"', b"\xff", b"{}", b"[]", b'""', b"NaN", b",", b'"',
              b"5e1", b" ", b"\\u0041", b"\\n", b"\x01", b"\x7f", "\u200b".encode(), b"[" * 70]  # fmt: skip
    agrees(raw[:start] + data.draw(st.sampled_from([*pieces, raw[start:end] * 2])) + raw[end:])


@given(events(InteractionRecorded, FeedbackRecorded), JSON, st.dictionaries(TEXTS, JSON, max_size=2))
@LIMITS
def test_any_value_anywhere_is_the_same_by_both_ways(event: Event, value: Any, fields: dict[str, Any]) -> None:
    tree = json.loads(encode(event))
    agrees(compact({**tree, **fields}))
    for field in (*tree["data"], "train", "under"):
        agrees(compact({**tree, "data": {**tree["data"], field: value}}))


NUMBERS = [0, -1, 1.5, 2**63 - 1, 2**63, -(2**63) - 1, 10**40, 1e300, -0.0, True, "7", None, [0], [0, 2**63]]
STRINGS = ["", "x" * 201, "a" * (16 * 1024 + 1), "a\n", "a\u00a0b", "sha256:" + "0" * 63, "Code", "\u200b", {}]


@pytest.mark.parametrize("value", [*NUMBERS, *STRINGS], ids=lambda value: str(value)[:12])
def test_values_at_and_beyond_the_bounds_are_the_same_by_both_ways(value: Any) -> None:
    for kind, said in ((InteractionRecorded, DATA), (FeedbackRecorded, SAID)):
        tree = {**ENVELOPE, "type": kind.__struct_config__.tag, "data": said}
        for field in msgspec.structs.fields(msgspec.structs.fields(kind)[-1].type):
            agrees(compact({**tree, "data": {**said, field.name: value}}))
        for name in ENVELOPE:
            agrees(compact({**tree, name: value}))
    calls = [{"id": "c", "name": "n", "arguments": {"a": [value]}}]
    for inside in ({"usage": {"input_tokens": value}}, {"experiment": {"id": "x", "arm": "a", "propensity": value}},
                   {"context": [{"content": "c", "score": value}]}, {"attributes": {"a": value}}, {"agent": {"name": value}},
                   {"output": {"role": "assistant", "tool_calls": calls}}):  # fmt: skip
        agrees(interaction(**inside))


@given(values(InteractionRecorded), st.sampled_from(["prompt", "output", "model", "attributes", "interaction_id"]))
@LIMITS
def test_a_name_given_twice_is_never_passed_on_as_it_came(event: InteractionRecorded, name: str) -> None:
    raw = encode(event)
    mark = f'"{name}":'.encode()
    if raw.count(mark) == 1:
        twice = raw.replace(mark, mark + b'"bob@example.org",' + mark)
        agrees(twice)
        strict = decode_strictly(twice)
        assert strict is None or not says_no_more(twice, strict)


def test_numbers_with_exponents_hide_no_second_value() -> None:
    """`1e20` saves 19 bytes over its plain form: room for another value of a name, if nobody counted."""
    raw = interaction(latency_ms="@").replace(b'"@"', b"1e15").replace(b'"prompt":"p"', b'"prompt":"s@x.org","prompt":"p"')
    padded = raw + b" " * (len(encode_tree(json.loads(raw))) - len(raw))
    assert b"s@x.org" not in decode_published(padded, append_time_ms=NOW).written()
    agrees(padded)


def keys_with_patterns() -> list[tuple[type, str, str]]:
    """(event, dotted path, a value that breaks the pattern) of every field with a pattern in the input events."""
    found: list[tuple[type, str, str]] = []

    def walk(event: type, info: Any, path: str) -> None:
        match info:
            case inspect.StructType():
                for field in info.fields:
                    walk(event, field.type, f"{path}.{field.encode_name}".removeprefix("."))
            case inspect.UnionType():
                for kind in info.types:
                    walk(event, kind, path)
            case inspect.Metadata():
                walk(event, info.type, path)
            case inspect.ListType():
                walk(event, info.item_type, path + ".0")
            case inspect.StrType() if info.pattern:
                found.append((event, path, "a\x01" if info.pattern == NO_CONTROL else "sha256:\u00e9"))

    for kind in INPUTS:
        walk(kind, inspect.type_info(kind), "")
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(("kind", "path", "value"), keys_with_patterns())
def test_the_strict_way_reads_no_key_that_breaks_a_pattern(kind: type, path: str, value: str) -> None:
    filled = {
        **ENVELOPE, "type": kind.__struct_config__.tag,  # type: ignore[attr-defined]
        "data": {**DATA, "refs": [{"system": "s", "id": "x"}], "experiment": {"id": "x", "arm": "a", "propensity": 1},
                 "principal": {"id": "u", "kind": "human"}, **SAID, "over": ["i2"], "ref": {"system": "s", "id": "x"},
                 "data_subject": "s", "reason": None}}  # fmt: skip
    known = {field.name for field in msgspec.structs.fields(msgspec.structs.fields(kind)[-1].type)}
    data = {name: content for name, content in filled["data"].items() if name in known}
    if kind is FeedbackRecorded:
        data.pop("ref" if path.startswith("data.interaction_id") else "x", None)
    tree = copy.deepcopy({**filled, "data": data})
    assert decode_strictly(compact(tree)) is not None, "without the broken key it is read"
    *walk, last = path.split(".")
    holder: Any = tree
    for name in walk:
        holder = (
            holder[int(name) if name.isdigit() else name] if name in holder or name.isdigit() else holder.setdefault(name, {})
        )
    holder[int(last) if last.isdigit() else last] = value
    assert decode_strictly(compact(tree)) is None


def refusal(raw: bytes) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode_published(raw, append_time_ms=NOW)
    assert "\n" not in caught.value.message
    return caught.value


def test_the_number_of_values_is_bounded() -> None:
    room = VALUE_LIMIT - 15  # what the rest of the event has
    assert decode_published(interaction(mystery=[0] * room), append_time_ms=NOW)
    error = refusal(interaction(mystery=[0] * (room + 1)))
    assert (error.code, error.field) == ("over_limit", None)
    assert f"at most {VALUE_LIMIT}" in error.message
    assert decode_published(interaction(prompt="a, {b}, [c]" * VALUE_LIMIT), append_time_ms=NOW), "texts are one value each"
    assert refusal(interaction(tools=[{"name": "t", "parameters": {}}] * (VALUE_LIMIT // 3 + 1))).code == "over_limit"


@pytest.mark.parametrize("scale", [[-1e9 - 1, 0], [0, 1.1e9], [-1.7e308, 1.7e308], [0, 2**62]])
def test_a_scale_is_within_a_thousand_million(scale: list[float]) -> None:
    error = refusal(feedback(score=0, scale=scale))
    assert (error.code, error.field) == ("out_of_range", "data.scale")
    assert "1e9" in error.message
    assert decode_published(feedback(score=-1e9, scale=[-1e9, 1e9]), append_time_ms=NOW)


@pytest.mark.parametrize(
    ("raw", "code", "field", "says"),
    [
        (interaction(prompt="@").replace(b"@", b"x\\ud83d"), "not_utf8", "data.prompt", "\\ud83d, half of a character"),
        (interaction(mystery={"deep": ["@"]}).replace(b"@", b"\\ude00"), "not_utf8", "data.mystery.deep[0]", "\\ude00"),
        (interaction(mystery={"@": 1}).replace(b"@", b"\\ude00"), "not_utf8", "data.mystery", "\\ude00"),
        (feedback(score="@").replace(b'"@"', b"NaN"), "not_json", "data.score", "is NaN"),
        (feedback(scale=[0, "@"]).replace(b'"@"', b"Infinity"), "not_json", "data.scale[1]", "is Infinity"),
        (b"\xef\xbb\xbf" + interaction(), "not_json", None, "byte order mark"),
        (interaction().decode().encode("utf-16"), "not_utf8", None, "UTF-16"),
        (interaction(prompt=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
         "bad_value", "data.prompt[0].content[0].type", 'is "image_url", it must be "text" or "ref"'),
        (interaction(prompt=[{"role": "robot", "content": "x"}]), "bad_value", "data.prompt[0].role", "it must be system"),
        (interaction(finish_reason="tired"), "bad_value", "data.finish_reason", "it must be stop, length"),
        (interaction(artifact_type="Code"), "bad_value", "data.artifact_type", 'is "Code", it must be 1 to 64 of a-z'),
        (interaction(adapter="abc"), "bad_value", "data.adapter", "sha256: and 64"),
        (feedback(kind="Success"), "bad_value", "data.kind", "a-z and _"),
        (feedback(principal={"id": "u", "kind": "bot"}), "bad_value", "data.principal.kind", "human, validator"),
        (interaction()[:-1], "not_json", None, "ends too early"),
        (interaction().replace(b'"data":', b'"data":,'), "not_json", None, "near"),
        (interaction().replace(b"recorded.v1", b"recorded.v7"), "unknown_type", "type", "headrace.feedback.recorded.v1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_field_value_and_what_is_right(raw: bytes, code: str, field: str | None, says: str) -> None:
    error = refusal(raw)
    assert (error.code, error.field) == (code, field), error.message
    assert says in error.message
    assert error.message.startswith(field or "record")


@given(st.binary(max_size=100))
@example(b"")
@example(b"\xff\xfe")
@example(b'{"\\ud800":1e999}')
@LIMITS
def test_bytes_are_an_event_or_a_decode_error(raw: bytes) -> None:
    agrees(raw)
    with pytest.raises(DecodeError):
        decode_published(raw, [("ce_id", b"1")], append_time_ms=NOW)


def test_an_unknown_attribute_that_is_no_utf8_is_a_decode_error() -> None:
    raw = interaction().replace(b'"id"', b'"\xff":1,"id"', 1)
    with pytest.raises(DecodeError) as caught:
        decode_input(raw).passed({"added": 1})
    assert caught.value.code == "not_utf8"
