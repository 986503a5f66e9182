"""How the state of curate stands on its changelog, today and in older versions of it. Knows bytes, decides nothing.

Buckets are JSON. There is a value for every example that ever came, written again at each change, and most of its JSON were names
of fields and digits of digests: 413 bytes, with a sketch 1,109, that are 150 and 663 as msgpack by place.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from msgspec import Struct, field, json, msgpack
from msgspec.structs import asdict, replace

from headrace_processors.curate.state import MEDIAN, CurateBucket, Deadlines, ExampleRecord, RecentMedian

_EXAMPLE = "example:"
_TYPES: dict[str, Any] = {"bucket": CurateBucket, MEDIAN: RecentMedian}
_EXAMPLES = msgpack.Decoder(ExampleRecord)
_PACKED = msgpack.Encoder()
JSON = json.Encoder()  # of everything else


def dump_example(record: ExampleRecord) -> bytes:
    """ValueError for a number that is not finite: JSON has none, and msgpack would not tell."""
    if isfinite(record.reward) and isfinite(record.balance) and isfinite(record.difficulty):
        return _PACKED.encode(record)
    raise _not_finite(record)


def load(key: str, value: bytes) -> Any:
    """ValueError when the key is none of curate's or the value is not what belongs to it."""
    if key.startswith(_EXAMPLE):
        record = _EXAMPLES.decode(value)
        if isfinite(record.reward) and isfinite(record.balance) and isfinite(record.difficulty):
            return record
        raise _not_finite(record)
    kind = _TYPES.get(key.partition(":")[0])
    if kind is None:
        raise ValueError(f"state key: {key!r} is none of curate's")
    return json.decode(value, type=kind)


def _not_finite(record: ExampleRecord) -> ValueError:
    return ValueError(f"example: reward {record.reward}, balance {record.balance}, difficulty {record.difficulty}: not finite")


def upcast_1(state: Mapping[str, bytes]) -> dict[str, bytes]:
    """A changelog of state version 1, which held slots, contents and all deadlines as values of their own, in version 2."""
    deadlines = json.decode(state.get("deadlines", b"[]"), type=Deadlines)
    current = {key: value for key, value in state.items() if key.startswith(_EXAMPLE) or key.partition(":")[0] in _TYPES}
    for due_ms, name in deadlines:
        if (value := current.get(f"bucket:{name}")) is not None:
            current[f"bucket:{name}"] = json.encode(replace(json.decode(value, type=CurateBucket), due_ms=due_ms))
    return current


def upcast_2(state: Mapping[str, bytes]) -> dict[str, bytes]:
    """One of version 2, which held examples as JSON, in version 3."""
    return {key: _upcast_example(value) if key.startswith(_EXAMPLE) else value for key, value in state.items()}


class _Example2(Struct):
    """An example in version 2."""

    revision: int
    status: str
    interaction_id: str = ""
    role: str | None = None
    split: str = "train"
    slot: int = -1
    content: str = ""
    reward: float = 0.0
    balance: float = 1.0
    difficulty: float = 0.0
    time_ns: int = 0
    sha256: str = ""
    offset: int = -1
    batch_id: str | None = None
    counter: str = field(name="box", default="")
    admitted: bool = False
    serving_epoch: int = field(name="era", default=-1)
    success: bool = False
    seen_ms: int = field(name="seen", default=0)
    again: bool = False
    right: bool = False
    sketch: bytes = b""
    principals: tuple[str, ...] = ()


def _upcast_example(value: bytes) -> bytes:
    fields = asdict(json.decode(value, type=_Example2))
    for name in ("content", "sha256", "batch_id"):
        fields[name] = bytes.fromhex((fields[name] or "").removeprefix("sha256:"))
    return _PACKED.encode(ExampleRecord(**fields))
