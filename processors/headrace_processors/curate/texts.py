"""What filters and near-duplicates read of an example, as one text each: as training renders it, from rule version 3 on. Knows
texts only, no policy.

Until then a message was read otherwise than it is learnt: arguments of a call as JSON text were another call than the same as an
object, a prompt of one message another than its text, and tools were no part of what is asked.
"""

from __future__ import annotations

from typing import NamedTuple

from headrace_schemas.chat import context_text
from headrace_schemas.derived import Content
from headrace_schemas.groups import question_of
from headrace_schemas.plain_chat import answer_text, prompt_text, tools_text
from headrace_schemas.text import render


class ExampleTexts(NamedTuple):
    """`question`: the last message of the user, or all of a prompt without one; None where the prompt is a text, and until rule
    version 3 where there is none. `context` has the tools, too, since then."""

    prompt: str
    question: str | None
    context: str
    target: str


def texts_of(version: int, content: Content) -> ExampleTexts:
    """The texts of an example as a rule version reads them."""
    prompt, context, target = content.prompt, content.context, content.target
    if version > 2:
        tools = f"{tools_text(content.tools)}\n" if content.tools else ""
        question = None if isinstance(prompt, str) else question_of(prompt)
        return ExampleTexts(prompt_text(prompt), question, f"{tools}{context_text(context)}", answer_text(target))
    asked = [] if isinstance(prompt, str) else [message for message in prompt if message.role == "user"]
    return ExampleTexts(render(prompt), render(asked[-1]) if asked else None, render(context), render(target))
