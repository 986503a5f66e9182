"""RFC 3339 and integers since the epoch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_schemas.times import parse_ns, rfc3339


@given(st.integers(-60_000_000_000_000, 250_000_000_000_000))
def test_what_is_written_is_read(ms: int) -> None:
    assert parse_ns(rfc3339(ms)) == ms * 1_000_000


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01 00:00:01.5z", 1_500_000_000),
        ("1970-01-01T01:00:00.000000001+01:00", 1),
        ("1969-12-31T23:00:00-01:00", 0),
        ("1970-01-01T05:30:00+05:30", 0),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000_000),
        ("2016-12-31T23:59:60.9Z", 1_483_228_800_000_000_000),
        ("2016-12-31T23:59:60.999Z", 1_483_228_800_000_000_000),
        ("2000-02-29T00:00:00Z", 951_782_400_000_000_000),
        ("2000-02-29t00:00:00.25Z", 951_782_400_250_000_000),
        ("1969-12-31T23:59:59.000000001Z", -999_999_999),
    ],
)
def test_known_times(text: str, ns: int) -> None:
    assert parse_ns(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "", "2026-11-21", "2026-11-21T10:00:00", "2026-11-21T24:00:00Z", "2026-11-21T10:60:00Z", "2026-11-21T10:00:61Z",
        "2026-02-29T10:00:00Z", "0000-01-01T00:00:00Z", "2026-11-21T10:00:00.Z", "2026-11-21T10:00:00.1234567890Z",
        "2026-11-21T10:00:00+24:00", "2026-11-21T10:00:00+0100", "２026-11-21T10:00:00Z", "2026-11-21T10:00:00Z\n",
    ],
)  # fmt: skip
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|year|month|day"):
        parse_ns(text)


def test_absurd_timestamps_are_the_nearest_time_that_can_be_written() -> None:
    assert rfc3339(2**63 - 1) == "9999-12-31T23:59:59.999Z"
    assert rfc3339(-(2**63)) == "0001-01-01T00:00:00.000Z"
