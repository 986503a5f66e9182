"""When something was last heard of, as encoded values begin: read the short way or the general one, it is the same time."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_processors.expiry import period_ms, touched_of
from headrace_processors.reward.feedback import FeedbackRecord
from headrace_processors.reward.fold import build
from headrace_processors.reward.keys import INTERACTION
from headrace_processors.reward.policy import RewardPolicy
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


@given(
    st.integers(0, 10**14) | st.integers(0, 14).map(lambda digits: 10**digits),
    st.booleans(),
    st.sampled_from([0, 1, 10**13, 10**15]),
    st.sampled_from(["", "d" * 32]),
    st.booleans(),
    st.sampled_from([{}, {"expire_after_days": 0}, {"expire_after_days": 3, "forget_after_days": 30}]),
)
def test_a_case_is_due_when_what_it_says_is(
    touched: int, expired: bool, settles: int, digest: str, spoken_of: bool, body: dict[str, float]
) -> None:
    """However few of its bytes are looked at."""
    feedback = (FeedbackRecord(source="s", feedback_id="f", time_ns=0),) if spoken_of else ()
    case = InteractionState(touched=touched, expired=expired, settles=settles, digest=digest, feedback=feedback)
    policy = RewardPolicy(**body)
    period = period_ms(policy.forget_after_days if expired else policy.expire_after_days)
    due = [at for at in (touched + period if period else 0, settles) if at]
    fold = build(policy.model_dump(mode="json"), "")
    key, value = f"{INTERACTION}i1", msgspec.json.encode(case)
    assert fold.deadline(key, value) == min(due, default=None)
    assert fold.deadlines({key: value}) == ({key: min(due)} if due else {})
