"""Twins of event structs, made from them: the same fields in the same order, some with other types. Knows no event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec
from msgspec import NODEFAULT, Struct


def struct_twin(
    kind: type[Struct], typed: Callable[[str, Any], Any], module: str, *, forbid_unknown_fields: bool = False
) -> type[Struct]:
    """A subclass of `kind` that encodes to the same bytes. `typed(name, annotation)` is the type that a field has in it."""
    config, hints = kind.__struct_config__, get_type_hints(kind, include_extras=True)
    fields = []
    for field in msgspec.structs.fields(kind):
        twin = typed(field.name, hints[field.name])
        fields.append((field.name, twin) if field.default is NODEFAULT else (field.name, twin, field.default))
    return msgspec.defstruct(
        kind.__name__,
        fields,
        bases=(kind,),
        module=module,
        frozen=True,
        kw_only=True,
        omit_defaults=config.omit_defaults,
        forbid_unknown_fields=forbid_unknown_fields,
        tag_field=config.tag_field,
        tag=config.tag,
    )
