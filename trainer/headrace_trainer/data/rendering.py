"""How an example becomes text for a model: messages, context and target through a chat template or plainly. Knows no torch.

With a chat template the prompt is what the template makes of the messages, and the completion is what it adds for the
assistant's answer, up to the end-of-text token. Without one the prompt is its text and a line break, the completion the
target and the end-of-text token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from headrace_schemas.chat import answer_dict, messages_of, text_of
from headrace_schemas.derived import Content
from headrace_schemas.inputs import Output


class Rendered(NamedTuple):
    prompt: str
    completion: str


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
    whole = tokenizer.apply_chat_template([*messages, answer_dict(answer)], tools=tools, tokenize=False)
    # Some templates write the history of an answer otherwise than they ask for it; then the plain text must do.
    completion = whole[len(prompt) :] if whole.startswith(prompt) else text_of(answer) + end
    if end:
        completion = completion.partition(end)[0] + end  # nothing after the end is ever generated
    return Rendered(prompt, completion)
