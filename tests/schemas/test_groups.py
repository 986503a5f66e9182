"""Which task an interaction is a try at, where nobody says: what makes no other task of it, and what does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_schemas import groups
from headrace_schemas.groups import masked, question_group, session_group, without
from headrace_schemas.inputs import ContextItem, Message, RefPart, TextPart, ToolCall

QUESTION = "How many customers in Oslo bought more than 3 items?"


def said(role: str, content: str) -> Message:
    return Message(role=role, content=content)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "prompt",
    [
        "how many CUSTOMERS in oslo, bought  more than 17 items",
        [said("user", QUESTION)],
        [said("system", "You know SQL. Today is Monday."), said("user", QUESTION)],
        [said("user", "hello"), said("assistant", "hello"), said("user", QUESTION)],
        [
            said("user", QUESTION),
            Message(role="assistant", tool_calls=[ToolCall(id="1", name="db", arguments={})]),
            Message(role="tool", content="42", tool_call_id="1"),
        ],
        [Message(role="user", content=[TextPart(text=QUESTION)])],
    ],
    ids=["case and punctuation", "message", "system", "earlier turns", "tool results", "parts"],
)
def test_the_same_question_is_the_same_task(prompt: str | list[Message]) -> None:
    assert question_group(prompt) == question_group(QUESTION)


@pytest.mark.parametrize(
    "prompt",
    [
        "How many customers in Bergen bought more than 3 items?",
        [said("user", QUESTION), said("assistant", "42"), said("user", "And in Bergen?")],
        [Message(role="user", content=[RefPart(media_type="image/png", uri="s3://a")])],
    ],
)
def test_another_question_is_another_task(prompt: str | list[Message]) -> None:
    assert question_group(prompt) != question_group(QUESTION)


@pytest.mark.parametrize(
    "date",
    [
        "2026-11-26",
        "26.11.2026",
        "11/26/2026 10:32 PM",
        "Thursday, 26th November 2026",
        "Nov. 26",
        "2026-11-26T10:32:00Z",
        "2026-11-26T10:32:00.123456+01:00",
        "١٢",
        "１２",
    ],
)
def test_dates_and_numbers_are_no_other_task(date: str) -> None:
    assert masked(f"What was sold on {date}, by shop?") == "what was sold on 0 by shop"


def test_what_was_retrieved_is_no_part_of_the_question() -> None:
    found = "Orders have a customer, an item and a date."
    for context in (found, [ContextItem(content="Items have a name and a price."), ContextItem(content=found)]):
        assert question_group(f"Context:\n{found}\n\nQuestion: {QUESTION}", context) == question_group(
            f"Context:\n\nQuestion: {QUESTION}"
        )
        assert question_group(QUESTION, context) == question_group(QUESTION)
    assert question_group(QUESTION, QUESTION) == question_group(QUESTION), "unless nothing else is there"


def test_a_session_is_a_task_and_another_than_the_question_of_its_name() -> None:
    assert session_group("s-1") != session_group("s-2")
    assert session_group(QUESTION) != question_group(QUESTION)


def test_questions_without_a_word_are_told_apart() -> None:
    assert len({question_group(text) for text in ("?", "!!", "+", " + ", "")}) == 4


@given(st.text())
def test_what_is_masked_stays_as_it_is(text: str) -> None:
    assert masked(masked(text)) == masked(text) == masked(f" {text}\n")


def test_what_is_looked_for_in_a_question_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = ("abc"[number] * 30 for number in range(3))
    question = f"{first}.{second}.{third}"
    items = [ContextItem(content=text) for text in (first, "z" * 1000, second, third)]
    assert without(question, items) == " . . "
    monkeypatch.setattr(groups, "WORK", 2 * len(question))
    assert without(question, items) == f" . .{third}", "what can't stand in it costs nothing"
