"""Records and batches that nobody should publish, from a seed: the same seed, topic and number make the same bytes. Knows JSON,
CloudEvents' headers and what each topic holds; judges nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from headrace_schemas.topics import BY_NAME
from headrace_streams.testing import written_headers
from support.batches import CODECS, batch, batch_of, packed, record, text, varint
from support.inputs_of import inputs_of

GOLDENS = Path(__file__).parents[1] / "goldens"
MIB = 1024 * 1024
INPUTS = ("interactions", "feedback")
Headers = list[tuple[bytes, bytes | None]]


class HostileRecord(NamedTuple):
    """As a publisher sends it."""

    key: bytes | None
    value: bytes | None
    headers: Headers


class HostileBatch(NamedTuple):
    """`data` is a whole batch of so many `records`; `kind` says what is odd about it."""

    data: bytes
    records: int
    kind: str


def _compacted(topic: str) -> bool:
    """Whether brokers refuse records without a key."""
    return topic not in BY_NAME or BY_NAME[topic].compacted


def samples(topic: str) -> tuple[bytes, ...]:
    """Valid events of every type that a topic holds."""
    try:
        return inputs_of(topic)
    except KeyError:
        types = [event.__struct_config__.tag for event in BY_NAME[topic].events]
        return tuple((GOLDENS / f"{name}.json").read_bytes() for name in types)


def records(topic: str, seed: object) -> Iterator[HostileRecord]:
    """Without end."""
    chance = random.Random(f"{seed}/{topic}")
    known = samples(topic)
    ours = [(name.encode(), value) for name, value in written_headers(topic)]  # forged, as any writer could
    while True:
        make = chance.choices(_KINDS, _WEIGHTS)[0]
        value: bytes | None = make(chance, known)
        headers: Headers = list(ours) if chance.random() < 0.8 else []
        if chance.random() < 0.1:
            value, headers = _binary(chance, value)
        elif chance.random() < 0.05:
            headers += [(_odd_name(chance), _bytes(chance, 20)) for _ in range(chance.choice((1, 1, 3, 40)))]
        key = _key(chance)
        yield HostileRecord(b"" if key is None and _compacted(topic) else key, value, headers)


def mutations(known: tuple[bytes, ...], seed: object) -> Iterator[bytes]:
    """What becomes of JSON objects that somebody else wrote, without end."""
    chance = random.Random(f"{seed}/mutations")
    while True:
        yield chance.choices(_KINDS, _WEIGHTS)[0](chance, known) or b""


def batches(topic: str, seed: object, count: int, *, append_time: int = 0, broken: bool = False) -> Iterator[HostileBatch]:
    """Batches of `records`, `count` records in all. One in 200 is a bomb; `broken`: one in 20 is such as no broker takes."""
    chance = random.Random(f"{seed}/{topic}/batches")
    source = records(topic, seed)
    while count > 0:
        size = min(count, chance.choice((1, 10, 100, 300)))
        fate = chance.random()
        if fate < 0.005:
            rows, kind = _bomb(chance, b"k" if _compacted(topic) else None)
            rows = rows[:count]
            made = batch_of(chance.choice(("gzip", "lz4", "zstd")), rows, append_time=append_time)
            size = len(rows)
        elif broken and fate < 0.05:
            codec, kind = chance.choice(sorted(CODECS)), "broken"
            rows = [record(offset, *next(source)) for offset in range(size)]
            made = batch(codec, _spoilt(chance, codec, b"".join(rows)), size, append_time=append_time)
        else:
            codec, kind = chance.choice(sorted(CODECS)), "plain"
            made = batch_of(codec, [record(offset, *next(source)) for offset in range(size)], append_time=append_time)
        count -= size
        yield HostileBatch(made, size, kind)


def _valid(chance: random.Random, known: tuple[bytes, ...]) -> bytes:
    """Other ids, of which there are few, so that records speak of each other."""
    value = chance.choice(known)
    return re.sub(rb'"([if])(\d+)"', lambda match: b'"%s%d"' % (match[1], chance.randrange(300)), value)


def _flipped(chance: random.Random, known: tuple[bytes, ...]) -> bytes:
    """Bytes changed, removed, put in, or repeated."""
    value = bytearray(_valid(chance, known))
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(value) + 1)
        match chance.randrange(4):
            case 0:
                value[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del value[at : at + chance.choice((1, 1, 30))]
            case 2:
                value[at:at] = chance.choice((b'"', b"{", b"]", b"\\", b"\0", b"\xff", b"\xed\xa0\x80", b"9" * 400, b"\\ud800"))
            case _:
                value[at:at] = value[at : at + 60]
        if not value:
            break
    return bytes(value)


_ATOMS: list[Callable[[random.Random], Any]] = [
    lambda chance: None,
    lambda chance: chance.choice((True, False)),
    lambda chance: chance.choice((0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1)),
    lambda chance: chance.choice((0.0, -0.0, 1e308, -1e308, 1.7e308, 5e-324, 1.0, 0.1 + 0.2)),
    lambda chance: "x" * chance.choice((0, 1, 201, 20_000)),
    lambda chance: "".join(chr(chance.choice((0, 7, 10, 0x7F, 0x85, 0x200B, 0x202E, 0xFEFF, 0x1F600, 0x61))) for _ in range(9)),
    lambda chance: chance.choice(("1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-02-30T00:00:00Z", "now", "2026-01-01")),
    lambda chance: [],
    lambda chance: {},
    lambda chance: {"": {"": [None]}},
    lambda chance: [chance.randrange(9) for _ in range(chance.choice((1, 1000)))],
    lambda chance: {f"k{number}": number for number in range(chance.choice((1, 500)))},
    lambda chance: [{"role": "user", "content": [{"type": "text", "text": "x"}]}, {"role": "tool"}, {"role": 7}],
    lambda chance: {"type": chance.choice(("text", "image_url", "")), "text": 5},
    lambda chance: _nested(chance.choice((3, 62, 70, 900))),
]


def _nested(depth: int) -> Any:
    made: Any = []
    for _ in range(depth):
        made = [made]
    return made


def _retyped(chance: random.Random, known: tuple[bytes, ...]) -> bytes:
    """Places in the tree with something else, renamed, or removed."""
    value = _valid(chance, known)
    form = msgspec.json if value[:1] == b"{" else msgspec.msgpack  # as some state values are
    tree = form.decode(value)
    for _ in range(chance.choice((1, 1, 1, 3))):
        holder, last = tree, chance.randrange(len(tree)) if isinstance(tree, list) else chance.choice(sorted(tree) or [""])
        while isinstance(holder.get(last) if isinstance(holder, dict) else holder[last], dict | list) and chance.random() < 0.8:
            inner = holder[last]
            if not inner:
                break
            holder, last = inner, chance.choice(sorted(inner)) if isinstance(inner, dict) else chance.randrange(len(inner))
        match chance.randrange(5):
            case 0 if isinstance(holder, dict):
                holder.pop(last, None)
            case 1 if isinstance(holder, dict):
                holder[chance.choice(("type", "data", "id", "mystery", "", "interaction_id"))] = holder.pop(last, None)
            case _:
                holder[last] = chance.choice(_ATOMS)(chance)
        if not tree:
            break
    try:
        written: bytes = form.encode(tree)
        return written
    except (ValueError, OverflowError, RecursionError):
        return b"{}"


def _twice(chance: random.Random, known: tuple[bytes, ...]) -> bytes:
    """Names of an object that occur more than once."""
    value = _valid(chance, known)
    names = re.findall(rb'"[a-z_]+":', value)
    name = chance.choice(names) if names else b'"id":'
    at = chance.choice([match.end() for match in re.finditer(rb"\{", value)] or [0])
    return value[:at] + name + chance.choice((b"1,", b'"x",', b"null,", b"{},", b'"\\ud800",')) + value[at:]


def _deep(chance: random.Random, known: tuple[bytes, ...]) -> bytes:
    depth = chance.choice((60, 65, 500, 1000, 10_000, 100_000))
    opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    deep = opening * depth + b"1" + closing * depth
    value = _valid(chance, known)
    return deep if chance.random() < 0.3 else value.replace(b'"data":{', b'"data":{"mystery":' + deep + b",", 1)


def _numbers(chance: random.Random, known: tuple[bytes, ...]) -> bytes:
    number = chance.choice(
        (b"1e400", b"-1e999999", b"9" * 5000, b"1" + b"0" * 400 + b"e-400", b"0x10", b"NaN", b"Infinity", b"-", b"01")
    )
    value = _valid(chance, known)
    places = [match.span() for match in re.finditer(rb"(?<=[:,\[])-?\d[\d.]*", value)]
    if not places:
        return value.replace(b'"data":{', b'"data":{"mystery":' + number + b",", 1)
    start, end = chance.choice(places)
    return value[:start] + number + value[end:]


def _noise(chance: random.Random, known: tuple[bytes, ...]) -> bytes:
    return _bytes(chance, chance.choice((0, 1, 20, 2000)))


def _nothing(chance: random.Random, known: tuple[bytes, ...]) -> bytes | None:
    return chance.choice((None, b"", b" ", b"null", b"[]", b"{}", b'""', b"0", b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0"))


def _large(chance: random.Random, known: tuple[bytes, ...]) -> bytes:
    size = chance.choice((200_000, MIB - 2000, MIB, 2 * MIB))
    filling = chance.choice((b'"' + b"y" * size + b'"', b"[" + b"1," * (size // 2) + b"1]", b"[" + b"{}," * (size // 3) + b"{}]"))
    return _valid(chance, known).replace(b'"data":{', b'"data":{"mystery":' + filling + b",", 1)


_KINDS = (_valid, _flipped, _retyped, _twice, _deep, _numbers, _noise, _nothing, _large)
_WEIGHTS = (300, 250, 250, 50, 15, 50, 40, 40, 1)


def _binary(chance: random.Random, value: bytes | None) -> tuple[bytes | None, Headers]:
    """An event taken apart into `ce_*` headers, more or less as it should be."""
    try:
        tree = msgspec.json.decode(value or b"")
        attributes = {name: item for name, item in tree.items() if name != "data"}
        inner = msgspec.json.encode(tree.get("data"))
    except (AttributeError, ValueError, RecursionError):
        attributes, inner = {"id": "1", "type": "x"}, value or b""
    headers: Headers = [
        (b"ce_" + name.encode(errors="replace"), str(item).encode(errors="replace")) for name, item in attributes.items()
    ]
    match chance.randrange(6):
        case 0:
            headers += headers
        case 1:
            headers.append((b"ce_data", b"1"))
        case 2:
            headers.append((b"content-type", chance.choice((b"application/cloudevents+json", b"text/plain", b"\xff", b""))))
        case 3:
            headers = [(name, chance.choice((item, None, b"\xff\xfe"))) for name, item in headers]
        case _:
            pass
    chance.shuffle(headers)
    return inner, headers


def _odd_name(chance: random.Random) -> bytes:
    return chance.choice(
        (b"", b"\xff\xfe", b"ce_", b"ce_\x00", b"headrace-origin", b"headrace-stage", b"content-type", b"x" * 300)
    )


def _key(chance: random.Random) -> bytes | None:
    return chance.choice((None, b"", b"k", b"i1", b"sql/tiny", b"\xff\xfe", b"@position", b"k" * 5000, _bytes(chance, 12)))


def _bytes(chance: random.Random, size: int) -> bytes:
    return chance.randbytes(size)


def _bomb(chance: random.Random, key: bytes | None) -> tuple[list[bytes], str]:
    """Records around what is small on the wire and large in memory."""
    ordinary = record(0, b"k", b"{}")
    match chance.randrange(4):
        case 0:
            size = chance.choice((10, 70, 150)) * MIB
            return [ordinary, record(1, key, bytes(size)), record(2, b"k", b"{}")], "one record"
        case 1:
            return [record(offset, b"k", bytes(MIB)) for offset in range(chance.choice((5, 80)))], "many records"
        case 2:
            many = [(b"", None)] * chance.choice((999, 1001, 1_000_000))
            return [ordinary, record(1, b"k", b"{}", many), record(2, b"k", b"{}")], "headers"
        case _:
            return [record(offset, key, None) for offset in range(5000)], "tombstones"


def _spoilt(chance: random.Random, codec: str, rows: bytes) -> bytes:
    """The bytes behind a batch's header, broken before or after they are packed."""
    if chance.random() < 0.5:
        broken = bytearray(rows)
        at = chance.randrange(len(broken))
        broken[at : at + chance.choice((1, 5))] = chance.choice((b"", _bytes(chance, 5), varint(-9), text(None), b"\xff" * 11))
        return packed(codec, bytes(broken))
    broken = bytearray(packed(codec, rows))
    at = chance.randrange(len(broken))
    broken[at : at + chance.choice((1, 5, 5000))] = _bytes(chance, chance.choice((0, 1, 5)))
    return bytes(broken)
