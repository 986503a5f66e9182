"""What an agent gives becomes an event that the decoder at the other end takes, or an error that names the field."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Any
from uuid import UUID

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.fields import Call
from headrace.publishing import EventFactory, InvalidEvent, OutgoingEvent, uuid7
from headrace.writing import written
from headrace_schemas.codec import decode
from headrace_schemas.constraints import due
from headrace_schemas.events import FeedbackRecorded, InteractionLinked, InteractionRecorded, InteractionRetracted, SubjectErased
from headrace_schemas.groups import question_group, session_group
from headrace_schemas.times import parse_ns

FIELDS: dict[str, Any] = {"artifact_type": "sql", "model": "tiny-sql", "prompt": "how many?", "output": "SELECT 1"}


@pytest.fixture
def events() -> EventFactory:
    return EventFactory("sql-bot")


def event(outgoing: OutgoingEvent) -> Any:
    return json.loads(outgoing.value)


def test_a_uuid7_holds_its_time_and_sorts_by_it() -> None:
    before = time.time_ns() // 1_000_000
    ids = [uuid7(time.time_ns(), os.urandom(10)) for _ in range(200)]
    after = time.time_ns() // 1_000_000
    for text in ids:
        parsed = UUID(text)
        assert (parsed.version, parsed.variant) == (7, "specified in RFC 4122")
        assert before <= parsed.int >> 80 <= after
    assert len(set(ids)) == 200


def test_an_interaction(events: EventFactory) -> None:
    outgoing, call = events.interaction(
        {**FIELDS, "context": None, "refs": [("jira", "OPS-7")], "own": {"x": 1}}, None, "00-ab-cd-01"
    )
    assert (outgoing.topic, outgoing.key.decode()) == ("interactions", call.interaction_id)
    decoded = decode(outgoing.value)
    assert isinstance(decoded, InteractionRecorded)
    assert (decoded.id, decoded.source, decoded.traceparent) == (outgoing.id, "agent:sql-bot", "00-ab-cd-01")
    assert (decoded.data.agent.name, decoded.data.interaction_id) == ("sql-bot", call.interaction_id)
    assert UUID(call.interaction_id).version == 7
    assert decoded.time is not None
    assert abs(parse_ns(decoded.time) - time.time_ns()) < 10**9
    assert event(outgoing)["data"]["refs"] == [{"system": "jira", "id": "OPS-7"}]
    assert event(outgoing)["data"]["own"] == {"x": 1}, "fields that we don't know are the agent's own"
    assert "context" not in event(outgoing)["data"]


def test_an_agent_with_a_version_and_ids_and_times_of_its_own() -> None:
    events = EventFactory({"name": "review bot", "role": "reviewer", "version": "7"})
    moment = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)
    outgoing, call = events.interaction({**FIELDS, "interaction_id": "mine"}, moment, None)
    assert call == Call("mine")
    assert (event(outgoing)["source"], event(outgoing)["time"]) == ("agent:review%20bot/7", "2026-11-20T08:30:00.000000Z")
    assert event(outgoing)["data"]["agent"] == {"name": "review bot", "role": "reviewer", "version": "7"}
    assert event(EventFactory("x", source="urn:x").interaction(FIELDS, "2026-11-20T08:30:00+01:00", None)[0])["source"] == "urn:x"


def test_feedback_by_call_id_and_ref(events: EventFactory) -> None:
    call = Call("i-1")
    for target in (call, "i-1"):
        outgoing = events.feedback(target, {"kind": "success", "score": 100, "over": [Call("i-0"), "i-9"]}, None, None)
        decoded = decode(outgoing.value)
        assert isinstance(decoded, FeedbackRecorded)
        assert (outgoing.topic, outgoing.key, decoded.data.interaction_id) == ("feedback", b"i-1", "i-1")
        assert decoded.data.over == ["i-0", "i-9"]
    for ref in (("jira", "OPS-7"), {"system": "jira", "id": "OPS-7"}):
        outgoing = events.feedback(None, {"ref": ref, "kind": "rating", "score": 4, "scale": [1, 5]}, None, None)
        assert outgoing.key == b"jira:OPS-7"
        assert event(outgoing)["data"]["ref"] == {"system": "jira", "id": "OPS-7"}
        assert "interaction_id" not in event(outgoing)["data"]


def test_a_feedback_names_its_interaction_once(events: EventFactory) -> None:
    outgoing = events.feedback(None, {"interaction_id": "i-1", "kind": "success"}, None, None)
    assert (outgoing.key, event(outgoing)["data"]["interaction_id"]) == (b"i-1", "i-1")
    with pytest.raises(TypeError, match="not both"):
        events.feedback(Call("i-1"), {"interaction_id": "i-1", "kind": "success"}, None, None)
    with pytest.raises(InvalidEvent, match="kind"):
        events.feedback(Call("i-1"), {}, None, None)


def test_a_child_has_the_session_and_the_group_of_its_parent(events: EventFactory) -> None:
    parent = events.interaction({**FIELDS, "session_id": "s-1", "prompt_group": "g-1"}, None, None)[1]
    assert parent == Call(parent.interaction_id, "g-1", "s-1")
    outgoing, child = events.interaction(FIELDS, None, None, parent)
    data = event(outgoing)["data"]
    assert (data["parent_interaction_id"], data["session_id"], data["prompt_group"]) == (parent.interaction_id, "s-1", "g-1")
    assert child == Call(data["interaction_id"], "g-1", "s-1"), "and hands them on"


def test_a_child_keeps_what_it_is_given(events: EventFactory) -> None:
    parent = Call("i-1", "g-1", "s-1")
    outgoing, child = events.interaction({**FIELDS, "session_id": "s-2", "prompt_group": "g-2"}, None, None, parent)
    data = event(outgoing)["data"]
    assert (data["parent_interaction_id"], data["session_id"], data["prompt_group"]) == ("i-1", "s-2", "g-2")
    assert child[1:] == ("g-2", "s-2")
    with pytest.raises(TypeError, match="not both"):
        events.interaction({**FIELDS, "parent_interaction_id": "i-0"}, None, None, parent)


def test_a_child_of_a_parent_without_group_says_neither(events: EventFactory) -> None:
    outgoing, child = events.interaction(FIELDS, None, None, Call("i-1"))
    assert event(outgoing)["data"]["parent_interaction_id"] == "i-1"
    assert not {"session_id", "prompt_group"} & set(event(outgoing)["data"])
    assert child[1:] == (None, None)


def test_a_child_has_the_group_that_the_stages_derive_for_its_parent(events: EventFactory) -> None:
    messages = [{"role": "user", "content": "How many on 2026-11-26?"}]
    parent = events.interaction({**FIELDS, "prompt": messages}, None, None)[1]
    messages += [{"role": "assistant", "content": "SELECT 1"}, {"role": "user", "content": "no such table"}]
    outgoing, child = events.interaction({**FIELDS, "prompt": messages}, None, None, parent)
    assert event(outgoing)["data"]["prompt_group"] == question_group("how many on 2026-11-27")
    assert child.prompt_group == event(events.interaction(FIELDS, None, None, child)[0])["data"]["prompt_group"]
    assert repr(parent) == repr(Call(parent.interaction_id))


def test_a_child_in_a_session_of_its_own_has_its_parents_group(events: EventFactory) -> None:
    parent = events.interaction({**FIELDS, "session_id": "s-1"}, None, None)[1]
    same, other = (events.interaction({**FIELDS, "session_id": name}, None, None, parent)[1] for name in ("s-1", "s-2"))
    assert [same.prompt_group, other.prompt_group] == [None, session_group("s-1")]


def test_link_retract_and_forget(events: EventFactory) -> None:
    link = events.link(Call("i-1"), ("jira", "OPS-7"), None, None)
    assert isinstance(decode(link.value), InteractionLinked)
    retraction = events.retract("i-1", None, None, None)
    assert isinstance(decode(retraction.value), InteractionRetracted)
    erasure = events.forget("user-7", None, None)
    assert isinstance(decode(erasure.value), SubjectErased)
    assert [s.topic for s in (link, retraction, erasure)] == ["interactions"] * 3
    gone = events.retract_feedback("f-1", "i-1", "mistaken", None, None)
    assert (gone.topic, event(gone)["data"]) == (
        "feedback",
        {"feedback_id": "f-1", "interaction_id": "i-1", "reason": "mistaken"},
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": None}, "model"),
        ({"prompt": ""}, "prompt"),
        ({"artifact_type": "SQL!"}, "artifact_type"),
        ({"latency_ms": float("nan")}, "latency_ms"),
        ({"cost_usd": float("inf")}, "cost_usd"),
        ({"output": "\ud800"}, "output"),
        ({"turn": 10**30}, "turn"),
        ({"attributes": {"x": {1, 2}}}, "attributes"),
        ({"refs": ["jira"]}, "ref"),
        ({"refs": False}, "refs"),
        ({"adapter": "sha256:zz"}, "adapter"),
    ],
)
def test_what_breaks_the_contract_is_named(events: EventFactory, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidEvent, match=field) as caught:
        events.interaction({**FIELDS, **changes}, None, None)
    assert isinstance(caught.value, ValueError)
    assert field in (caught.value.field or "")


def test_too_large_too_early_too_deep(events: EventFactory) -> None:
    with pytest.raises(InvalidEvent, match="1048576"):
        events.interaction({**FIELDS, "output": "x" * (1 << 20)}, None, None)
    with pytest.raises(InvalidEvent, match="time"):
        events.interaction(FIELDS, "2099-01-01T00:00:00Z", None)
    with pytest.raises(InvalidEvent, match="no offset"):
        events.interaction(FIELDS, datetime(2026, 1, 1), None)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidEvent):
        events.interaction({**FIELDS, "own": deep}, None, None)


@pytest.mark.parametrize(("target", "ref"), [(None, None), ("i-1", ("jira", "OPS-7"))])
def test_feedback_needs_exactly_one_target(events: EventFactory, target: str | None, ref: tuple[str, str] | None) -> None:
    with pytest.raises(InvalidEvent, match="exactly one"):
        events.feedback(target, {"ref": ref, "kind": "success"}, None, None)


@pytest.mark.parametrize(("fields", "field"), [({"over": 7}, "over"), ({"over": [7]}, "over"), ({"score": "x"}, "score")])
def test_feedback_that_breaks_the_contract_is_named(events: EventFactory, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidEvent, match=field):
        events.feedback("i-1", {"kind": "preference", **fields}, None, None)
    with pytest.raises(InvalidEvent, match="interaction_id"):
        events.feedback(7, {"kind": "success"}, None, None)  # type: ignore[arg-type]


def test_a_correction_needs_its_text(events: EventFactory) -> None:
    with pytest.raises(InvalidEvent, match="corrected_output"):
        events.feedback("i-1", {"kind": "user_correction"}, None, None)


def test_an_agent_needs_a_name() -> None:
    for agent in ("", {}, {"name": ""}):
        with pytest.raises(InvalidEvent, match="agent"):
            EventFactory(agent)


def test_objects_of_model_libraries_and_numpy(events: EventFactory) -> None:
    class Answer:
        def model_dump(self, *, mode: str, exclude_none: bool) -> dict[str, str]:
            return {"role": "assistant", "content": "SELECT 1"}

    outgoing, _ = events.interaction({**FIELDS, "output": Answer(), "latency_ms": numpy.float32(1.5)}, None, None)
    assert event(outgoing)["data"]["output"] == {"role": "assistant", "content": "SELECT 1"}
    assert event(outgoing)["data"]["latency_ms"] == 1.5


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # other work shares this machine
@given(
    st.dictionaries(
        st.sampled_from([*FIELDS, "context", "tools", "refs", "usage", "turn", "attributes", "train", "own"]), ANYTHING
    )
)
def test_whatever_is_said_is_accepted_by_the_decoder_or_refused_here(fields: dict[str, Any]) -> None:
    try:
        outgoing, _ = EventFactory("bot").interaction({**FIELDS, **fields}, None, None)
    except InvalidEvent:
        return
    assert isinstance(decode(outgoing.value, append_time_ms=time.time_ns() // 1_000_000), InteractionRecorded)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text(max_size=5), ANYTHING, max_size=4))
def test_the_fast_way_of_writing_says_what_the_standard_library_says_or_leaves_it_to_it(tree: dict[str, Any]) -> None:
    try:
        expected = json.dumps(tree, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError):
        with pytest.raises(InvalidEvent):
            written({"data": tree}, 0)
    else:
        assert json.loads(written(tree, 0)) == json.loads(expected)


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, datetime(2026, 1, 1, tzinfo=UTC), UUID(int=7), Decimal(1), HTTPStatus.OK])
def test_what_only_looks_like_json_is_written_as_the_standard_library_does(events: EventFactory, value: Any) -> None:
    fields = {**FIELDS, "attributes": {"a": value}}
    if isinstance(value, HTTPStatus):
        assert event(events.interaction(fields, None, None)[0])["data"]["attributes"] == {"a": 200}
    else:
        with pytest.raises(InvalidEvent, match=r"attributes: no JSON: \w+ has no JSON form"):
            events.interaction(fields, None, None)


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"latency_ms": float("nan")}, "data.latency_ms", "is NaN"),
        ({"attributes": {"a": float("-inf")}}, "data.attributes.a", "is -Infinity"),
        ({"prompt": "cut \ud83d"}, "data.prompt", "half of a character"),
        (
            {"output": {"role": "assistant", "content": [{"type": "text", "text": "\ude00"}]}},
            "data.output.content[0].text",
            "half of",
        ),
    ],
)
def test_what_json_cannot_say_is_named_with_its_place(
    events: EventFactory, changes: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(InvalidEvent, match=says) as caught:
        events.interaction({**FIELDS, **changes}, None, None)
    assert caught.value.field == field


def test_an_event_without_a_time_has_that_of_the_clock_it_is_to_go_by() -> None:
    behind = datetime.now(UTC).replace(microsecond=70) - timedelta(minutes=11)
    factory = EventFactory("bot", now=lambda: round(behind.timestamp() * 1e6) * 1000)
    assert event(factory.interaction(FIELDS, None, None)[0])["time"] == behind.isoformat().replace("+00:00", "Z")
    with pytest.raises(InvalidEvent, match="more than 10 minutes ahead"):
        factory.interaction(FIELDS, datetime.now(UTC), None)


@pytest.mark.parametrize(("minutes", "expected"), [(9, True), (11, False)])
def test_an_event_is_due_when_its_time_will_be_taken(events: EventFactory, minutes: int, expected: bool) -> None:
    now = datetime(2025, 1, 1, tzinfo=UTC)
    value = events.interaction(FIELDS, now + timedelta(minutes=minutes), None)[0].value
    assert due(value, int(now.timestamp() * 1000)) is expected


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b"7", b'{"time": 7}', b'{"time": "yesterday"}', b"\xff"])
def test_what_has_no_time_is_not_kept_back(value: bytes) -> None:
    assert due(value, 0)
