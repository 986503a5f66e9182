"""The mechanism of upcasters, with entries made for the test: the table is empty until a version changes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from headrace_schemas import upcast
from headrace_schemas.codec import DecodeError, decode, decode_input
from headrace_schemas.events import EVENT_TYPES, SubjectErased

OLD = {
    "specversion": "1.0",
    "id": "1",
    "source": "x",
    "type": "headrace.subject.erased.v0",
    "data": {"subject": "ada"},
    "kept": 1,
}


def renamed(tree: Mapping[str, Any]) -> dict[str, Any]:
    data = dict(tree["data"])
    return {**tree, "data": {"data_subject": data.pop("subject"), **data}}


def test_steps_are_taken_until_the_table_ends_and_the_input_stays() -> None:
    steps: dict[tuple[str, int], upcast.Upcaster] = {
        ("a.b", 1): lambda tree: {**tree, "one": 1},
        ("a.b", 2): lambda tree: {**tree, "two": 2},
    }
    tree = {"type": "a.b.v1"}
    assert upcast.upcast(tree, steps) == {"type": "a.b.v3", "one": 1, "two": 2}
    assert tree == {"type": "a.b.v1"}
    assert upcast.upcast({"type": "a.b.v3"}, steps) is None
    others: list[Any] = [{"type": "a.b"}, {"type": 7}, {}, [], {"type": "a.b.v99999"}]
    for other in others:
        assert upcast.upcast(other, steps) is None


def test_an_older_version_is_read_as_the_one_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upcast, "_VERSIONED", re.compile(r"(.+)\.v([0-9]+)"))
    monkeypatch.setitem(upcast.UPCASTERS, ("headrace.subject.erased", 0), renamed)
    value = json.dumps(OLD).encode()
    event = decode(value)
    assert isinstance(event, SubjectErased)
    assert event.data.data_subject == "ada"
    passed = json.loads(decode_input(value, append_time_ms=1_795_255_200_000).passed())
    assert (passed["type"], passed["data"], passed["kept"]) == ("headrace.subject.erased.v1", {"data_subject": "ada"}, 1)
    with pytest.raises(DecodeError) as caught:
        decode(json.dumps({**OLD, "data": []}).encode())
    assert caught.value.field == "data"


def test_a_version_from_the_future_is_unknown() -> None:
    with pytest.raises(DecodeError) as caught:
        decode(json.dumps({**OLD, "type": "headrace.subject.erased.v2"}).encode())
    assert caught.value.code == "unknown_type"


def test_every_upcaster_leads_to_a_type_that_is_read() -> None:
    for name, version in upcast.UPCASTERS:
        assert f"{name}.v{version + 1}" in EVENT_TYPES or (name, version + 1) in upcast.UPCASTERS
