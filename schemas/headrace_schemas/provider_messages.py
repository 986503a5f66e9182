"""What model libraries return, in the contract's form: messages, parts, tools, finish reasons, usage. Pure; imports no library.

Read are the shapes of OpenAI (chat completions; items of the Responses API) and Anthropic (messages and their blocks), as plain
dictionaries or as the libraries' objects, single messages or whole responses. What is in the contract's form already is handed
back as it is, unknown fields included. Where something has to be decided:

- Bytes never go onto the log: images, audio and files that come inline (base64, `data:`) become references by their SHA-256.
- What a provider did by itself is left out: thinking, and tools that ran on its side, with their results.
- Tool results inside a user's message become messages of role `tool` before what is left of it.
- Arguments of a tool call that are a JSON object as text become that object; other text stays text.

What is malformed raises DecodeError (field and value): a role or part that is not known, a call or tool without a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from headrace_schemas.errors import DecodeError, clipped
from headrace_schemas.json_limits import check_limits, tree_of
from headrace_schemas.provider_files import FILE_PARTS, file_parts, inline, list_in, text_in

ROLES = ("system", "developer", "user", "assistant", "tool")
FINISH_REASONS = {
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "completed": "stop",
    "failed": "error",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "pause_turn": "other",
}
"""A provider's word for why an output ended, where it is not the contract's."""

_TEXT_PARTS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of parts that are text, and where it stands."""
_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
_RAN_THERE = frozenset(
    {
        "server_tool_use",
        "mcp_tool_use",
        "container_upload",
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "image_generation_call",
        "mcp_call",
        "mcp_list_tools",
    }
)
_WRAPPING = 8  # levels of an event around the arguments of a call


class Response(NamedTuple):
    """An output, and what a whole response says beside it (None where it says nothing)."""

    output: Any
    finish_reason: Any = None
    usage: Any = None


def prompt_of(value: Any, field: str = "data.prompt") -> Any:
    """A prompt: text, messages, or the arguments of a request (`messages`, and `system` before them)."""
    value = _plain(value)
    if isinstance(value, Mapping) and "messages" in value:
        system = [{"role": "system", "content": value["system"]}] if value.get("system") else []
        value = [*system, *value["messages"]] if isinstance(value["messages"], list | tuple) else value["messages"]
    if not isinstance(value, list | tuple):
        return value
    messages: list[Any] = []
    for index, item in enumerate(value):
        made = _messages(item, f"{field}[{index}]")
        if _is_item(item) and messages and made and _continues(messages[-1], made[0]):
            messages[-1] = _joined(messages[-1], made[0])
        else:
            messages += made
    return messages


def response_of(value: Any, field: str = "data.output") -> Response:
    """An output: text, a message, its parts, a choice, or a whole response with finish reason and usage."""
    value = _plain(value)
    if isinstance(value, list | tuple):
        return Response(_from_items(value, field))
    if not isinstance(value, Mapping):
        return Response(value)
    usage = usage_of(value.get("usage"))
    if "choices" in value:
        choices = value["choices"]
        if not isinstance(choices, list | tuple) or len(choices) != 1:
            message = f"{field}.choices: exactly one is an output, each of several an interaction; it is {clipped(choices)}"
            raise DecodeError("bad_value", f"{field}.choices", message)
        return response_of(choices[0], f"{field}.choices[0]")._replace(usage=usage)
    if "message" in value and "role" not in value:
        output = _one(_messages(value["message"], f"{field}.message"), field)
        return Response(output, finish_reason_of(value.get("finish_reason")))
    if value.get("object") == "response":
        details = _plain(value.get("incomplete_details"))
        reason = details.get("reason") if isinstance(details, Mapping) else value.get("status")
        output = _from_items(value.get("output"), f"{field}.output")
        called = isinstance(output, Mapping) and "tool_calls" in output and reason == "completed"
        return Response(output, "tool_calls" if called else finish_reason_of(reason), usage)
    output = _one(_messages(value, field), field)
    return Response(output, finish_reason_of(value.get("stop_reason")), usage) if _is_whole(value) else Response(output)


def tools_of(value: Any, field: str = "data.tools") -> Any:
    """Tools that a model could call, as {name, description?, parameters?}."""
    if not isinstance(value, list | tuple):
        return value
    return [_tool(_plain(item), f"{field}[{index}]") for index, item in enumerate(value)]


def finish_reason_of(value: Any) -> Any:
    """The contract's word for why an output ended; an unknown one stays, for the decoder to refuse."""
    return FINISH_REASONS.get(value, value) if isinstance(value, str) else value


def usage_of(value: Any) -> Any:
    """Tokens as the provider counted them, as `input_tokens` and `output_tokens`; whatever else it says stays."""
    value = _plain(value)
    names = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
    if not isinstance(value, Mapping) or set(names.values()) & set(value):
        return value
    return {names.get(name, name): count for name, count in value.items()}


def _plain(value: Any) -> Any:
    """A library's object as a dictionary; anything else as it is."""
    return value.model_dump(mode="json", exclude_none=True) if hasattr(value, "model_dump") else value


def _tool(tool: Any, field: str) -> Any:
    if not isinstance(tool, Mapping):
        return tool
    kind = tool.get("type")
    inner = _plain(tool.get(kind)) if kind in ("function", "custom") else None
    if isinstance(inner, Mapping):
        text_in(inner, "name", f"{field}.{kind}")
        return {name: inner[name] for name in ("name", "description", "parameters") if inner.get(name) is not None}
    if "input_schema" in tool:
        return {"parameters" if name == "input_schema" else name: given for name, given in tool.items()}
    if "name" not in tool and isinstance(kind, str) and kind not in ("function", "custom"):
        return {**tool, "name": kind}  # a tool of the provider's own is known by its type
    return tool


def _is_whole(message: Mapping[str, Any]) -> bool:
    """Whether it is a whole response, or an item that is a message: what is beside role and content is no part of a message."""
    return message.get("type") == "message"


def _is_item(value: Any) -> bool:
    """Whether it is an item of the Responses API other than a message: a call, a result, a thought."""
    value = _plain(value)
    return isinstance(value, Mapping) and "role" not in value and isinstance(value.get("type"), str)


def _from_items(items: Any, field: str) -> Any:
    """One assistant's message out of the blocks or items of a response."""
    if not isinstance(items, list | tuple) or not all(isinstance(_plain(item), Mapping) for item in items):
        raise DecodeError("wrong_type", field, f"{field}: text, a message or the parts of one; it is {clipped(items)}")
    parts: list[Any] = []
    for index, item in enumerate(map(_plain, items)):
        content = item.get("content")
        if "role" not in item:
            parts.append(item)
        elif item["role"] == "assistant" and isinstance(content, str | list | tuple):
            parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
        else:
            message = f"{field}[{index}]: one message of the assistant is an output; it is {clipped(item)}"
            raise DecodeError("bad_value", f"{field}[{index}]", message)
    return _one(_messages({"role": "assistant", "content": parts}, field), field)


def _one(messages: Sequence[Any], field: str) -> Any:
    if len(messages) != 1:
        raise DecodeError("bad_value", field, f"{field}: one message of the assistant is an output; it is {clipped(messages)}")
    return messages[0]


def _continues(before: Any, after: Any) -> bool:
    return all(isinstance(message, Mapping) and message.get("role") == "assistant" for message in (before, after))


def _joined(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """A call is an item of its own beside the message that it belongs to."""
    calls = [*(before.get("tool_calls") or ()), *(after.get("tool_calls") or ())]
    return {**before, "tool_calls": calls} if calls else dict(before)


def _messages(value: Any, field: str) -> list[Any]:
    """The messages that a provider's message or item stands for: none for a thought, several where it holds tool results."""
    message = _plain(value)
    if not isinstance(message, Mapping):
        return [message]
    if "role" not in message and isinstance(message.get("type"), str):
        found = _Content()
        found.take(message, field)
        if found.parts:
            raise DecodeError("missing", f"{field}.role", f"{field}.role: required, but absent; it is {clipped(message)}")
        called = {"role": "assistant", "content": None, "tool_calls": found.calls}
        return [*found.results, called] if found.calls else found.results
    role = message.get("role")
    if role == "function":  # OpenAI's older way: results are told apart by name
        call_id = text_in(message, "name", field)
        return [{"role": "tool", "content": message.get("content"), "tool_call_id": call_id}]
    if isinstance(role, str) and role not in ROLES:
        raise DecodeError("bad_value", f"{field}.role", f"{field}.role: no role that is known here; it is {clipped(role)}")
    made = {name: given for name, given in message.items() if name in ("role", "content") or not _is_whole(message)}
    content, found = message.get("content"), _Content()
    if isinstance(content, list | tuple):
        for index, part in enumerate(content):
            found.take(part, f"{field}.content[{index}]")
        if found.results and not found.parts and not found.calls:
            return found.results
        made["content"] = found.parts or (None if content else [])
    elif content is None and isinstance(message.get("refusal"), str):
        made["content"] = made.pop("refusal")
    elif content is None and isinstance(audio := _plain(message.get("audio")), Mapping):
        del made["audio"]
        spoken = [{"type": "text", "text": audio["transcript"]}] if isinstance(audio.get("transcript"), str) else []
        made["content"] = [*spoken, inline(text_in(audio, "data", f"{field}.audio"), "audio/*", f"{field}.audio.data")]
    calls = message.get("tool_calls")
    if isinstance(calls, list | tuple):
        made["tool_calls"] = [_call(call, f"{field}.tool_calls[{index}]") for index, call in enumerate(calls)]
    elif isinstance(called := _plain(message.get("function_call")), Mapping):
        name = text_in(called, "name", f"{field}.function_call")
        del made["function_call"]
        made["tool_calls"] = [{"id": name, "name": name, "arguments": _arguments(called.get("arguments"))}]
    if found.calls:
        made["tool_calls"] = [*(made.get("tool_calls") or ()), *found.calls]
    return [*found.results, made]


def _call(value: Any, field: str) -> Any:
    call = _plain(value)
    if not isinstance(call, Mapping):
        return call
    if isinstance(function := _plain(call.get("function")), Mapping):
        arguments = _arguments(function.get("arguments"))
        named: Any = {"id": call.get("id"), "name": text_in(function, "name", f"{field}.function"), "arguments": arguments}
    elif isinstance(custom := _plain(call.get("custom")), Mapping):
        named = {"id": call.get("id"), "name": text_in(custom, "name", f"{field}.custom"), "arguments": custom.get("input")}
    else:
        return call
    text_in(named, "id", field)
    return named


def _arguments(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        raw = value.encode()
        check_limits(b"[" * _WRAPPING + raw + b"]" * _WRAPPING)  # it may be as deep as an event can hold it
        parsed = tree_of(raw)
    except (DecodeError, UnicodeEncodeError):
        return value
    return parsed if isinstance(parsed, dict) else value


class _Content:
    """The parts of a message, sorted: what stays a part, calls of tools, and messages with their results."""

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.calls: list[Any] = []
        self.results: list[Any] = []

    def take(self, value: Any, field: str) -> None:
        part = _plain(value)
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("text", "ref") or not isinstance(kind, str):
            self.parts.append(part)  # in the contract's form, or for the decoder to name
        elif kind in _TEXT_PARTS:
            self.parts.append({"type": "text", "text": text_in(part, _TEXT_PARTS[kind], field)})
        elif kind in FILE_PARTS:
            self.parts += self._file(part, kind, field)
        elif kind == "search_result":
            self.parts += _parts(list_in(part, "content", field), f"{field}.content")
        elif kind == "tool_use":
            name = text_in(part, "name", field)
            self.calls.append({"id": text_in(part, "id", field), "name": name, "arguments": part.get("input")})
        elif kind in ("function_call", "custom_tool_call"):
            name, given = text_in(part, "name", field), part.get("arguments", part.get("input"))
            self.calls.append({"id": text_in(part, "call_id", field), "name": name, "arguments": _arguments(given)})
        elif kind == "tool_result":
            self.results.append(_result(text_in(part, "tool_use_id", field), part.get("content"), f"{field}.content"))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self.results.append(_result(text_in(part, "call_id", field), part.get("output"), f"{field}.output"))
        elif not (kind in _THOUGHTS or kind in _RAN_THERE or kind.endswith("_tool_result")):
            message = f"{field}.type: no part of a message that is known here; it is {clipped(kind)}"
            raise DecodeError("bad_value", f"{field}.type", message)

    def _file(self, part: Mapping[str, Any], kind: str, field: str) -> list[Any]:
        source = part.get("source")
        if not (isinstance(source, Mapping) and source.get("type") == "content"):
            return file_parts(part, kind, field)
        content, field = source.get("content"), f"{field}.source"
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        return _parts(list_in(source, "content", field), f"{field}.content")


def _parts(content: Iterable[Any], field: str) -> list[Any]:
    """Parts where calls and results have no place, as in a result."""
    found = _Content()
    for index, part in enumerate(content):
        found.take(part, f"{field}[{index}]")
    if found.calls or found.results:
        raise DecodeError("bad_value", field, f"{field}: no place for calls and results; it is {clipped(content)}")
    return found.parts


def _result(call_id: str, content: Any, field: str) -> dict[str, Any]:
    content = _plain(content)
    if isinstance(content, list | tuple):
        content = _parts(content, field)
    return {"role": "tool", "content": content, "tool_call_id": call_id}
