"""How an example becomes text for a model: messages, context and target through a chat template or plainly. Knows no torch.

With a chat template the prompt is what the template makes of the messages, and the completion is what it adds for the
assistant's answer, up to the end-of-text token. Without one the prompt is its text and a line break, the completion the
target and the end-of-text token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from headrace_schemas.derived import Content
from headrace_schemas.inputs import Context, Message, Output, Text, TextPart


class Rendered(NamedTuple):
    prompt: str
    completion: str


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
    messages = [_as_dict(message) for message in listed]
    background = context_text(context)
    if background:
        asked = next((message for message in messages if message["role"] == "user"), messages[0])
        asked["content"] = f"{background}\n\n{asked['content']}"
    return messages


def _as_dict(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": text_of(message)}
    if message.tool_calls:
        made["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    return made


def render(tokenizer: Any, content: Content, target: Output | None = None) -> Rendered:
    """Prompt and completion of `content` (completion of `target`, by default the content's own) for a transformers tokenizer."""
    answer = content.target if target is None else target
    messages = messages_of(content.prompt, content.context)
    end = tokenizer.eos_token or ""
    if not tokenizer.chat_template:
        roles = len(messages) > 1
        prompt = "\n\n".join(f"{message['role']}: {message['content']}" if roles else message["content"] for message in messages)
        return Rendered(prompt + "\n", text_of(answer) + end)
    tools = [{"type": "function", "function": msgspec.to_builtins(tool)} for tool in content.tools or ()] or None
    prompt = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
    said = {"role": "assistant", "content": answer} if isinstance(answer, str) else _as_dict(answer)
    whole = tokenizer.apply_chat_template([*messages, said], tools=tools, tokenize=False)
    # Some templates write the history of an answer otherwise than they ask for it; then the plain text must do.
    completion = whole[len(prompt) :] if whole.startswith(prompt) else text_of(answer) + end
    if end:
        completion = completion.partition(end)[0] + end  # nothing after the end is ever generated
    return Rendered(prompt, completion)
