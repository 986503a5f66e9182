"""When what a stage keeps is given up: so long after the last record about it, by fold time. Knows no stage and no clock.

Values that expire stand in the state as encoded bytes that begin with `touched`, the fold time in ms of the last record about
them: a driver asks a million of them for their deadline when it starts, and need not decode one.
"""

from __future__ import annotations

import re

from headrace_schemas.topics import DAY_MS

_HEAD = re.compile(rb'\{"touched":(\d+)')
_BEGIN = b'{"touched":'
_DIGITS = slice(len(_BEGIN), len(_BEGIN) + 13)  # of a time from 2001 to 2286
_END = slice(_DIGITS.stop, _DIGITS.stop + 1)


def period_ms(days: float) -> int:
    """0: never."""
    return int(days * DAY_MS)


def touched_of(value: bytes) -> int:
    """ValueError when the value does not begin as it should."""
    digits = value[_DIGITS]
    if value.startswith(_BEGIN) and digits.isdigit() and value[_END] in b",}":  # 0.3 us, the general way 0.9
        return int(digits)
    head = _HEAD.match(value)
    if head is None:
        raise ValueError(f"state: begins with {value[:40]!r}, not with the time of the last record about it")
    return int(head[1])
