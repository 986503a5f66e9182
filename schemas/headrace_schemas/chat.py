"""An example as a chat: role and text of each message, as chat templates and data sets want it. Knows no tokenizer."""

from __future__ import annotations

from typing import Any

from headrace_schemas.inputs import Context, Message, Output, Text, TextPart


def text_of(message: str | Message) -> str:
    """The text of a message; parts that are references carry none."""
    if isinstance(message, str):
        return message
    if message.content is None:
        return ""
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text for part in message.content if isinstance(part, TextPart))


def context_text(context: Context) -> str:
    if context is None or isinstance(context, str):
        return context or ""
    return "\n\n".join(item.content for item in context)


def messages_of(prompt: Text, context: Context) -> list[dict[str, Any]]:
    """Role and text of each message; the context stands before the text of the first message of the user, so that templates
    without a system role can carry it."""
    listed = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    messages = [message_dict(message) for message in listed]
    background = context_text(context)
    if background:
        asked = next((message for message in messages if message["role"] == "user"), messages[0])
        asked["content"] = f"{background}\n\n{asked['content']}"
    return messages


def message_dict(message: Message) -> dict[str, Any]:
    """Role, text and tool calls, in the form that chat templates of transformers take."""
    made: dict[str, Any] = {"role": message.role, "content": text_of(message)}
    if message.tool_calls:
        made["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    return made


def answer_dict(output: Output) -> dict[str, Any]:
    """An output as the assistant's message."""
    return {"role": "assistant", "content": output} if isinstance(output, str) else message_dict(output)
