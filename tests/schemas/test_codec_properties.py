"""What must hold for whatever is said: nothing is lost on the way, and what is no event is a DecodeError."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace_schemas.cloudevents import Headers
from headrace_schemas.codec import DecodeError, decode, decode_input, encode, encode_tree
from headrace_schemas.errors import CODES
from headrace_schemas.events import EVENT_TYPES, Event, InputEvent, InteractionRecorded
from support.strategies import JSON, TEXTS, events

NOW = 4_102_444_800_000
INPUTS = InputEvent.__args__
LIMITS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_what_is_encoded_decodes_to_the_same(name: str) -> None:
    @given(events(EVENT_TYPES[name]))
    @settings(LIMITS, max_examples=25)
    def holds(event: Event) -> None:
        assert decode(encode(event)) == event
        assert encode(decode(encode(event))) == encode(event)

    holds()


# What no input event has a field for: hypothesis draws names from the sources too, and some of them are fields.
_ATTRIBUTES = [field for kind in INPUTS for field in msgspec.structs.fields(kind)]
_ATTRIBUTE_NAMES = {field.encode_name for field in _ATTRIBUTES}
_FIELD_NAMES = {field.encode_name for data in _ATTRIBUTES if data.name == "data" for field in msgspec.structs.fields(data.type)}
UNKNOWN_ATTRIBUTES = TEXTS.filter(lambda name: name not in _ATTRIBUTE_NAMES)
UNKNOWN_FIELDS = TEXTS.filter(lambda name: name not in _FIELD_NAMES)


@given(
    events(*INPUTS),
    st.dictionaries(UNKNOWN_ATTRIBUTES, JSON, max_size=3),
    st.dictionaries(UNKNOWN_FIELDS, JSON, max_size=3),
)
@LIMITS
def test_unknown_attributes_and_fields_survive(event: Event, attributes: dict[str, Any], fields: dict[str, Any]) -> None:
    said = json.loads(encode(event))
    tree = {**attributes, **said, "data": {**fields, **said["data"]}}
    decoded = decode_input(json.dumps(tree).encode(), append_time_ms=NOW)
    for passed in (decoded.passed(), decoded.passed({"added": 1}), encode_tree(decoded.tree())):
        assert decode(passed) == decoded.event
        out = json.loads(passed)
        for name, value in tree.items():
            assert name == "data" or out[name] == value
        for name, value in tree["data"].items():
            if name != "added":
                assert out["data"][name] == value


@given(events(*INPUTS), st.booleans())
@LIMITS
def test_binary_mode_says_the_same_as_structured_mode(event: Event, traced: bool) -> None:
    tree = json.loads(encode(event))
    data = json.dumps(tree.pop("data")).encode()
    headers = [(f"ce_{name}", value.encode()) for name, value in tree.items()]
    decoded = decode_input(data, [*headers, ("ce_answer", b"42"), ("other", None)], append_time_ms=NOW)
    assert decoded.event == decode_input(encode(event), append_time_ms=NOW).event
    assert json.loads(decoded.passed())["answer"] == "42"


def tries(value: bytes | None, headers: Headers = ()) -> None:
    _refusal(lambda: decode(value, headers))
    _refusal(lambda: decode_input(value, headers).tree())
    _refusal(lambda: decode_input(value, headers, append_time_ms=NOW).passed({"added": 1}))  # unchecked bytes may not be writable
    refused = _refusal(lambda: decode(value, headers, append_time_ms=NOW))
    assert (_refusal(lambda: decode_input(value, headers, append_time_ms=NOW)) is None) is (refused is None)
    if refused is None:
        decoded = decode_input(value, headers, append_time_ms=NOW)
        assert decode(decoded.passed()) == decoded.event
        assert decode(encode_tree(decoded.tree())) == decoded.event
    else:
        assert refused.code in CODES
        assert 0 < len(refused.message.encode()) < 1000


def _refusal(read: Callable[[], object]) -> DecodeError | None:
    try:
        read()
    except DecodeError as error:
        return error
    return None


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xef\xbb\xbf{}")
@settings(LIMITS, max_examples=200)
def test_bytes_are_an_event_or_a_decode_error(value: bytes) -> None:
    tries(value)
    tries(value, [("ce_type", b"headrace.subject.erased.v1"), ("ce_id", b"1"), ("ce_source", b"x"), ("ce_specversion", b"1.0")])


@given(events(*INPUTS), st.data())
@settings(LIMITS, max_examples=200)
def test_damaged_events_are_an_event_or_a_decode_error(event: Event, data: st.DataObject) -> None:
    """Cuts out, repeats or replaces a piece of a real event: much nearer to the rules than random bytes."""
    value = encode(event)
    start = data.draw(st.integers(0, len(value)))
    end = data.draw(st.integers(start, min(len(value), start + 40)))
    pieces = [b"", b"null", b"1.0", b"-1", b"1e400", b"9" * 30, b'"\\ud800"', b"\xff", b"{}", b"[]", b'""', b"NaN", b",", b'"']
    piece = data.draw(st.sampled_from([*pieces, value[start:end] * 2]))
    tries(value[:start] + piece + value[end:])


@given(events(InteractionRecorded), JSON, st.sampled_from(["data", "id", "time", "type", "source", "traceparent"]))
@LIMITS
def test_any_value_anywhere_is_an_event_or_a_decode_error(event: Event, value: Any, name: str) -> None:
    tree = json.loads(encode(event))
    tries(json.dumps({**tree, name: value}).encode())
    for field in tree["data"]:
        tries(json.dumps({**tree, "data": {**tree["data"], field: value}}).encode())


@given(
    st.lists(
        st.tuples(
            st.text(max_size=8) | st.sampled_from(["ce_id", "ce_type", "ce_data", "content-type", "ce_", "ce_specversion"]),
            st.none() | st.binary(max_size=8),
        ),
        max_size=6,
    )
)
@settings(LIMITS, max_examples=200)
def test_headers_are_never_worse_than_a_decode_error(headers: list[tuple[str, bytes | None]]) -> None:
    tries(b'{"data_subject":"x"}', headers)
    tries(None, headers)


def test_msgspec_reads_what_it_writes_for_the_largest_integers() -> None:
    assert msgspec.json.decode(msgspec.json.encode([2**63 - 1, -(2**63)])) == [2**63 - 1, -(2**63)]
