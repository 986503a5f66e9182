"""A chat through a base's own template, with what the template refuses or drops folded into what it takes. Knows templates as
functions from messages to text; no tokens, no library.

Nothing may vanish: a form of the messages is taken when every text, call and tool of it stands in what the template writes. The
forms are tried in an order that changes as little as possible, by the prompt alone, so that whoever serves finds the same one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import product
from typing import Any, Literal, NamedTuple, Protocol

from msgspec import structs

from headrace_schemas.canonical import canonical
from headrace_schemas.chat import ChangeText, changed_value, message_dict, text_of, tool_dicts
from headrace_schemas.inputs import Message, Tool
from headrace_schemas.plain_chat import tools_text
from headrace_schemas.root_error import HeadraceError
from headrace_schemas.text import render

Calls = Literal["object", "json", "text"]
Roles = Literal["given", "system", "joined", "folded"]
MessageDict = dict[str, Any]
THOUGHT_TAGS = ("think", "thinking", "thought", "reasoning")  # that bases put their thoughts in
THOUGHT_END = re.compile(rf"</(?:{'|'.join(THOUGHT_TAGS)})>")
_THOUGHT_TAG = re.compile(rf"</?(?:{'|'.join(THOUGHT_TAGS)})>")


class Template(Protocol):
    """What a template does: messages and tools as text, up to where the assistant's answer begins when `asks`."""

    def __call__(self, messages: list[MessageDict], tools: list[dict[str, Any]] | None, *, asks: bool) -> str: ...


class TokenizerTemplate:
    """The chat template of a transformers tokenizer, told that it is `now` where it writes the date (None: the clock)."""

    def __init__(self, tokenizer: Any, now: datetime | None = None) -> None:
        self._tokenizer = tokenizer
        self._pinned = {} if now is None else {"strftime_now": now.strftime}

    def __call__(self, messages: list[MessageDict], tools: list[dict[str, Any]] | None, *, asks: bool) -> str:
        written = self._tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=asks, tokenize=False, **self._pinned
        )
        return str(written)


class PromptLost(HeadraceError):
    """A prompt or an answer that a template refuses, or of which it drops something, in every form. `reason` for counting."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PromptForm(NamedTuple):
    """Messages and tools as they are given to the template, and what it writes: the prompt that the model answers."""

    messages: list[MessageDict]
    tools: list[dict[str, Any]] | None
    text: str


def template_prompt(template: Template, messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> PromptForm:
    """The first form of a prompt that the template takes whole. `messages` as `chat.conversation` makes them. PromptLost."""
    trouble: PromptLost | None = None
    for each, offered in _forms(messages, tools or ()):
        try:
            text = template(each, offered, asks=True)
        except Exception as error:  # a template is somebody's program
            trouble = trouble or PromptLost("template_refused", f"the chat template says {type(error).__name__}: {error}")
            continue
        lost = missing(each, offered, text, lambda form, names: template(form, names, asks=True))
        if lost is None:
            return PromptForm(each, offered, text)
        trouble = PromptLost("message_lost", f"the chat template drops {lost}")
    raise trouble or PromptLost("message_lost", "there is no message")


def answer_forms(answer: Message) -> Iterator[MessageDict]:
    """An answer as an assistant's message: its calls as objects, as JSON text, as text."""
    for calls in _CALLS if answer.tool_calls else _CALLS[:1]:
        yield from _dicts([answer], calls)


def missing(
    messages: Sequence[MessageDict],
    tools: Sequence[dict[str, Any]] | None,
    text: str,
    write: Callable[[list[MessageDict], list[dict[str, Any]] | None], str],
    *,
    thoughts: bool = False,
) -> str | None:
    """What of `messages` and `tools` is not in `text`, which `write` made of them: the first such thing, in words. Without
    `thoughts`, as templates leave them out of the history, which is what a served model meets too.

    Looked for twice: as it is, and as a word that stands nowhere else, since a short text may stand in another one."""
    squeezed = _squeezed(text)
    for message in messages:
        if (value := next((value for value in _texts(message, thoughts) if not _stands(value, squeezed)), None)) is not None:
            return f"{value[:60]!r} of a message of role {message['role']}"
    marks: list[tuple[str, str]] = []

    def marker(owner: str) -> ChangeText:
        def mark(value: str) -> str:
            if value.strip():
                marks.append((f"Qx{len(marks)}xQ", owner))
                return marks[-1][0]
            return value

        return mark

    marked = [_marked(message, marker(f"a message of role {message['role']}, or a call in it")) for message in messages]
    named = [{**tool, "function": {**tool["function"], "name": marker("a tool")(_name(tool))}} for tool in tools or ()]
    try:
        written = write(marked, named or None)
    except Exception:  # it looks into the texts, which are other ones now
        return None
    return next((owner for mark, owner in marks if mark not in written), None)


def _marked(message: MessageDict, change: ChangeText) -> MessageDict:
    """The message with each of its texts changed; roles and ids stay."""
    made = {**message, "content": change(message["content"])}
    if "tool_calls" in message:
        functions = [call["function"] for call in message["tool_calls"]]
        made["tool_calls"] = [
            {**call, "function": {"name": change(each["name"]), "arguments": changed_value(each["arguments"], change)}}
            for call, each in zip(message["tool_calls"], functions, strict=True)
        ]
    return made


_CALLS: tuple[Calls, ...] = ("object", "json", "text")
_ROLES: tuple[Roles, ...] = ("given", "system", "joined", "folded")


def _forms(messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[tuple[list[MessageDict], list[dict[str, Any]] | None]]:
    """Each form once: roles are changed before calls become text, and those before tools do."""
    calling = any(message.tool_calls or message.role == "tool" for message in messages)
    seen: list[tuple[list[MessageDict], list[dict[str, Any]] | None]] = []
    for told, calls, roles in product((False, True) if tools else (False,), _CALLS if calling else _CALLS[:1], _ROLES):
        offered = None if told else tool_dicts(tools)
        form = _dicts(_in_roles(_told(messages, tools) if told else messages, roles), calls, roles), offered
        if form not in seen:
            seen.append(form)
            yield form


def _told(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The tools as text of the system, behind what it says at the beginning."""
    first, text = messages[0], tools_text(tools)
    if first.role in ("system", "developer"):
        return [structs.replace(first, content=f"{first.content or ''}\n\n{text}"), *messages[1:]]
    return [Message(role="system", content=text), *messages]


def _in_roles(messages: Sequence[Message], roles: Roles) -> list[Message]:
    named: dict[str, Any] = {"given": {}, "system": {"developer": "system"}, "joined": {"developer": "system"}}.get(
        roles, {"developer": "user", "system": "user"}
    )
    return [structs.replace(message, role=named.get(message.role, message.role)) for message in messages]


def _dicts(messages: Sequence[Message], calls: Calls, roles: Roles = "given") -> list[MessageDict]:
    if calls == "text":
        messages = [_as_text(message) for message in messages]
    if roles in ("joined", "folded"):
        messages = _joined(messages)
    made = [message_dict(message) for message in messages]
    if calls == "json":
        for message in made:
            for call in message.get("tool_calls", ()):
                arguments = call["function"]["arguments"]
                call["function"]["arguments"] = arguments if isinstance(arguments, str) else canonical(arguments).decode()
    return made


def _as_text(message: Message) -> Message:
    """Without calls, and without the role of a tool: both as text, as in a plain prompt."""
    if message.role == "tool":
        return Message(role="user", content=f"tool: {text_of(message)}")
    return structs.replace(message, content=render(message), tool_calls=None) if message.tool_calls else message


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role as one message, a blank line between; not results of tools, which belong to a call each."""
    made: list[Message] = []
    for message in messages:
        if made and made[-1].role == message.role != "tool":
            texts = [each.content for each in (made[-1], message) if isinstance(each.content, str) and each.content]
            calls = [*(made[-1].tool_calls or ()), *(message.tool_calls or ())]
            made[-1] = structs.replace(made[-1], content="\n\n".join(texts), tool_calls=calls or None)
        else:
            made.append(message)
    return made


def _name(tool: dict[str, Any]) -> str:
    return str(tool["function"]["name"])


def _texts(message: MessageDict, thoughts: bool) -> list[str]:
    texts: list[str] = []

    def note(text: str) -> str:
        texts.append(text)
        return text

    pieces = _THOUGHT_TAG.split(message["content"]) if message["role"] == "assistant" else [message["content"]]
    _marked({**message, "content": ""}, note)
    return [*(pieces if thoughts else pieces[-1:]), *texts]


def _stands(value: str, squeezed: str) -> bool:
    """As text, or in JSON; templates trim, so white space does not count."""
    ways = (value, json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1])
    return any(_squeezed(way) in squeezed for way in ways)


def _squeezed(text: str) -> str:
    return "".join(text.split())
