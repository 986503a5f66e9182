"""When something was last heard of, as encoded values begin: read the short way or the general one, it is the same time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_processors.expiry import touched_of

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
