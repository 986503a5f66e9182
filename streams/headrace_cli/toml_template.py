"""A commented TOML file to begin with, drawn from pydantic models: every key with its description and default. Knows no key.

`#key = value` is a default: without the # it loads to the same. `# text` is for people. What is given stands without a #.
"""

from __future__ import annotations

import json
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

WIDTH = 110
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BOUNDS = ((Gt, "gt", "above"), (Ge, "ge", "at least"), (Lt, "lt", "below"), (Le, "le", "at most"))
_KINDS: dict[Any, str] = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


class _Shape(NamedTuple):
    """What an annotation says: its core without Annotated and None, and its bounds."""

    core: Any
    bounds: tuple[str, ...]


def render(instance: BaseModel, table: str = "", given: Mapping[str, Any] | None = None) -> str:
    """All keys of `instance` as the lines of `[table]` and of the tables in it. `given` is merged in, without #."""
    return "\n".join(_table(instance, table, given or {})).strip() + "\n"


def key(*names: str) -> str:
    """A dotted TOML key: `train.bases."org/name"`."""
    return ".".join(name if _BARE.fullmatch(name) else _string(name) for name in names)


def value(of: Any) -> str:
    """A TOML value: text, number, bool or a list of such."""
    if isinstance(of, bool):
        return str(of).lower()
    if isinstance(of, (list, tuple)):
        return f"[{', '.join(map(value, of))}]"
    return repr(of) if isinstance(of, (int, float)) else _string(str(of))


def comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), WIDTH)]


def _table(instance: BaseModel, table: str, given: Mapping[str, Any]) -> Iterator[str]:
    inner: list[Iterator[str]] = []
    if table:
        yield f"[{table}]"
        yield from comment(type(instance).__doc__ or "")
    for name, field in type(instance).model_fields.items():
        default = getattr(instance, name)
        within = f"{table}.{key(name)}" if table else key(name)
        if isinstance(default, BaseModel):
            inner.append(_table(default, within, given.get(name, {})))
        elif isinstance(default, dict):
            inner.append(_mapping(field, default, within, given.get(name, {})))
        else:
            yield ""
            yield from _key(name, field, default, within, given)
    for lines in inner:
        yield ""
        yield from lines


def _key(name: str, field: FieldInfo, default: Any, within: str, given: Mapping[str, Any]) -> Iterator[str]:
    if name in given:
        yield from comment(_told(field))
        yield f"{key(name)} = {value(given[name])}"
    elif default is None:
        yield from comment(f"{name}: {_told(field)} Not set; {_kind(_shape(field).core)}.")
    else:
        row = _row_model(field)
        yield from comment(_told(field))
        if row is not None:
            yield from _holds(f"A table [[{within}]] for each, with:", row)
        yield from _default(name, default)


def _default(name: str, of: Any) -> Iterator[str]:
    line = f"#{key(name)} = {value(of)}"
    if len(line) <= WIDTH or not isinstance(of, (list, tuple)):
        yield line
        return
    yield f"#{key(name)} = ["
    for item in of:
        yield f"#{value(item)},"
    yield "#]"


def _mapping(field: FieldInfo, default: Mapping[str, Any], within: str, given: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield f"[{within}]"
    yield from comment(_told(field))
    row = _row_model(field)
    if row is not None:
        yield from _holds(f"A table [{within}.NAME] for each, with:", row)
    for name, of in default.items():
        yield from _default(name, of)
    for name, values in given.items():
        yield ""
        yield f"[{within}.{key(name)}]"
        for inner, of in values.items():
            yield f"{key(inner)} = {value(of)}"


def _holds(head: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"# {head}"
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if field.is_required():
            end = f"Required; {_kind(_shape(field).core)}."
        elif default is None or isinstance(default, (dict, BaseModel)):
            end = f"Not set; {_kind(_shape(field).core)}."
        else:
            end = f"Default: {value(default)}."
        yield from (f"#   {line}" for line in textwrap.wrap(f"{key(name)}: {_told(field)} {end}".replace("  ", " "), WIDTH - 2))


def _told(field: FieldInfo) -> str:
    """The description as a sentence, and what is allowed."""
    text = (field.description or "").strip()
    text = f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}" if text else ""
    shape = _shape(field)
    choices = get_args(shape.core) if get_origin(shape.core) is Literal else ()
    several = [choice for inner in get_args(shape.core) if get_origin(inner) is Literal for choice in get_args(inner)]
    if choices:
        text += f" One of {', '.join(map(value, choices))}."
    elif several:
        text += f" Any of {', '.join(map(value, several))}."
    elif shape.bounds:
        text += f" {', '.join(shape.bounds).capitalize()}."
    return text.strip()


def _shape(field: FieldInfo) -> _Shape:
    return _unwrap(field.annotation, _bounds(field.metadata))


def _unwrap(annotation: Any, bounds: tuple[str, ...]) -> _Shape:
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return _unwrap(inner, bounds + _bounds(metadata))
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return _unwrap(members[0], bounds)
    return _Shape(annotation, bounds)


def _bounds(metadata: Any) -> tuple[str, ...]:
    flat = [inner for item in metadata for inner in (item.metadata if isinstance(item, FieldInfo) else (item,))]
    return tuple(f"{word} {getattr(item, name):g}" for kind, name, word in _BOUNDS for item in flat if isinstance(item, kind))


def _row_model(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a list's or a mapping's values, where they are models."""
    for inner in get_args(_shape(field).core):
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            return inner
    return None


def _kind(core: Any) -> str:
    if get_origin(core) is Literal:
        return "a text"
    origin = get_origin(core) or core
    if origin in (list, tuple):
        return "a list"
    return "a table" if origin is dict else _KINDS.get(core, "a text")


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # a JSON string is a TOML basic string
