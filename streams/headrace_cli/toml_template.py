"""A commented TOML file to begin with, drawn from pydantic models: every key with its description and default. Knows no key.

`#key = value` is a default: without the # it loads to the same. `# text` is for people. What is given stands without a #.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from headrace_cli.allowed_values import allowed

WIDTH = 110
_BARE = re.compile(r"[A-Za-z0-9_-]+")


class _About(NamedTuple):
    """What is told about a key: its field, description and allowed values as sentences, and the model of a list's or a table's
    values."""

    field: FieldInfo
    told: str
    row: type[BaseModel] | None


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
    for name, about in _keys(type(instance)).items():
        default = getattr(instance, name)
        within = f"{table}.{key(name)}" if table else key(name)
        if isinstance(default, BaseModel):
            inner.append(_table(default, within, given.get(name, {})))
        elif isinstance(default, dict):
            inner.append(_mapping(about, default, within, given.get(name, {})))
        else:
            yield ""
            yield from _key(name, about, default, within, given)
    for lines in inner:
        yield ""
        yield from lines


def _key(name: str, about: _About, default: Any, within: str, given: Mapping[str, Any]) -> Iterator[str]:
    if name not in given and default is None:
        yield from comment(f"{name}: {about.told} Not set.")
        return
    yield from comment(about.told)
    if about.row is not None:
        yield from _holds(f"A table [[{within}]] for each, with:", about.row)
    if name in given:
        yield f"{key(name)} = {value(given[name])}"
    else:
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


def _mapping(about: _About, default: Mapping[str, Any], within: str, given: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield (
        f"#[{within}]" if default and not given else f"[{within}]"
    )  # an empty table would say that there are none, not that it is as usual
    yield from comment(about.told)
    if about.row is not None:
        yield from _holds(f"A table [{within}.NAME] for each, with:", about.row)
    for name, of in default.items():
        if isinstance(of, BaseModel):
            yield f"#[{within}.{key(name)}]"
            for inner, one in of:
                yield from _default(inner, one)
        else:
            yield from _default(name, of)
    for name, values in given.items():
        yield ""
        yield f"[{within}.{key(name)}]"
        for inner, of in values.items():
            yield f"{key(inner)} = {value(of)}"


def _holds(head: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"# {head}"
    for name, about in _keys(model).items():
        default = about.field.get_default(call_default_factory=True)
        unset = default is None or isinstance(default, (dict, BaseModel))
        end = "Required." if about.field.is_required() else "Not set." if unset else f"Default: {value(default)}."
        yield from (f"#   {line}" for line in textwrap.wrap(f"{key(name)}: {about.told} {end}", WIDTH - 2))


def _keys(model: type[BaseModel]) -> dict[str, _About]:
    schema = model.model_json_schema()["properties"]
    found = {}
    for name, field in model.model_fields.items():
        row = next(iter(_models(field.annotation)), None)
        values = "" if row else allowed(schema[name])
        sentences = [text for text in (field.description or "", values) if text not in ("", "text")]
        told = " ".join(f"{text[:1].upper()}{text[1:].rstrip('.')}." for text in sentences)
        found[name] = _About(field, told, row)
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # a JSON string is a TOML basic string
