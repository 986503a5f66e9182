"""A signal is read as what codec.decode reads, only cheaper."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given

from headrace_schemas.codec import decode, encode
from headrace_schemas.errors import DecodeError
from headrace_schemas.events import Envelope, InteractionRecorded
from headrace_schemas.signals import decode_signal
from headrace_schemas.topics import BY_NAME
from support.inputs_of import GOLDENS
from support.signals import feedback, interaction
from support.strategies import events


@given(events(*BY_NAME["signals"].events))
def test_every_signal_is_the_same_event_of_the_same_bytes(event: Any) -> None:
    value = encode(event)
    general, signal = decode(value), decode_signal(value)
    assert isinstance(signal, type(general))
    assert encode(signal) == encode(general) == value


@pytest.mark.parametrize("kind", BY_NAME["signals"].events)
def test_fields_of_a_twin_stand_in_the_same_order(kind: type[Envelope]) -> None:
    """Or digests of one event would differ."""
    value = (GOLDENS / f"{kind.__struct_config__.tag}.json").read_bytes()
    signal = decode_signal(value)
    assert type(signal).__struct_fields__ == kind.__struct_fields__
    assert type(signal.data).__struct_fields__ == type(decode(value).data).__struct_fields__
    assert encode(signal) == encode(decode(value))


def test_an_integer_that_came_as_1_0_is_one() -> None:
    signal = decode_signal(interaction(attempt=2.0, mystery=1))
    assert isinstance(signal, InteractionRecorded)
    assert signal.data.attempt == 2


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"{",
        b"[]",
        b'{"type":"headrace.tick.v9"}',
        interaction(prompt=""),
        feedback(score=101),
        feedback("f1", None),
        b"\xff",
    ],
)
def test_what_is_no_signal_is_told_in_the_same_words(value: bytes | None) -> None:
    errors = []
    for read in (decode, decode_signal):
        with pytest.raises(DecodeError) as caught:
            read(value)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


def test_an_event_of_another_topic_is_read_too() -> None:
    """The fold says that it is no signal."""
    value = msgspec.json.encode(msgspec.json.decode((GOLDENS / "headrace.batch.ready.v1.json").read_bytes()))
    assert encode(decode_signal(value)) == encode(decode(value))
