"""What prompts and outputs read like, and which tries are at the same task."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_schemas.inputs import ContextItem, Interaction, Message, RefPart, TextPart, ToolCall
from headrace_schemas.text import has_text, normalise, prompt_group, render
from support.strategies import values

PICTURE = RefPart(media_type="image/png", uri="s3://b/x.png")
CALL = ToolCall(id="1", name="run", arguments={"b": 1, "a": [2]})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("as it is \n", "as it is \n"),
        ([Message(role="system", content="Be kind."), Message(role="user", content="Hi")], "system: Be kind.\nuser: Hi"),
        ([Message(role="user", content=[TextPart(text="Look:"), PICTURE])], "user: Look:\n[image/png s3://b/x.png]"),
        (Message(role="assistant", content="x"), "x"),
        (Message(role="assistant"), ""),
        (Message(role="assistant", content="x", tool_calls=[CALL]), 'x\nrun({"a":[2],"b":1})'),
        (Message(role="assistant", tool_calls=[ToolCall(id="1", name="f", arguments='{"raw": 1}')]), 'f({"raw": 1})'),
        (Message(role="assistant", tool_calls=[ToolCall(id="1", name="f")]), "f()"),
        ([ContextItem(content="a", score=0.5), ContextItem(content="b", id="2")], "a\nb"),
    ],
)
def test_rendered_text(value: Any, text: str) -> None:
    assert render(value) == text


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("x", True),
        (" \n", False),
        (Message(role="assistant"), False),
        (Message(role="assistant", content=""), False),
        (Message(role="assistant", content=[PICTURE]), False),
        (Message(role="assistant", content=[PICTURE, TextPart(text="x")]), True),
        (Message(role="assistant", tool_calls=[CALL]), True),
    ],
)
def test_has_text(output: str | Message, expected: bool) -> None:
    assert has_text(output) is expected


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert normalise(f"  {text}\n") == normalise(text)


def test_white_space_of_ascii_is_what_python_splits_at() -> None:
    for code in range(128):
        for text in (chr(code), f"a{chr(code)}", f"{chr(code)}a", f"a{chr(code)}b", f"a {chr(code)}b", f"a{chr(code)} b"):
            assert normalise(text) == " ".join(text.split()), code


@given(st.text() | st.text(st.sampled_from("ab \t\n\x1f\x7f\x00")))
def test_what_is_normalised_is_words_with_one_space_between_them(text: str) -> None:
    """Whichever of the short ways finds that nothing need be done."""
    assert normalise(text) == " ".join(unicodedata.normalize("NFC", text).split())


@given(values(Interaction))
def test_any_interaction_renders_and_has_a_group(data: Interaction) -> None:
    render(data.output).encode()
    assert len(prompt_group(render(data.prompt), render(data.context))) == 32


def test_a_group_follows_from_prompt_and_context_however_they_are_spaced() -> None:
    group = prompt_group("p  q", "")
    assert group == prompt_group(" p\nq ", " ")
    assert group not in (prompt_group("p  q", "c"), prompt_group("p", ""))
    assert prompt_group("a", "b") != prompt_group("b", "a")
