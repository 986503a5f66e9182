"""The goldens of state values, `[state key, value]` a line: values as the bytes that stand on a changelog. Decides nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec

GOLDENS = Path(__file__).parents[1] / "goldens" / "state"


class NoJson(msgspec.Struct, forbid_unknown_fields=True):
    """A value that is no JSON."""

    base64: bytes


def read(path: Path) -> list[tuple[str, bytes]]:
    pairs = [msgspec.json.decode(line, type=tuple[str, msgspec.Raw]) for line in path.read_bytes().splitlines()]
    return [(key, _packed(bytes(value))) for key, value in pairs]


def _packed(value: bytes) -> bytes:
    try:
        return msgspec.json.decode(value, type=NoJson).base64
    except msgspec.ValidationError:
        return value
