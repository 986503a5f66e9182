"""The plain format of prompts and answers: what filters and scores read of an answer is what a base learns to say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_schemas.chat import answer_of, arguments_of, conversation
from headrace_schemas.inputs import ContextItem, Message, Output, RefPart, TextPart, Tool, ToolCall
from headrace_schemas.plain_chat import plain_answer, plain_prompt, read_plain, reads_back
from headrace_schemas.text import render

words = st.text(min_size=1, max_size=12)
arguments = st.dictionaries(words, words | st.integers(-9, 9) | st.none() | st.lists(words, max_size=2), max_size=3)
calls = st.builds(
    lambda name, given: ToolCall(id="c", name=name, arguments=given), st.from_regex(r"[a-z_]{1,9}", fullmatch=True), arguments
)
answers = words | st.builds(
    lambda text, called: Message(role="assistant", content=text, tool_calls=called),
    words | st.none(),
    st.lists(calls, min_size=1),
)


@given(answers)
def test_an_answer_is_said_as_filters_and_scores_read_it(answer: Output) -> None:
    assert plain_answer(answer_of(answer)) == render(answer)


@given(answers)
def test_calls_are_read_back_or_known_not_to_be(answer: Output) -> None:
    made = answer_of(answer)
    if not made.tool_calls or not reads_back(made):
        return
    found = read_plain(plain_answer(made))
    assert [(call.name, call.arguments) for call in found.calls] == [(call.name, call.arguments) for call in made.tool_calls]
    assert found.text == (made.content or "")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {}), ("", {}), ("{}", {}), ({"a": 1}, {"a": 1}), ('{"a": 1}', {"a": 1}), ('"{\\"a\\": 1}"', {"a": 1}),
        ("[1]", "[1]"), ("{broken", "{broken"), ("\ud800", "\ud800"), ([1], [1]), ("[" * 10_000, "[" * 10_000),
        ('{"n": 123456789012345678901234}', '{"n": 123456789012345678901234}'),
    ],
)  # fmt: skip
def test_arguments_are_an_object_whatever_form_they_came_in(given: Any, expected: Any) -> None:
    assert arguments_of(ToolCall(id="c", name="n", arguments=given)) == expected


def test_blocks_of_a_prompt() -> None:
    image: list[TextPart | RefPart] = [TextPart(text="What is it?"), RefPart(media_type="image/png", uri="s3://b/a")]
    assert plain_prompt(conversation("Hi.")) == "Hi.\n"
    assert plain_prompt(conversation("Hi.", [ContextItem(content="a"), ContextItem(content="b")])) == "a\n\nb\n\nHi.\n"
    assert plain_prompt(conversation([Message(role="user", content=image)])) == "What is it?\n[image/png s3://b/a]\n"
    assert plain_prompt(conversation([Message(role="system", content="Be short.")])) == "system: Be short.\n"
    assert plain_prompt(conversation("Hi."), [Tool(name="b", description="a"), Tool(name="c")]) == (
        'tools:\n{"description":"a","name":"b"}\n{"name":"c"}\n\nuser: Hi.\n'
    )
