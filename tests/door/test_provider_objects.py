"""What model libraries return goes into the door as it is, and comes out of the decoder in the contract's form."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.types import Message
from openai.types.chat import ChatCompletion

from headrace.publishing import EventFactory, InvalidEvent
from headrace_schemas.codec import decode
from headrace_schemas.events import FeedbackRecorded, InteractionRecorded
from headrace_schemas.inputs import Feedback, Interaction, RefPart, TextPart, ToolCall

FIELDS: dict[str, Any] = {"artifact_type": "calls", "model": "m", "prompt": "What is the weather in Oslo?"}
COMPLETION = ChatCompletion.model_validate(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt",
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "c0", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
                    ],
                },
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
    }
)
MESSAGE = Message.model_validate(
    {
        "id": "msg-1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t0", "name": "weather", "input": {"city": "Oslo"}},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 5, "output_tokens": 7},
    }
)


def recorded(**fields: Any) -> Interaction:
    event = decode(EventFactory("bot").interaction({**FIELDS, **fields}, None, None)[0].value)
    assert isinstance(event, InteractionRecorded)
    return event.data


def corrected(output: Any) -> Feedback:
    fields = {"kind": "user_correction", "corrected_output": output}
    event = decode(EventFactory("bot").feedback("i-1", fields, None, None).value)
    assert isinstance(event, FeedbackRecorded)
    return event.data


@pytest.mark.parametrize(("response", "call"), [(COMPLETION, "c0"), (MESSAGE, "t0")])
def test_a_whole_response_says_how_it_ended_and_what_it_used(response: Any, call: str) -> None:
    data = recorded(output=response)
    assert not isinstance(data.output, str)
    assert data.output.tool_calls == [ToolCall(id=call, name="weather", arguments={"city": "Oslo"})]
    assert data.finish_reason == "tool_calls"
    assert data.usage is not None
    assert (data.usage.input_tokens, data.usage.output_tokens) == (5, 7)


def test_what_is_given_beside_a_response_is_believed() -> None:
    data = recorded(output=COMPLETION, finish_reason="length", usage={"input_tokens": 1})
    assert data.finish_reason == "length"
    assert data.usage is not None
    assert (data.usage.input_tokens, data.usage.output_tokens) == (1, None)


def test_the_turns_of_a_conversation_are_handed_back_as_they_came() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Where is this?"}, picture]},
        COMPLETION.choices[0].message,
        {"role": "tool", "tool_call_id": "c0", "content": "rain"},
        {"role": "assistant", "content": MESSAGE.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t0", "content": "sun"}]},
    ]
    data = recorded(prompt=turns, output="It rains.", tools=[{"name": "weather", "input_schema": {"type": "object"}}])
    assert not isinstance(data.prompt, str)
    assert [message.role for message in data.prompt] == ["developer", "user", "assistant", "tool", "assistant", "tool"]
    assert data.prompt[1].content == [
        TextPart(text="Where is this?"),
        RefPart(media_type="image/*", uri="https://x.example/a.png"),
    ]
    assert data.prompt[5].tool_call_id == "t0"
    assert data.tools is not None
    assert data.tools[0].parameters == {"type": "object"}


@pytest.mark.parametrize(
    ("word", "reason"), [("end_turn", "stop"), ("max_tokens", "length"), ("refusal", "content_filter"), ("length", "length")]
)
def test_a_finish_reason_is_the_contracts(word: str, reason: str) -> None:
    assert recorded(output="x", finish_reason=word).finish_reason == reason


def test_a_correction_is_read_like_an_output() -> None:
    output = corrected(COMPLETION).corrected_output
    assert output is not None
    assert not isinstance(output, str)
    assert output.tool_calls == [ToolCall(id="c0", name="weather", arguments={"city": "Oslo"})]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"finish_reason": "stopp"}, "data.finish_reason"),
        ({"prompt": [{"role": "robot", "content": "x"}]}, "data.prompt[0].role"),
        ({"prompt": [{"role": "user", "content": [{"type": "video"}]}]}, "data.prompt[0].content[0].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "data.tools[0].function.name"),
        ({"tools": [{"type": "function"}]}, "data.tools[0].name"),
        ({"output": {"role": "assistant", "tool_calls": [{"id": "c"}]}}, "data.output.tool_calls[0].name"),
        ({"usage": {"prompt_tokens": -1}}, "data.usage.input_tokens"),
    ],
)
def test_what_is_malformed_is_not_accepted(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        recorded(**{"output": "x", **fields})
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_a_malformed_correction_is_named_as_one() -> None:
    with pytest.raises(InvalidEvent, match=r"^data\.corrected_output\.content\[0\]\.type: .*hologram"):
        corrected({"role": "assistant", "content": [{"type": "hologram"}]})


def test_parts_without_end_are_refused() -> None:
    part: dict[str, Any] = {"type": "text", "text": "x"}
    for _ in range(100_000):
        part = {"type": "search_result", "content": [part]}
    with pytest.raises(InvalidEvent) as caught:
        recorded(prompt=[{"role": "user", "content": [part]}], output="x")
    assert caught.value.code == "nesting"
    while isinstance(part.get("content"), list):  # taken apart by hand: a destructor of such a depth is not the test's matter
        part = part.pop("content")[0]
