"""When something was last heard of, as encoded values begin: read the short way or the general one, it is the same time."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_processors.expiry import touched_of
from headrace_processors.reward.feedback import FeedbackRecord
from headrace_processors.reward.state import InteractionState, is_expired

PIECES = st.sampled_from(
    [b'{"touched":', b'{"touched"', b"1", b"1790000000000", b"-3", b",", b"}", b" ", b'"expired":true', b"x"]
)


@given(st.lists(PIECES, max_size=5).map(b"".join))
def test_the_time_is_all_the_digits_behind_its_name(value: bytes) -> None:
    head = re.match(rb'\{"touched":([0-9]+)', value)
    if head is None:
        with pytest.raises(ValueError, match="not with the time of the last record about it"):
            touched_of(value)
    else:
        assert touched_of(value) == int(head[1])


@given(
    st.integers(0, 10**14) | st.integers(0, 14).map(lambda digits: 10**digits),
    st.booleans(),
    st.sampled_from(["", "d", "d" * 32]),
    st.booleans(),
)
def test_whether_a_case_has_expired_is_seen_in_its_bytes(touched: int, expired: bool, digest: str, spoken_of: bool) -> None:
    feedback = (FeedbackRecord(source="s", feedback_id="f", time_ns=0),) if spoken_of else ()
    case = InteractionState(touched=touched, expired=expired, digest=digest, feedback=feedback)
    assert is_expired(msgspec.json.encode(case)) is expired
