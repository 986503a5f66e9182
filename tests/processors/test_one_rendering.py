"""Filters and scores read a message as it is learnt: what makes no difference to training makes none to them, and the reverse."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_processors.reward import fold as reward
from headrace_schemas.chat import answer_of, conversation
from headrace_schemas.derived import Content
from headrace_schemas.inputs import ContextItem, Message, RefPart, TextPart, Tool, ToolCall
from headrace_schemas.plain_chat import answer_text, plain_answer, plain_prompt, prompt_text
from support.examples import CurateRun, rewarded
from support.signals import StageRun, events_on, feedback, interaction

PICTURE = RefPart(media_type="image/png", uri="s3://b/x.png")
TOOLS = [Tool(name="orders", description="looks orders up")]


def calls(arguments: Any, content: Any = None) -> Message:
    return Message(role="assistant", content=content, tool_calls=[ToolCall(id="1", name="orders", arguments=arguments)])


def user(content: str) -> list[Message]:
    return [Message(role="user", content=content)]


SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "arguments as JSON text": (
        {"target": calls('{"year": 2026, "city": "Oslo"}')},
        {"target": calls({"city": "Oslo", "year": 2026})},
    ),
    "blank content": ({"target": calls({}, "")}, {"target": calls(None)}),
    "one message": ({"prompt": user("how many?")}, {"prompt": "how many?"}),
    "joins": ({"context": [ContextItem(content="a"), ContextItem(content="b")]}, {"context": "a\n\nb"}),
    "parts": (
        {"prompt": [Message(role="user", content=[TextPart(text="how"), TextPart(text="many?")])]},
        {"prompt": "how\nmany?"},
    ),
}


@pytest.mark.parametrize("one", SAME)
def test_what_is_learnt_as_the_same_is_a_duplicate(one: str) -> None:
    first, second = ({"prompt": "how many?", "target": "select 1", **changed} for changed in SAME[one])
    stage = CurateRun()
    stage.feed(rewarded(1, **first), rewarded(2, **second))
    assert stage.reasons == ["duplicate"]


def test_what_could_be_called_is_a_part_of_what_is_asked() -> None:
    stage = CurateRun(near_duplicate=0.85)
    texts = {"prompt": "how many orders are there in Oslo?", "output": "4", "target": "select count(*) from orders"}
    for number, tools in enumerate((None, TOOLS, TOOLS)):
        stage.feed(rewarded(number, content=Content(**texts, tools=tools)))
    assert stage.reasons == ["duplicate"]


def test_an_answer_that_is_text_beside_an_image_is_not_learnt_from() -> None:
    stage = CurateRun()
    stage.feed(rewarded(1, target=Message(role="assistant", content=[TextPart(text="as drawn"), PICTURE])))
    assert stage.reasons == ["answer_has_references"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"target": calls({}, " ")}, None),
        ({"target": Message(role="assistant", content=[TextPart(text=" "), TextPart(text="")])}, "no_text_target"),
        ({"prompt": [Message(role="user", content=" "), Message(role="user")]}, "no_text_prompt"),
        ({"prompt": ""}, "no_text_prompt"),
        ({"prompt": user(" \n")}, "no_text_prompt"),
        ({"prompt": "why? " * 11}, "question_too_long"),
        ({"prompt": [Message(role="system", content="why? " * 11), *user("why?")]}, None),
        ({"target": "because " * 13}, "answer_too_long"),
        ({"target": "because " * 12}, None),
    ],
)
def test_what_no_run_can_make_a_row_of_does_not_fill_and_is_counted(changed: dict[str, Any], reason: str | None) -> None:
    stage = CurateRun(longest_chars=50, target_effective_size=1, echo=None)
    stage.feed(rewarded(1, **changed))
    assert stage.reasons == ([reason] if reason else [])
    if reason:
        stage.feed(rewarded(2))
        assert stage.batches[0].statistics.left_out == {reason: 1}


def test_a_correction_that_changes_the_form_of_a_call_only_is_none() -> None:
    stage = StageRun(reward.build({}, ""), "signals")
    corrected = {"role": "assistant", "content": "", "tool_calls": [{"id": "2", "name": "orders", "arguments": {"city": "Oslo"}}]}
    output = {"role": "assistant", "tool_calls": [{"id": "1", "name": "orders", "arguments": '{"city":"Oslo"}'}]}
    stage.feed(interaction(output=output), feedback(kind="user_correction", corrected_output=corrected))
    [event] = events_on(stage.outputs, "examples")
    assert event.data.components.correction == 0  # type: ignore[union-attr]


def test_difficulty_is_of_the_prompt_as_it_is_learnt() -> None:
    found = []
    for prompt in ("how many?", [{"role": "user", "content": "how many?"}]):
        stage = StageRun(reward.build({"prompt_full_chars": 20}, ""), "signals")
        stage.feed(interaction(prompt=prompt), feedback())
        [event] = events_on(stage.outputs, "examples")
        found.append(event.data.components.difficulty)  # type: ignore[union-attr]
    assert found[0] == found[1]


@pytest.mark.parametrize("prompt", ["how many?", user("how many?"), [Message(role="system", content="SQL"), *user("how many?")]])
@pytest.mark.parametrize("context", [None, "", "a", [ContextItem(content="a"), ContextItem(content="b")]])
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_the_text_of_a_prompt_is_what_a_base_without_a_template_is_asked(prompt: Any, context: Any, tools: Any) -> None:
    assert prompt_text(prompt, context, tools) + "\n" == plain_prompt(conversation(prompt, context), tools)


@pytest.mark.parametrize("output", ["4", calls('{"a": 1}', ""), Message(role="assistant", content=[TextPart(text="4"), PICTURE])])
def test_the_text_of_an_answer_is_what_it_says(output: Any) -> None:
    assert answer_text(output) == plain_answer(answer_of(output))
