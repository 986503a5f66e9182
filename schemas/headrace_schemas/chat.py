"""An example as a chat: what training, exports and agents all make of prompt, context, tools and answer. Knows no tokenizer.

A message's text is that of `text.render`, as filters and scores read it: its parts one a line, references as
`[media type uri]`. Arguments of calls are an object, whatever form they came in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import structs

from headrace_schemas.canonical import canonical
from headrace_schemas.inputs import Context, Message, Output, RefPart, Text, Tool, ToolCall
from headrace_schemas.text import render

ChangeText = Callable[[str], str]
_TEXT_IN_TEXT = 2  # a JSON text of a JSON text: some libraries encode twice


def text_of(message: Message) -> str:
    """The text of a message: parts and references, a line each, without its calls."""
    return render(structs.replace(message, tool_calls=None))


def has_references(output: Output) -> bool:
    """Whether something in it is no text: an image, a file."""
    content = None if isinstance(output, str) else output.content
    return isinstance(content, list) and any(isinstance(part, RefPart) for part in content)


def has_trace(prompt: Text) -> bool:
    """Whether something is asked: a text that is not blank, a reference, a call."""
    return bool(prompt.strip()) if isinstance(prompt, str) else any(each.tool_calls or text_of(each).strip() for each in prompt)


def context_text(context: Context) -> str:
    if context is None or isinstance(context, str):
        return context or ""
    return "\n\n".join(item.content for item in context)


def arguments_of(call: ToolCall) -> Any:
    """A call's arguments: an object, also out of a JSON text; nothing is no argument. What is neither stays as it came."""
    value = call.arguments
    for _ in range(_TEXT_IN_TEXT):
        if not isinstance(value, str):
            break
        try:
            decoded = msgspec.json.decode(value or "{}")
            canonical(decoded)  # numbers beyond 64 bits can be read and not be written
        except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError, TypeError):
            break
        if not isinstance(decoded, dict | str):
            break
        value = decoded
    return {} if value is None else value if isinstance(value, dict) else call.arguments


def conversation(prompt: Text, context: Context = None) -> list[Message]:
    """The messages of a prompt, each with one text. The context stands before the text of the first message of the user, so
    that templates without a system role can carry it."""
    messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else [plain_message(each) for each in prompt]
    background = context_text(context)
    if background and messages:
        at = next((index for index, message in enumerate(messages) if message.role == "user"), 0)
        messages[at] = structs.replace(messages[at], content=f"{background}\n\n{messages[at].content or ''}")
    return messages


def plain_message(message: Message) -> Message:
    """The same with its text as one string, absent beside calls when it is empty, and arguments as objects."""
    calls = [structs.replace(call, arguments=arguments_of(call)) for call in message.tool_calls or ()]
    content = text_of(message)
    return structs.replace(message, content=None if calls and not content else content, tool_calls=calls or None)


def answer_of(output: Output) -> Message:
    """An output as the assistant's message."""
    return Message(role="assistant", content=output) if isinstance(output, str) else plain_message(output)


def messages_of(prompt: Text, context: Context) -> list[dict[str, Any]]:
    """A prompt as data sets and chat templates want it: role, text and calls of each message."""
    return [message_dict(message) for message in conversation(prompt, context)]


def message_dict(message: Message) -> dict[str, Any]:
    """Role, text and tool calls, in the form that chat templates of transformers take."""
    made: dict[str, Any] = {"role": message.role, "content": text_of(message)}
    if message.tool_calls:
        made["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments_of(call)}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    return made


def answer_dict(output: Output) -> dict[str, Any]:
    """An output as the assistant's message."""
    return message_dict(answer_of(output))


def tool_dicts(tools: Sequence[Tool] | None) -> list[dict[str, Any]] | None:
    """Tools as chat templates and data sets want them, with what their publisher gave; None without any."""
    return [{"type": "function", "function": msgspec.to_builtins(tool)} for tool in tools or ()] or None


def changed_value(value: Any, change: ChangeText) -> Any:
    """A JSON value with each of its texts changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): changed_value(each, change) for key, each in value.items()}
    return [changed_value(each, change) for each in value] if isinstance(value, list) else value


def changed_message(message: Message, change: ChangeText) -> Message:
    """A message as `plain_message` makes it with each of its texts changed: what it says, names and arguments of its calls."""
    calls = [
        structs.replace(call, name=change(call.name), arguments=changed_value(call.arguments, change))
        for call in message.tool_calls or ()
    ]
    content = change(message.content) if isinstance(message.content, str) else message.content
    return structs.replace(message, content=content, tool_calls=calls or None)


def changed_tool(tool: Tool, change: ChangeText) -> Tool:
    """The same of a tool."""
    described = None if tool.description is None else change(tool.description)
    return Tool(name=change(tool.name), description=described, parameters=changed_value(tool.parameters, change))
