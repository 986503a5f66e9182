"""A chat as plain text, for bases without a chat template: the format that the trainer and agents share, and how calls are read
back out of an answer. Pure. `docs/prompts.md` states it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from headrace_schemas.canonical import canonical
from headrace_schemas.chat import answer_of, conversation
from headrace_schemas.inputs import Context, Message, Output, Text, Tool, ToolCall
from headrace_schemas.text import render

_CALL = re.compile(r"(?P<name>[^\s(){}]+)\((?P<arguments>\{.*\})\)")


def plain_prompt(messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> str:
    """A lone message of the user is its text. Else tools and messages are blocks with a blank line between, each message
    `role: text` with a line for each of its calls. A line break ends it. Messages as `chat.conversation` makes them."""
    if not tools and len(messages) == 1 and messages[0].role == "user" and not messages[0].tool_calls:
        return f"{render(messages[0])}\n"
    blocks = [f"{message.role}: {render(message)}" for message in messages]
    return "\n\n".join([tools_text(tools), *blocks] if tools else blocks) + "\n"


def prompt_text(prompt: Text, context: Context = None, tools: Sequence[Tool] | None = None) -> str:
    """A prompt as one text, as filters and scores read it: as `plain_prompt`, without the line break that ends it."""
    if isinstance(prompt, str) and not context and not tools:
        return prompt
    return plain_prompt(conversation(prompt, context), tools)[:-1]


def answer_text(output: Output) -> str:
    """An answer likewise."""
    return output if isinstance(output, str) else plain_answer(answer_of(output))


def tools_text(tools: Sequence[Tool]) -> str:
    """`tools:` and a line of JSON for each."""
    return "\n".join(["tools:", *(canonical(msgspec.to_builtins(tool)).decode() for tool in tools)])


def plain_answer(answer: Message) -> str:
    """Its text, then its calls, a line each: `name({"argument": value})`. As `chat.answer_of` makes it."""
    return render(answer)


class PlainAnswer(NamedTuple):
    """What a text answer says and calls."""

    text: str
    calls: list[ToolCall]


def read_plain(text: str) -> PlainAnswer:
    """The lines at the end of `text` that are calls, as calls, and what stands before them. A call's id is its place: call_0 …"""
    lines = text.split("\n")
    calls: list[tuple[str, dict[str, object]]] = []
    while lines and (found := _CALL.fullmatch(lines[-1])) is not None:
        try:
            arguments = msgspec.json.decode(found["arguments"], type=dict[str, object])
        except (msgspec.MsgspecError, RecursionError):
            break
        calls.insert(0, (found["name"], arguments))
        lines.pop()
    made = [ToolCall(id=f"call_{place}", name=name, arguments=arguments) for place, (name, arguments) in enumerate(calls)]
    return PlainAnswer("\n".join(lines), made)


def reads_back(answer: Message) -> bool:
    """Whether the calls of an answer can be read out of its plain text again, and no others."""
    found = read_plain(plain_answer(answer))
    wanted = [(call.name, call.arguments) for call in answer.tool_calls or ()]
    return [(call.name, call.arguments) for call in found.calls] == wanted and found.text == (answer.content or "")
