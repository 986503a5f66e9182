"""What a record's headers say of where it came from: written in one form a rule version, read in both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_streams.runtime.provenance import (
    ORIGIN,
    Headers,
    Provenance,
    origin,
    origin_without_input,
    provenance_of,
    six_headers,
    writer_of,
)

NAMES = st.from_regex(r"[a-z][a-z.]{0,20}", fullmatch=True)
NUMBERS = st.integers(0, 2**63 - 1)
PROVENANCE = st.builds(Provenance, NAMES, NAMES, NUMBERS, NUMBERS, NUMBERS)


@given(PROVENANCE)
def test_both_forms_say_where_a_record_came_from(source: Provenance) -> None:
    for written in (origin(source), six_headers(source)):
        assert provenance_of(written) == source
        assert writer_of(written) == source.stage
        assert written[0] == ("content-type", b"application/cloudevents+json")


def test_one_header_says_it_all() -> None:
    written = origin(Provenance("reward", "signals", 1, 7, 0))
    assert written[1:] == ((ORIGIN, b"reward/signals/1/7/0"),)


def test_a_record_that_no_input_made_names_its_writer_only() -> None:
    written = origin_without_input("curate.tick")
    assert (provenance_of(written), writer_of(written)) == (None, "curate.tick")


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((ORIGIN, b"reward/signals/1/7"),),
        ((ORIGIN, b"reward/signals/1/seven/0"),),
        ((ORIGIN, b"\xff/signals/1/7/0"),),
        ((ORIGIN, None),),
        (("headrace-stage", b"reward"), ("headrace-topic", b"signals")),
        (("headrace-stage", None), ("headrace-topic", b"signals")),
        (*six_headers(Provenance("reward", "signals", 1, 7, 0))[:-1], ("headrace-ordinal", b"x")),
    ],
    ids=["none", "too short", "no number", "no text", "null", "some of six", "null of six", "no number of six"],
)
def test_headers_that_do_not_say_it_properly_say_nothing(headers: Headers) -> None:
    assert provenance_of(headers) is None
