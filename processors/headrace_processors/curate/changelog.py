"""How the state of curate stands on its changelog, today and in older versions of it. Knows bytes, decides nothing.

There is a value for every example that ever came, written again at each change, and most of its JSON were names of fields and
digits of digests: 413 bytes, with a sketch 1,109, that are 149 and 662 as msgpack by place. A bucket is written at each step that
concerns it, of which its floats were most of the cost: msgpack by name, 3.4 us are 0.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from msgspec import Struct, field, json, msgpack
from msgspec.structs import asdict, replace

from headrace_processors.curate.state import (
    ASSESSED,
    BUCKET,
    MEDIAN,
    AssessedBucket,
    CurateBucket,
    Deadlines,
    ExampleRecord,
    RecentMedian,
    bucket_of,
)

_EXAMPLE = "example:"
_EXAMPLES = msgpack.Decoder(ExampleRecord)
_ASSESSED = msgpack.Decoder(AssessedBucket)
_PACKED = msgpack.Encoder()


def dump(value: Any) -> bytes:
    """ValueError for a number that is not finite: JSON has none, and msgpack would not tell."""
    kind = type(value)
    if kind is ExampleRecord:
        if not isfinite(value.reward + value.balance + value.difficulty):
            raise _not_finite(value)
    elif kind is CurateBucket:
        (one, two), answers = value.sums, value.answers
        counts = value.fill + value.target + one.value + two.value + value.trials.value + value.successes.value
        if not isfinite(counts + answers.mean + answers.sum + answers.least + (value.last_reward or 0.0)):
            raise _not_finite(value)
    elif kind is AssessedBucket:
        if not isfinite(value.fill):
            raise _not_finite(value)
    else:
        return json.encode(value)
    return _PACKED.encode(value)


def load(key: str, value: bytes) -> Any:
    """ValueError when the key is none of curate's or the value is not what belongs to it."""
    if key.startswith(_EXAMPLE):
        loaded: ExampleRecord | CurateBucket | AssessedBucket = _EXAMPLES.decode(value)
    elif key.startswith(BUCKET):
        loaded = bucket_of(value)
    elif key.startswith(ASSESSED):
        loaded = _ASSESSED.decode(value)
    elif key == MEDIAN:
        return json.decode(value, type=RecentMedian)
    else:
        raise ValueError(f"state key: {key!r} is none of curate's")
    dump(loaded)
    return loaded


def _not_finite(value: ExampleRecord | CurateBucket | AssessedBucket) -> ValueError:
    return ValueError(f"a number that is not finite can't be written: {value}"[:1000])


def upcast_1(state: Mapping[str, bytes]) -> dict[str, bytes]:
    """A changelog of state version 1, which held slots, contents and all deadlines as values of their own, in version 2."""
    deadlines = json.decode(state.get("deadlines", b"[]"), type=Deadlines)
    current = {key: value for key, value in state.items() if key.startswith((_EXAMPLE, BUCKET)) or key == MEDIAN}
    for due_ms, name in deadlines:
        if (value := current.get(f"{BUCKET}{name}")) is not None:
            current[f"{BUCKET}{name}"] = json.encode(replace(json.decode(value, type=CurateBucket), due_ms=due_ms))
    return current


def upcast_2(state: Mapping[str, bytes]) -> dict[str, bytes]:
    """One of version 2, which held examples and buckets as JSON, in version 3."""
    current = dict(state)
    for key, value in state.items():
        if key.startswith(_EXAMPLE):
            current[key] = _upcast_example(value)
        elif key.startswith(BUCKET):
            current[key] = _PACKED.encode(bucket_of(value))
    return current


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
