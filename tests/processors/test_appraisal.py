"""What an example is by itself: the short way of its texts comes to the same as the long one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_processors.curate.appraisal import appraise
from headrace_processors.curate.policy import CuratePolicy
from headrace_schemas.codec import decode
from headrace_schemas.inputs import ContextItem, Message, TextPart
from headrace_schemas.splits import split_of
from support.examples import rewarded

texts = st.one_of(st.text('ab  \t\x7f\x1f\xa0é\\"\n', max_size=30), st.text(max_size=30), st.text("ab ", max_size=60))
messages = st.builds(lambda text: [Message(role="user", content=text)], texts)
parts = st.builds(lambda text: Message(role="assistant", content=[TextPart(text=text), TextPart(text=" b")]), texts)
contexts = st.one_of(st.none(), texts, st.lists(st.builds(lambda text: ContextItem(content=text), texts), max_size=2))


@given(st.one_of(texts, messages), st.one_of(texts, parts), contexts, st.sampled_from([1, 2, 3, 4]))
@settings(deadline=None)
def test_texts_are_the_same_content_whatever_else_the_record_holds(prompt: Any, target: Any, context: Any, version: int) -> None:
    """A backslash in a record sends its texts the long way."""
    value = rewarded(1, prompt=prompt, target=target, context=context)
    long_way = value.replace(b'"source":"headrace:reward"', b'"source":"headrace:\\u0072eward"')
    assert long_way != value
    short, long = (appraise(CuratePolicy(), version, [(decode(each).data, each)])[0] for each in (value, long_way))  # type: ignore[list-item]
    assert short == msgspec.structs.replace(long, sha256=short.sha256)


@pytest.mark.parametrize(
    ("bucket", "group", "side"), [("sql/tiny", "g0", "test"), ("sql/tiny", "g1", "validation"), ("sql/tiny", "g2", "train")]
)
def test_a_side_is_what_it_always_was(bucket: str, group: str, side: str) -> None:
    assert split_of(bucket, group) == side
