"""Messages of a data set as rule 1 had them, for digests that were noted then. Nothing else uses it; it does not change.

Arguments of calls stay as they came, references are left out, parts of a text follow each other, and there are no tools.
"""

from __future__ import annotations

from typing import Any

from headrace_schemas.chat import context_text
from headrace_schemas.derived import Content
from headrace_schemas.inputs import Message, TextPart


def messages_by_rule_1(content: Content) -> list[dict[str, Any]]:
    """The prompt's messages, the context before the first of the user, then the answer."""
    prompt = [Message(role="user", content=content.prompt)] if isinstance(content.prompt, str) else content.prompt
    messages = [_dict(message) for message in prompt]
    background = context_text(content.context)
    if background:
        asked = next((message for message in messages if message["role"] == "user"), messages[0])
        asked["content"] = f"{background}\n\n{asked['content']}"
    target = content.target
    return [*messages, {"role": "assistant", "content": target} if isinstance(target, str) else _dict(target)]


def _text(message: Message) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    return "".join(part.text for part in message.content if isinstance(part, TextPart))


def _dict(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": _text(message)}
    if message.tool_calls:
        made["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    return made
