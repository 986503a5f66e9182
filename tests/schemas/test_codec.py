"""Which records are events, which error names what, and what a completed event says."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_schemas.cloudevents import Headers
from headrace_schemas.codec import RECORD_LIMIT, DecodeError, check_finite, decode, decode_input, encode, encode_numbered
from headrace_schemas.derived import Weights
from headrace_schemas.errors import CODES
from headrace_schemas.events import ExampleRewarded, FeedbackRecorded, InteractionRecorded
from headrace_schemas.times import parse_ns, rfc3339
from support.examples import example

NOW = parse_ns("2026-11-21T10:00:00Z") // 1_000_000
ENVELOPE: dict[str, Any] = {"specversion": "1.0", "id": "evt-1", "source": "agent:x"}
INTERACTION = {**ENVELOPE, "type": "headrace.interaction.recorded.v1", "data": {
    "agent": {"name": "bot"}, "artifact_type": "code", "model": "m", "prompt": "p", "output": ""}}  # fmt: skip
FEEDBACK = {
    **ENVELOPE,
    "type": "headrace.feedback.recorded.v1",
    "data": {"interaction_id": "int-1", "kind": "success", "score": 100},
}
REF = {"system": "jira", "id": "OPS-7"}
PICTURE = {"role": "user", "content": [{"type": "image"}]}
ABSENT = object()


def changed(event: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    copied = copy.deepcopy(dict(event))
    *walk, last = path.split(".")
    holder = copied
    for name in walk:
        holder = holder[name]
    if value is ABSENT:
        del holder[last]
    else:
        holder[last] = value
    return copied


def error_of(value: Any, headers: Headers = (), append_time_ms: int = NOW) -> DecodeError:
    if not isinstance(value, bytes | None):
        value = json.dumps(value).encode()
    with pytest.raises(DecodeError) as caught:
        decode(value, headers, append_time_ms=append_time_ms)
    with pytest.raises(DecodeError):
        decode_input(value, headers, append_time_ms=append_time_ms)
    assert caught.value.code in CODES
    return caught.value


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("specversion", ABSENT, "missing"),
        ("specversion", None, "missing"),
        ("specversion", "0.3", "bad_value"),
        ("id", ABSENT, "missing"),
        ("id", "", "out_of_range"),
        ("id", "x" * 201, "over_limit"),
        ("id", "a\nb", "bad_value"),
        ("id", "a\n", "bad_value"),
        ("id", "a\u0085", "bad_value"),
        ("id", 7, "wrong_type"),
        ("source", ABSENT, "missing"),
        ("type", ABSENT, "missing"),
        ("type", None, "missing"),
        ("type", "headrace.interaction.recorded.v2", "unknown_type"),
        ("type", "headrace.interaction.recorded", "unknown_type"),
        ("time", "yesterday", "bad_time"),
        ("time", "2026-11-21T10:00:00", "bad_time"),
        ("time", "2026-02-30T10:00:00Z", "bad_time"),
        ("time", "1999-12-31T23:59:59Z", "out_of_range"),
        ("time", "2026-11-21T10:10:00.001Z", "future_time"),
        ("time", "9999-12-31T23:59:59-23:59", "future_time"),
        ("time", "0001-01-01T00:00:00+23:59", "out_of_range"),
        ("traceparent", "0" * 201, "over_limit"),
        ("data", ABSENT, "missing"),
        ("data", None, "missing"),
        ("data", [], "wrong_type"),
        ("data.agent", ABSENT, "missing"),
        ("data.agent.name", ABSENT, "missing"),
        ("data.artifact_type", "Code", "bad_value"),
        ("data.artifact_type", "code\n", "bad_value"),
        ("data.adapter", "sha256:" + "0" * 63, "bad_value"),
        ("data.prompt", "", "missing"),
        ("data.prompt", [], "missing"),
        ("data.prompt", [{"role": "user", "content": ""}, {"role": "user", "content": []}], "missing"),
        ("data.output", None, "missing"),
        ("data.turn", 1.5, "wrong_type"),
        ("data.turn", True, "wrong_type"),
        ("data.turn", "1", "wrong_type"),
        ("data.turn", 2**63, "out_of_range"),
        ("data.turn", float(2**63), "out_of_range"),
        ("data.attempt", 0, "out_of_range"),
        ("data.latency_ms", -1, "out_of_range"),
        ("data.finish_reason", "tired", "bad_value"),
        ("data.refs", [REF] * 17, "over_limit"),
        ("data.attributes", {"deep": {}}, "wrong_type"),
    ],
)
def test_an_interaction_that_is_none_names_field_and_code(path: str, value: Any, code: str) -> None:
    error = error_of(changed(INTERACTION, path, value))
    assert (error.code, error.field) == (code, path)
    assert path in str(error)


@pytest.mark.parametrize(
    ("event", "field", "code"),
    [
        (changed(INTERACTION, "data.output", {"role": "user", "content": "x"}), "data.output.role", "bad_value"),
        (changed(INTERACTION, "data.prompt", [PICTURE]), "data.prompt[0].content[0].type", "bad_value"),
        (changed(INTERACTION, "data.refs", [REF, {"system": 1, "id": "x"}]), "data.refs[1].system", "wrong_type"),
        (changed(INTERACTION, "data.attributes", {"n": 10**30}), "data.attributes.n", "out_of_range"),
        (changed(INTERACTION, "data.unknown", [{"n": -(10**30)}]), "data.unknown[0].n", "out_of_range"),
        (changed(INTERACTION, "data.unknown", {"a": {"b": 10**4000}}), "data.unknown.a.b", "out_of_range"),
        (changed(FEEDBACK, "data.interaction_id", ABSENT), "data.interaction_id", "missing"),
        (changed(FEEDBACK, "data.ref", REF), "data.ref", "bad_value"),
        (changed(FEEDBACK, "data.kind", "Success"), "data.kind", "bad_value"),
        (changed(FEEDBACK, "data.kind", "user_correction"), "data.corrected_output", "missing"),
        (changed(FEEDBACK, "data.kind", "preference"), "data.over", "missing"),
        (changed(FEEDBACK, "data.score", 100.5), "data.score", "out_of_range"),
        (changed(FEEDBACK, "data.scale", [5, 5]), "data.scale", "bad_value"),
        (changed(FEEDBACK, "data.scale", [1, 5]), "data.score", "out_of_range"),
        (changed(FEEDBACK, "data.scale", [1]), "data.scale", "out_of_range"),
        (changed(FEEDBACK, "data.corrected_output", {"role": "tool"}), "data.corrected_output.role", "bad_value"),
        (changed(FEEDBACK, "data.comment", "x" * (16 * 1024 + 1)), "data.comment", "over_limit"),
    ],
)  # fmt: skip
def test_rules_between_fields_and_inside_lists(event: dict[str, Any], field: str, code: str) -> None:
    error = error_of(event)
    assert (error.code, error.field) == (code, field)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "null_value"),
        (b"", "not_json"),
        (b"\xef\xbb\xbf{}", "not_json"),
        (b"{}x", "not_json"),
        (b"NaN", "not_json"),
        (b"null", "not_an_object"),
        (b"[]", "not_an_object"),
        (b'"\xff"', "not_utf8"),
        (b"[" * 100_000, "nesting"),
        (b"[" * 100_000 + b"]" * 100_000, "nesting"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nesting"),
        (b"\0" * 4 * 1024 * 1024, "over_limit"),
        (b"9" * 5000, "out_of_range"),
    ],
)
def test_records_that_are_no_events(value: bytes | None, code: str) -> None:
    assert error_of(value).code == code


@pytest.mark.parametrize(
    "piece", ["NaN", "Infinity", "-Infinity", "1e400", "-1.5E+309", "9" * 30, '"\\ud800"', '"\\udc00x"', "[1,]"]
)
@pytest.mark.parametrize("place", ["data.unknown", "unknown", "data.attributes"])
def test_what_json_readers_disagree_on_is_refused_in_unknown_fields_too(piece: str, place: str) -> None:
    value: Any = {"a": "@"} if place == "data.attributes" else "@"
    error_of(json.dumps(changed(INTERACTION, place, value)).replace('"@"', piece).encode())


def test_numbers_beyond_all_floats_are_named() -> None:
    assert error_of(b'{"\\ud800": 1e999}').message.encode()
    for path in ("data.latency_ms", "data.unknown"):
        error = error_of(json.dumps(changed(INTERACTION, path, "@")).replace('"@"', "-1e400").encode())
        assert (error.code, error.field) == ("out_of_range", path)


def test_nesting_of_64_is_fine_and_brackets_in_texts_do_not_count() -> None:
    inner = json.loads("[" * 62 + "]" * 62)  # the record and data are the first two
    decode(json.dumps(changed(INTERACTION, "data.unknown", inner)).encode(), append_time_ms=NOW)
    assert error_of(changed(INTERACTION, "data.unknown", [inner])).code == "nesting"
    decode(json.dumps(changed(INTERACTION, "data.prompt", '["\\{' * 1000)).encode(), append_time_ms=NOW)


def test_words_that_look_like_huge_numbers_are_fine() -> None:
    words = ["00-4bf92f3577b34da6a3ce929d0e0e4736-01", "7e999", "x 1e999", "1" * 40]
    decode(json.dumps(changed(INTERACTION, "data.unknown", words)).encode(), append_time_ms=NOW)
    decode(
        json.dumps(
            changed(INTERACTION, "data.unknown", [9223372036854775807, -9223372036854775808, 1e-7, 1.2345678901234567e300])
        ).encode()
    )


def test_size_and_future_bind_only_what_others_published() -> None:
    large = json.dumps(changed(INTERACTION, "data.prompt", "x" * RECORD_LIMIT)).encode()
    assert error_of(large).code == "over_limit"
    assert isinstance(decode(large), InteractionRecorded)
    assert decode(json.dumps(changed(INTERACTION, "time", "2099-01-01T00:00:00Z")).encode()).time


def test_null_is_absent_and_integers_may_carry_a_zero_fraction() -> None:
    event = changed(INTERACTION, "data.turn", 3.0)
    event["data"].update(attempt=2.0, usage={"input_tokens": 5.0, "output_tokens": None}, attributes={"x": 1.0}, session_id=None)
    data: Any = decode(json.dumps({**event, "subject": None, "time": None}).encode()).data
    assert (data.turn, data.attempt, data.usage.input_tokens) == (3, 2, 5)
    assert type(data.turn) is type(data.usage.input_tokens) is int
    assert type(data.attributes["x"]) is float


def test_a_flood_of_integers_with_a_zero_fraction_is_refused_quickly() -> None:
    locator = {"topic": "t", "partition": 1.0, "offset": 1.0}
    start = {**ENVELOPE, "type": "headrace.batch.ready.v1", "data": {"members": [{"locator": locator}] * 10_000}}
    assert error_of(start).code in ("missing", "wrong_type", "unknown_type")


def test_times_are_accepted_up_to_ten_minutes_ahead() -> None:
    for time in ("2026-11-21T10:10:00Z", "2000-01-01T00:00:00Z", "2026-11-21t12:00:00.123456789+02:00"):
        assert decode(json.dumps({**INTERACTION, "time": time}).encode(), append_time_ms=NOW).time == time


def test_what_is_missing_is_filled_in_and_kept() -> None:
    decoded = decode_input(json.dumps({**INTERACTION, "extra": [1.0]}).encode(), append_time_ms=NOW)
    again = decode_input(json.dumps({**INTERACTION, "extra": [1.0]}).encode(), append_time_ms=NOW + 1)
    event: Any = decoded.event
    assert event.time == rfc3339(NOW)
    assert event.data.interaction_id == again.tree()["data"]["interaction_id"]
    assert event.data.interaction_id
    assert decode(decoded.passed()) == event
    assert json.loads(decoded.passed())["extra"] == [1.0]
    feedback = decode_input(json.dumps(FEEDBACK).encode(), append_time_ms=NOW)
    assert feedback.tree()["data"]["feedback_id"] == "evt-1"
    assert decode(feedback.passed()) == feedback.event


def test_an_event_with_everything_in_it_passes_as_it_came() -> None:
    event = {**changed(INTERACTION, "data.interaction_id", "int-1"), "time": "2026-11-21T10:00:00+00:00"}
    value = json.dumps(event, indent=1).encode()
    assert decode_input(value, append_time_ms=NOW).passed() == value


def test_a_ref_is_replaced_by_the_interaction_that_it_names() -> None:
    event = changed(changed(FEEDBACK, "data.interaction_id", ABSENT), "data.ref", REF)
    decoded = decode_input(json.dumps({**event, "x": 1}).encode(), append_time_ms=NOW)
    resolved = decode(decoded.passed({"interaction_id": "int-9", "ref": None}))
    assert isinstance(resolved, FeedbackRecorded)
    assert (resolved.data.interaction_id, resolved.data.ref, resolved.data.feedback_id) == ("int-9", None, "evt-1")


def test_the_tree_is_the_whole_event_and_a_new_one_each_time() -> None:
    decoded = decode_input(json.dumps(changed(INTERACTION, "data.unknown", {"a": "secret"})).encode(), append_time_ms=NOW)
    decoded.tree()["data"]["unknown"]["a"] = "[gone]"
    assert decoded.tree()["data"]["unknown"]["a"] == "secret"
    assert isinstance(decoded.event, InteractionRecorded)
    assert decoded.tree()["data"]["interaction_id"] == decoded.event.data.interaction_id


def test_what_others_may_not_publish_is_unknown_to_intake() -> None:
    tick = {**ENVELOPE, "type": "headrace.clock.ticked.v1", "data": {"bucket": "b", "time": "2026-11-21T10:00:00Z"}}
    value = json.dumps(tick).encode()
    assert decode(value)
    with pytest.raises(DecodeError, match="no event type"):
        decode_input(value)


def binary(**extra: Any) -> list[tuple[str, bytes | None]]:
    attributes = {key: value for key, value in INTERACTION.items() if key != "data"}
    return [
        (f"ce_{name}", value.encode() if isinstance(value, str) else value) for name, value in {**attributes, **extra}.items()
    ]


DATA = json.dumps(INTERACTION["data"]).encode()


def test_binary_mode_reads_attributes_from_headers_and_keeps_the_unknown() -> None:
    headers = [
        *binary(traceparent="00-ab-cd-01", team="blue", subject=None),
        ("content-type", b"application/json"),
        ("x", b"\xff"),
    ]
    decoded = decode_input(DATA, headers, append_time_ms=NOW)
    assert decoded.event.traceparent == "00-ab-cd-01"
    assert decoded.event.datacontenttype == "application/json"
    assert json.loads(decoded.passed())["team"] == "blue"


def test_structured_mode_wins_where_it_is_declared() -> None:
    headers = [*binary(id="other"), ("content-type", b"application/cloudevents+json; charset=utf-8")]
    assert decode(json.dumps(INTERACTION).encode(), headers).id == "evt-1"


@pytest.mark.parametrize(
    ("value", "headers", "code", "field"),
    [
        (None, binary(), "null_value", None),
        (b"", binary(), "not_json", "data"),
        (b"{}}", binary(), "not_json", "data"),
        (b"[" * 2000, binary(), "nesting", None),
        (b"[]", binary(), "wrong_type", "data"),
        (DATA, binary(id=b"\xff"), "not_utf8", "id"),
        (DATA, [*binary(), ("ce_id", b"2")], "bad_value", "id"),
        (DATA, binary(data=b"{}"), "bad_value", "data"),
        (DATA, binary(id=None), "missing", "id"),
        (DATA, binary(**{"\ud800": b"x"}), "not_utf8", None),
        (DATA, [("ce_id", b"1")], "missing", "type"),
    ],
)
def test_binary_mode_that_is_none(value: bytes | None, headers: Headers, code: str, field: str | None) -> None:
    error = error_of(value, headers)
    assert (error.code, error.field) == (code, field)


def test_messages_name_the_value_and_stay_short() -> None:
    error = error_of(changed(INTERACTION, "data.latency_ms", "x" * 100_000))
    assert "data.latency_ms" in error.message
    assert "xxx" in error.message
    assert len(error.message) < 300
    assert pickle.loads(pickle.dumps(error)).field == error.field


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize(
    ("event", "field"),
    [
        (lambda number: example(1, reward=number), "data.reward"),
        (lambda number: example(1, weights=Weights(balance=number)), "data.weights.balance"),
    ],
    ids=["in the data", "deeper"],
)
def test_a_number_that_is_not_finite_is_never_written(event: Any, field: str, number: float) -> None:
    """JSON has none: msgspec would write null, and no reader could read its own log."""
    with pytest.raises(DecodeError, match=f"^{field}: a number that is not finite can't be written$") as raised:
        encode(ExampleRewarded(specversion="1.0", id="x", source="headrace:reward", data=event(number)))
    assert raised.value.code == "out_of_range"


@given(st.floats(), st.floats(), st.floats(allow_infinity=False, allow_nan=False))
def test_an_event_whose_numbers_are_known_is_written_the_same(reward: float, quality: float, balance: float) -> None:
    data = example(1, reward=reward, quality=quality, weights=Weights(balance=balance))
    event = ExampleRewarded(specversion="1.0", id="x", source="headrace:reward", data=data)

    def written(how: Callable[[], bytes]) -> bytes | str:
        try:
            return how()
        except DecodeError as error:
            return str(error)

    assert written(lambda: encode_numbered(event, reward, quality, balance)) == written(lambda: encode(event))


TREES = st.recursive(
    st.none() | st.floats() | st.text() | st.integers(-(2**63), 2**64 - 1),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


@given(TREES)
def test_finite_is_what_has_no_other_number(tree: Any) -> None:
    def finite(part: Any) -> bool:
        if isinstance(part, float):
            return math.isfinite(part)
        return all(map(finite, part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()))

    written = msgspec.json.encode(tree)
    if finite(tree):
        check_finite(tree, written)
    else:
        with pytest.raises(DecodeError):
            check_finite(tree, written)


def test_encoding_a_lone_surrogate_is_refused_by_name() -> None:
    event = msgspec.structs.replace(decode(json.dumps(INTERACTION).encode()), id="\ud800")
    with pytest.raises(DecodeError, match="surrogate"):
        encode(event)
