"""What an agent makes of a prompt is what training makes of it, and an answer comes back as a message."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import headrace
from headrace.publishing import EventFactory
from headrace_schemas.codec import decode
from headrace_schemas.derived import Content
from headrace_schemas.events import InteractionRecorded
from headrace_trainer.data.rendering import ChatRenderer
from support.chat_styles import STYLES, stops_of, tokenizer_of

TOOLS = [{"type": "function", "function": {"name": "depth", "parameters": {"type": "object", "properties": {}}}}]
PROMPT: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "How deep"}, {"type": "text", "text": "is it?"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_0001", "type": "function", "function": {"name": "depth", "arguments": '{"lake": "Mjosa"}'}}],
    },
    {"role": "tool", "tool_call_id": "call_0001", "content": "453"},
]
NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.mark.parametrize("style", STYLES)
def test_an_agent_renders_what_training_rendered(style: str) -> None:
    """The interaction as it is recorded, through the codec, is what a row is made of."""
    fields = {"artifact_type": "qa", "model": "m", "prompt": PROMPT, "context": "A lake.", "tools": TOOLS, "output": "453 m."}
    outgoing, _ = EventFactory("bot").interaction(fields, None, None)
    event = decode(outgoing.value)
    assert isinstance(event, InteractionRecorded)
    data = event.data
    content = Content(prompt=data.prompt, output=data.output, target=data.output, context=data.context, tools=data.tools)
    trained = ChatRenderer(tokenizer_of(style), stops_of(style)).render(content, now=NOW)
    assert headrace.render(PROMPT, context="A lake.", tools=TOOLS, tokenizer=tokenizer_of(style), now=NOW) == trained.prompt


def test_without_a_tokenizer_the_format_is_the_plain_one() -> None:
    assert headrace.render("How deep?") == "How deep?\n"
    assert headrace.render("How deep?", context="A lake.") == "A lake.\n\nHow deep?\n"
    assert headrace.render(PROMPT, tools=TOOLS) == (
        'tools:\n{"name":"depth","parameters":{"properties":{},"type":"object"}}\n\n'
        'developer: Be short.\n\nuser: How deep\nis it?\n\nassistant: depth({"lake":"Mjosa"})\n\ntool: 453\n'
    )


def test_an_answer_is_read_back_with_its_calls() -> None:
    assert headrace.parse_answer("453 m.") == {"role": "assistant", "content": "453 m."}
    assert headrace.parse_answer('Let me see.\ndepth({"lake":"Mjosa"})\ndepth({})') == {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [
            {"id": "call_0", "name": "depth", "arguments": {"lake": "Mjosa"}},
            {"id": "call_1", "name": "depth", "arguments": {}},
        ],
    }
    assert headrace.parse_answer('depth({"lake": oops})') == {"role": "assistant", "content": 'depth({"lake": oops})'}


def test_what_is_no_prompt_and_what_no_form_can_say_are_errors() -> None:
    with pytest.raises(headrace.InvalidEvent, match=r"data\.prompt"):
        headrace.render(7)  # type: ignore[arg-type]
    with pytest.raises(headrace.PromptLost) as lost:
        headrace.render([{"role": "assistant", "content": "a"}, {"role": "tool", "content": ""}], tokenizer=Raising())
    assert lost.value.reason == "template_refused"


class Raising:
    """A tokenizer whose template takes nothing."""

    chat_template = "x"

    def apply_chat_template(self, *_: Any, **__: Any) -> str:
        raise ValueError("nothing")
