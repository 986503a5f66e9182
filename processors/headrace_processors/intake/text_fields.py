"""Where text stands in an input event, which names are text too, and where only handles do. Knows the shape, not what is private.

Everything is text except what is listed here: ids, keys and digests, and whatever else the pipeline joins, groups or counts by.
So fields that we do not know are text, and so are their names. Names of known fields are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from headrace_schemas.events import FeedbackRecorded, FeedbackRetracted, InputEvent, InteractionRecorded, InteractionRetracted
from headrace_schemas.inputs import ContextItem, Message, TextPart, ToolCall
from headrace_schemas.strict import free_values

# None: a handle, with all that is in it. A mapping: what is inside is looked up there, also for each item of a list.
Shape = Mapping[str, Any]
_FREE: Shape = {}
_TEXT: Shape = {}  # of a known name; what may be inside is as free
_REF: Shape = {"system": None, "id": None}
_CALL: Shape = {"id": _TEXT, "name": _TEXT, "arguments": _FREE}
_PART: Shape = {"type": None, "text": _TEXT, "media_type": _TEXT, "uri": _TEXT, "sha256": _TEXT}
_MESSAGE: Shape = {"role": None, "content": _PART, "tool_calls": _CALL, "tool_call_id": _TEXT}
_DATA: Shape = {  # of all input events together: no name is a handle in one and text in another
    "interaction_id": None,
    "agent": {"name": None, "role": _TEXT, "version": _TEXT},
    "artifact_type": None,
    "model": None,
    "adapter": None,
    "prompt": _MESSAGE,
    "output": _MESSAGE,
    "context": {"id": _TEXT, "content": _TEXT, "score": _TEXT},
    "tools": {"name": _TEXT, "description": _TEXT, "parameters": _FREE},
    "prompt_group": None,
    "session_id": _TEXT,
    "parent_interaction_id": None,
    "refs": _REF,
    "finish_reason": None,
    "error": {"type": _TEXT, "message": _TEXT},
    "prompt_template": {"name": _TEXT, "version": _TEXT},
    "experiment": {"id": None, "arm": None, "propensity": _TEXT},
    "data_subject": None,
    "ref": _REF,
    "feedback_id": None,
    "kind": None,
    "name": None,
    "corrected_output": _MESSAGE,
    "over": None,
    "under": None,
    "principal": {"id": None, "kind": None},
    "comment": _TEXT,
    "reason": _TEXT,
    "attributes": _FREE,
    "turn": _TEXT, "attempt": _TEXT, "latency_ms": _TEXT, "ttft_ms": _TEXT, "cost_usd": _TEXT, "usage": _TEXT, "train": _TEXT,
    "score": _TEXT, "scale": _TEXT,
}  # fmt: skip
_EVENT: Shape = {
    "specversion": None,
    "id": None,
    "source": None,
    "type": None,
    "time": None,
    "subject": _TEXT,
    "dataschema": _TEXT,
    "datacontenttype": _TEXT,
    "traceparent": None,
    "data": _DATA,
}


class TextField(NamedTuple):
    """One value of a JSON tree: `holder[key] == value`, a text or a free number; assigning to it changes the tree. `name` is what
    a free value is called, empty where the contract says what it is."""

    holder: Any
    key: Any
    value: Any
    name: str = ""


class TextFields(NamedTuple):
    """All text of an event: values, and (holder, name) of each name that is text."""

    values: list[TextField]
    names: list[tuple[dict[str, Any], str]]

    def texts(self) -> Iterator[str]:
        """Everything that is text, names included."""
        yield from (field.value for field in self.values if type(field.value) is str)
        yield from (name for _, name in self.names)

    def lines(self) -> Iterator[str]:
        """The same as a search wants it: a free value beside its name, as `name: "value"`."""
        for field in self.values:
            if field.name:
                yield f'{field.name}: "{field.value}"'
            elif type(field.value) is str:
                yield field.value


def text_fields(event: dict[str, Any]) -> TextFields:
    """All text of an input event given as plain JSON, nested at most as deep as the wire allows."""
    fields = TextFields([], [])
    _collect(event, _EVENT, fields)
    return fields


def rename(holder: dict[str, Any], names: Mapping[str, str]) -> None:
    """Gives values of an object other names, each in its place; of two that would have the same the later one gets a mark."""
    items = list(holder.items())
    holder.clear()
    for name, value in items:
        new = names.get(name, name)
        while new in holder:
            new += "'"
        holder[new] = value


def common_texts(event: InputEvent) -> list[str]:
    """The lines of a strictly decoded event without its tree: all that is text, with the fields that few events have."""
    lines: list[str] = []
    if isinstance(event, InteractionRecorded):
        data, agent = event.data, event.data.agent
        for content in (data.prompt, data.output, data.context):
            if type(content) is str:
                lines.append(content)
            elif content is not None:
                _messages(content if type(content) is list else (content,), lines)
        lines += filter(None, (agent.role, agent.version, data.session_id))
        for tool in data.tools or ():
            lines += (tool.name, tool.description or "")
        if data.error is not None:
            lines += (data.error.type, data.error.message)
        if data.prompt_template is not None:
            lines += (data.prompt_template.name, data.prompt_template.version or "")
        free = free_values(event)
    elif isinstance(event, FeedbackRecorded):
        lines.append(event.data.comment or "")
        if event.data.corrected_output is not None:
            _messages((event.data.corrected_output,), lines)
        free = free_values(event)
    else:
        free = ()
        if isinstance(event, InteractionRetracted | FeedbackRetracted):
            lines.append(event.data.reason or "")
    lines += filter(None, (event.subject, event.dataschema, event.datacontenttype))
    for value in free:
        _free_lines("", value, lines)
    return lines


def _free_lines(name: str, value: Any, lines: list[str]) -> None:
    """As `TextFields.lines`, of a free value that is called `name`, and of names whose values are no text too."""
    kind = type(value)
    if kind is str or kind is int:
        lines.append(f'{name}: "{value}"' if name else str(value))
    elif kind is dict:
        for key, item in value.items():
            lines.append(key)
            if type(item) is str and key != "value":
                lines.append(f'{key}: "{item}"' if key else item)
            elif item is not None and item is not True and item is not False:  # the next level would say nothing of them
                _free_lines(_named(value, key) if key == "value" else key, item, lines)
    elif kind is list:
        for item in value:
            _free_lines(name, item, lines)


def _messages(messages: Any, lines: list[str]) -> None:
    for message in messages:
        if isinstance(message, ContextItem):
            lines += (message.content, message.id or "")
            continue
        if not isinstance(message, Message):
            lines.append(message)
            continue
        if isinstance(message.content, str):
            lines.append(message.content)
        else:
            for part in message.content or ():
                lines += (part.text,) if isinstance(part, TextPart) else (part.media_type, part.uri, part.sha256 or "")
        lines.append(message.tool_call_id or "")
        calls: list[ToolCall] = message.tool_calls or []
        lines += (text for call in calls for text in (call.id, call.name))


def _collect(node: Any, shape: Shape, fields: TextFields, name: str = "") -> None:
    """Into `fields` what is text in an object or a list. `name` is that of the list, which is its items' too."""
    if type(node) is dict:
        for key, child in node.items():
            inside = shape.get(key, _FREE)
            if inside is None:
                continue
            known = key in shape
            if not known:
                fields.names.append((node, key))
            if type(child) is dict or type(child) is list:
                _collect(child, inside, fields, "" if known else key)
            elif type(child) is str or (type(child) is int and not known and key):
                fields.values.append(TextField(node, key, child, "" if known else _named(node, key)))
    else:
        for index, child in enumerate(node):
            if type(child) is dict or type(child) is list:
                _collect(child, shape, fields, name)
            elif type(child) is str or (name and type(child) is int):
                fields.values.append(TextField(node, index, child, name))


def _named(node: dict[str, Any], key: str) -> str:
    """The name of a free value; in {"name": "password", "value": "…"} it is the name that stands beside it."""
    if key == "value":
        for beside in ("name", "key", "variable", "field", "header"):
            if type(node.get(beside)) is str:
                return str(node[beside])
    return key
