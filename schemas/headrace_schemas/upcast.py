"""The place of upcasters: how an event of an older version becomes one of the next. Works on plain JSON, before any typing.

An event type's version is the number at its end. When `data` changes so that old records no longer read, the struct gets the
new number, the old form's golden sample stays, and a function that turns the old tree into the new one is added here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from headrace_schemas.errors import DecodeError

Tree = dict[str, Any]
Upcaster = Callable[[Tree], Tree]
Table = Mapping[tuple[str, int], Upcaster]

UPCASTERS: dict[tuple[str, int], Upcaster] = {}  # (type without its version, version that is read) -> to the next version
_VERSIONED = re.compile(r"(.+)\.v([1-9][0-9]{0,3})", re.DOTALL)


def upcast(tree: Any, table: Table = UPCASTERS) -> Tree | None:
    """The same event some versions later, as far as the table goes; None when it has no step for this type and version.

    The input is not changed. DecodeError when a step cannot read what is there: nothing has been validated yet.
    """
    match = _VERSIONED.fullmatch(tree["type"]) if isinstance(tree, dict) and isinstance(tree.get("type"), str) else None
    if match is None or (match[1], int(match[2])) not in table:
        return None
    name, version = match[1], int(match[2])
    while (step := table.get((name, version))) is not None:
        try:
            tree = step(dict(tree))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DecodeError("wrong_type", "data", f"data: not readable as {name}.v{version}: {error!r}") from None
        version += 1
    return {**tree, "type": f"{name}.v{version}"}
