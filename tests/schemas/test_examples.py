"""An example is read as what codec.decode reads, only cheaper."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_schemas.codec import decode, encode
from headrace_schemas.errors import DecodeError
from headrace_schemas.examples import decode_example
from headrace_schemas.topics import BY_NAME
from support.inputs_of import GOLDENS
from support.strategies import events

EXAMPLE = (GOLDENS / "headrace.example.rewarded.v1.json").read_bytes()


def read_by(reader: Any, value: bytes | None) -> tuple[str, Any]:
    try:
        event = reader(value)
    except DecodeError as error:
        return "", str(error)
    return type(event).__name__, encode(event)


@given(events(*BY_NAME["examples"].events))
def test_every_record_of_the_topic_is_the_same_event_of_the_same_bytes(event: Any) -> None:
    value = encode(event)
    assert read_by(decode_example, value) == read_by(decode, value)
    assert isinstance(decode_example(value), type(event))


@given(st.sampled_from([("id",), ("source",), ("data", "agent", "name")]), st.text(max_size=201))
def test_a_key_is_taken_or_refused_as_its_pattern_says(path: tuple[str, ...], key: str) -> None:
    tree = msgspec.json.decode(EXAMPLE)
    holder = tree
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = key
    value = msgspec.json.encode(tree)
    assert read_by(decode_example, value) == read_by(decode, value)


@pytest.mark.parametrize(
    "value",
    [
        None, b"{", b"[]", b"\xff", b'{"type":"headrace.tick.v9"}', EXAMPLE.replace(b'"voices":', b'"voice":'),
        EXAMPLE.replace(b'"type":', b'"kind":'), EXAMPLE.replace(b'example.rewarded', b'example.rewarded '),
    ],
)  # fmt: skip
def test_what_is_none_is_told_in_the_same_words(value: bytes | None) -> None:
    assert read_by(decode_example, value) == read_by(decode, value)
    assert read_by(decode_example, value)[0] == ""


@pytest.mark.parametrize("key", ["a\x00b", "a\n", "\x7f", "\x9f"])
def test_a_control_character_in_a_key_is_refused(key: str) -> None:
    value = msgspec.json.encode({**msgspec.json.decode(EXAMPLE), "source": key})
    assert read_by(decode_example, value)[0] == ""
