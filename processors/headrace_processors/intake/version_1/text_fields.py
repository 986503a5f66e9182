"""Where text stands in an input event, and where only handles do. Knows the shape of the wire, not what is private.

Everything is text except what is listed here: ids, keys, digests, names of models and checks, and whatever else the pipeline
joins, groups or counts by. So fields that we do not know are treated as text. Names of fields are never text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# None: a handle, with all that is in it. A mapping: what is inside is looked up there, also for each item of a list.
Handles = Mapping[str, Any]
_NOTHING: Handles = {}
_REF: Handles = {"system": None, "id": None}
_MESSAGE: Handles = {
    "role": None,
    "tool_call_id": None,
    "tool_calls": {"id": None, "name": None},
    "content": {"type": None, "media_type": None, "sha256": None},
}
_DATA: Handles = {  # of all input events together: no name is a handle in one and text in another
    "interaction_id": None,
    "agent": {"name": None, "role": None, "version": None},
    "artifact_type": None,
    "model": None,
    "adapter": None,
    "prompt": _MESSAGE,
    "output": _MESSAGE,
    "context": {"id": None},
    "tools": {"name": None},
    "prompt_group": None,
    "session_id": None,
    "parent_interaction_id": None,
    "refs": _REF,
    "finish_reason": None,
    "error": {"type": None},
    "prompt_template": {"name": None, "version": None},
    "experiment": {"id": None, "arm": None},
    "data_subject": None,
    "ref": _REF,
    "feedback_id": None,
    "kind": None,
    "name": None,
    "corrected_output": _MESSAGE,
    "over": None,
    "under": None,
    "principal": {"id": None, "kind": None},
}
_EVENT: Handles = {
    "specversion": None,
    "id": None,
    "source": None,
    "type": None,
    "time": None,
    "subject": None,
    "dataschema": None,
    "datacontenttype": None,
    "traceparent": None,
    "data": _DATA,
}


class FirstTextField(NamedTuple):
    """One string of a JSON tree: `holder[key] == text`. Assigning to it changes the tree."""

    holder: Any
    key: Any
    text: str


def text_fields(event: dict[str, Any]) -> list[FirstTextField]:
    """All text of an input event given as plain JSON, nested at most as deep as the wire allows."""
    fields: list[FirstTextField] = []
    _collect(event, _EVENT, fields)
    return fields


def _collect(node: Any, handles: Handles, fields: list[FirstTextField]) -> None:
    if type(node) is dict:
        for name, child in node.items():
            inside = handles.get(name, _NOTHING)
            if inside is None:
                continue
            if type(child) is str:
                fields.append(FirstTextField(node, name, child))
            elif type(child) is dict or type(child) is list:
                _collect(child, inside, fields)
    else:
        for index, child in enumerate(node):
            if type(child) is str:
                fields.append(FirstTextField(node, index, child))
            elif type(child) is dict or type(child) is list:
                _collect(child, handles, fields)
