"""The side of a group of a bucket never changes."""

from __future__ import annotations

import pytest

from headrace_schemas.splits import split_of


@pytest.mark.parametrize(
    ("bucket", "group", "side"), [("sql/tiny", "g0", "test"), ("sql/tiny", "g1", "validation"), ("sql/tiny", "g2", "train")]
)
def test_a_side_is_what_it_always_was(bucket: str, group: str, side: str) -> None:
    assert split_of(bucket, group) == side
