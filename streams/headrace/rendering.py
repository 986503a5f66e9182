"""The prompt that a trained adapter knows, as text, and an answer of a base without a chat template as a message. For agents that
call the model themselves; knows the door's shapes and no tokenizer library."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from headrace.fields import ContextItemFields, Given, Prompt
from headrace_schemas.chat import conversation
from headrace_schemas.chat_template import PromptLost, TokenizerTemplate, template_prompt
from headrace_schemas.errors import DecodeError
from headrace_schemas.inputs import Context, Text, Tool
from headrace_schemas.plain_chat import plain_prompt, read_plain
from headrace_schemas.provider_messages import prompt_of, tools_of


def render(
    prompt: Prompt,
    *,
    context: str | Sequence[ContextItemFields] | None = None,
    tools: Sequence[Given] | None = None,
    tokenizer: Any = None,
    now: datetime | None = None,
) -> str:
    """The text that training makes of a prompt, up to where the answer begins. Takes what `Recorder.interaction` takes.

    With a `tokenizer` of transformers that has a chat template: as the template writes it, with what it refuses or drops folded
    into what it takes; it holds the special tokens of the beginning, so it is tokenised without adding any. Else the plain format
    of docs/prompts.md. `now` is what a template that writes the date is told; by default it asks the clock.

    InvalidEvent for what is no prompt; PromptLost when the template takes it in no form."""
    asked = _converted(prompt_of(prompt), Text, "data.prompt")
    background = _converted(context, Context, "data.context")
    offered: list[Tool] = _converted(tools_of(list(tools or ())), list[Tool], "data.tools")
    messages = conversation(asked, background)
    if tokenizer is None or not tokenizer.chat_template:
        return plain_prompt(messages, offered)
    return template_prompt(TokenizerTemplate(tokenizer, now), messages, offered).text


def parse_answer(text: str) -> dict[str, Any]:
    """What a base without a chat template answered, as the assistant's message: the lines `name({…})` at its end are its tool
    calls. As `Recorder.interaction` takes it for `output`."""
    answer = read_plain(text)
    made: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.calls:
        made["content"] = answer.text or None
        made["tool_calls"] = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in answer.calls]
    return made


def _converted(value: Any, kind: Any, field: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise DecodeError("wrong_type", field, f"{field}: {error}") from error


__all__ = ["PromptLost", "parse_answer", "render"]
