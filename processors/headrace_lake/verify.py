"""The offline driver: folds recorded input partitions again and compares with what is on the log. Decides nothing itself.

`verify` runs each stage alone over each of its input partitions, from offset 0 to the task's recorded position, switching
policies at the offsets that `rules` names, and demands that keys, values and headers of the outputs, the counters and the
state are the live ones, byte for byte. Outputs are aligned by their provenance headers.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from headrace_schemas.codec import DecodeError, decode
from headrace_schemas.derived import Rules
from headrace_schemas.events import RulesActivated
from headrace_schemas.topics import TOPICS
from headrace_schemas.topology import changelog
from headrace_streams.runtime.journal import POSITION_KEY, Position, decode_position
from headrace_streams.runtime.stage import Fold, Headers, Record, Stage
from headrace_streams.runtime.step import Produced, process

_COMPACTED = {topic.name for topic in TOPICS if topic.compacted}
_EXPIRING = {topic.name for topic in TOPICS if topic.retention_ms > 0}

Provenance = tuple[str, str, int, int, int]  # stage, input topic, partition, offset, ordinal


class LogRecord(NamedTuple):
    """A record as it lies on the log; `topic` is short, `timestamp` is the append time in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Log(Protocol):
    """What replay needs of a log. Reads committed records only."""

    async def partitions(self, topic: str) -> int: ...

    async def start(self, topic: str, partition: int) -> int:
        """The first offset that is still there."""
        ...

    def read(self, topic: str, partition: int, start: int = 0, end: int | None = None) -> AsyncIterator[LogRecord]: ...


class Difference(NamedTuple):
    """One disagreement. `field` is key, value, headers, partition, missing, unexpected, counters, state or rules."""

    stage: str
    topic: str
    partition: int
    offset: int | None
    field: str
    expected: str
    found: str

    def __str__(self) -> str:
        place = f"{self.stage} over {self.topic}/{self.partition}" + ("" if self.offset is None else f"@{self.offset}")
        return f"{place}: {self.field}: expected {self.expected}, found {self.found}"


class Verified(NamedTuple):
    """What was compared: input records folded, outputs equal, outputs no longer on the log, and what differs."""

    records: int
    outputs: int
    expired: int
    differences: list[Difference]
    notes: list[str]


class _Live(NamedTuple):
    """Where a live output lies and the digest of its partition, key, value and headers."""

    topic: str
    partition: int
    offset: int
    print: bytes


def provenance_of(headers: Headers) -> Provenance | None:
    """Coordinates of the input that a derived record came from; None for records that no stage derived from an input."""
    found = dict(headers)
    try:
        return (
            found["headrace-stage"].decode(),
            found["headrace-topic"].decode(),
            int(found["headrace-partition"]),
            int(found["headrace-offset"]),
            int(found["headrace-ordinal"]),
        )
    except (KeyError, ValueError):
        return None


def fingerprint(partition: int, key: bytes, value: bytes, headers: Headers) -> bytes:
    """Equal for two records exactly when everything that verify compares is equal."""
    parts = [str(partition).encode(), key, value, *(part for name, text in headers for part in (name.encode(), text))]
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()


async def changelog_of(log: Log, stage: str, topic: str, partition: int) -> dict[str, bytes]:
    """The newest value of each state key of a task, its position record included."""
    found: dict[str, bytes] = {}
    async for record in log.read(changelog(stage, topic).name, partition):
        key = (record.key or b"").decode()
        if record.value is None:
            found.pop(key, None)
        else:
            found[key] = record.value
    return found


async def rules_of(log: Log) -> dict[tuple[str, str, int], list[Rules]]:
    """Per (stage, topic, partition): the policies that were in force, by first offset."""
    found: dict[tuple[str, str, int], list[Rules]] = {}
    for partition in range(await log.partitions("rules")):
        async for record in log.read("rules", partition):
            try:
                event = decode(record.value, record.headers)
            except DecodeError:
                continue  # what somebody else put there
            if isinstance(event, RulesActivated):
                found.setdefault((event.data.stage, event.data.topic, event.data.partition), []).append(event.data)
    for activations in found.values():
        activations.sort(key=lambda rules: rules.from_offset)
    return found


async def live_outputs(log: Log, topics: Iterable[str]) -> dict[Provenance, list[_Live]]:
    """Every derived record of `topics` by where it came from; several under one provenance is itself a difference."""
    found: dict[Provenance, list[_Live]] = {}
    for topic in sorted(set(topics)):
        for partition in range(await log.partitions(topic)):
            async for record in log.read(topic, partition):
                source = provenance_of(record.headers)
                if source is not None:
                    print_ = fingerprint(partition, record.key or b"", record.value or b"", record.headers)
                    found.setdefault(source, []).append(_Live(topic, partition, record.offset, print_))
    return found


async def verify(log: Log, stages: Sequence[Stage], *, limit: int = 20) -> dict[str, Verified]:
    """Every stage against the log: short name -> what was compared. Stops collecting after `limit` differences a stage."""
    tasks = [
        (stage, topic, partition)
        for stage in stages
        for topic in stage.inputs
        for partition in range(await log.partitions(topic))
    ]
    # Positions before outputs: a live worker may go on meanwhile, and what it adds is beyond these positions.
    kept = {(stage.name, topic, part): await changelog_of(log, stage.name, topic, part) for stage, topic, part in tasks}
    rules = await rules_of(log)
    live = await live_outputs(log, (topic for stage in stages for topic in (*stage.outputs, "dead-letters")))
    report = {stage.name: Verified(0, 0, 0, [], []) for stage in stages}
    for stage, topic, partition in tasks:
        task = (stage.name, topic, partition)
        part = await _verify_partition(log, stage, topic, partition, kept[task], rules.get(task, []), live, limit)
        total = report[stage.name]
        report[stage.name] = Verified(
            total.records + part.records,
            total.outputs + part.outputs,
            total.expired + part.expired,
            (total.differences + part.differences)[:limit],
            total.notes + part.notes,
        )
    return report


async def _verify_partition(
    log: Log,
    stage: Stage,
    topic: str,
    partition: int,
    kept: dict[str, bytes],
    rules: list[Rules],
    live: dict[Provenance, list[_Live]],
    limit: int,
) -> Verified:
    raw = kept.pop(POSITION_KEY, None)
    if raw is None:
        lost = (
            []
            if await _never_ran(log, stage.name, topic, partition, live)
            else [Difference(stage.name, topic, partition, None, "position", "a position record on the changelog", "none")]
        )
        return Verified(0, 0, 0, lost, [])
    position = decode_position(raw)
    unknown = sorted({entry.version for entry in rules if entry.version != stage.version})
    if unknown:
        note = (
            f"{stage.name} over {topic}/{partition}: not comparable: rule version {unknown[0]} is not the code's {stage.version}"
        )
        return Verified(0, 0, 0, [], [note])
    start = await log.start(topic, partition)
    stateful = any(not key.startswith("@") for key in kept)
    if start and stateful:
        return Verified(0, 0, 0, [], [f"{stage.name} over {topic}/{partition}: not comparable: input before {start} has expired"])
    counts = {name: await log.partitions(name) for name in (*stage.outputs, "dead-letters")}
    return await _Comparison(log, stage, topic, partition, position, kept, live, counts, limit).run(rules, start)


async def _never_ran(log: Log, stage: str, topic: str, partition: int, live: dict[Provenance, list[_Live]]) -> bool:
    """Whether a task without a position has written nothing either, or has begun only after positions were read."""
    if not any(source[:3] == (stage, topic, partition) for source in live):
        return True
    return POSITION_KEY in await changelog_of(log, stage, topic, partition)


class _Comparison:
    """One input partition of one stage, folded again."""

    def __init__(
        self,
        log: Log,
        stage: Stage,
        topic: str,
        partition: int,
        position: Position,
        kept: Mapping[str, bytes],
        live: dict[Provenance, list[_Live]],
        counts: Mapping[str, int],
        limit: int,
    ) -> None:
        self.limit = limit
        self.log, self.stage, self.topic, self.partition = log, stage, topic, partition
        self.position, self.kept, self.live, self.counts = position, kept, live, counts
        self.equal = self.expired = 0
        self.differences: list[Difference] = []
        self.last: dict[tuple[str, bytes], Provenance] = {}  # newest expected record of each key of a compacted topic
        self.absent: dict[Provenance, Produced] = {}  # expected on a compacted topic, not there
        self.begun: set[tuple[str, int]] = set()  # output partitions of which something was found: only what is older expires

    async def run(self, rules: list[Rules], start: int) -> Verified:
        state: dict[str, Any] = {}
        counters: dict[str, int] = {}
        fold: Fold | None = None
        pending = list(rules)
        now = records = 0
        place = f"{self.stage.name} over {self.topic}/{self.partition}"
        notes = (
            [f"{place}: input before {start} has expired: what came of it, and the counters, are not compared"] if start else []
        )
        async for found in self.log.read(self.topic, self.partition, start, self.position.next_offset):
            while pending and pending[0].from_offset <= found.offset:
                fold = self.stage.build(pending.pop(0).body)
            if fold is None:
                self._differ(found.offset, "rules", "an activation before this record", "none")
                break
            now = max(now, found.timestamp)
            record = Record(self.topic, self.partition, found.offset, found.timestamp, now, found.key, found.value, found.headers)
            done = process(self.stage.name, fold, state, record, self.counts)
            done.apply(state, counters)
            for produced in done.produced:
                await self._compare(produced, found.offset)
            records += 1
            if len(self.differences) >= self.limit:  # each takes a look at the log, and what follows is mostly their doing
                return Verified(records, self.equal, self.expired, self.differences, notes)
        self._close_compacted()
        self.differences += _unexpected(
            (self.stage.name, self.topic, self.partition), start, self.position.next_offset, self.live
        )
        if fold is not None and not start:
            self._compare_ends(fold, state, {name: count for name, count in counters.items() if count})
        return Verified(records, self.equal, self.expired, self.differences, notes)

    async def _compare(self, produced: Produced, offset: int) -> None:
        source = provenance_of(produced.headers)
        assert source is not None
        if produced.topic in _COMPACTED:
            self.last[(produced.topic, produced.key)] = source
        found = self.live.pop(source, [])
        if not found:
            if produced.topic in _COMPACTED:
                self.absent[source] = produced
            elif await self._may_have_expired(produced):
                self.expired += 1
            else:
                self._differ(offset, "missing", _brief(produced.topic, produced.key, produced.value), "nothing")
            return
        self.begun |= {(where.topic, where.partition) for where in found}
        if len(found) > 1:
            self._differ(offset, "unexpected", f"one record on {produced.topic}", f"{len(found)} records")
        where = found[0]
        expected = fingerprint(produced.partition, produced.key, produced.value, produced.headers)
        if where.topic == produced.topic and where.print == expected:
            self.equal += 1
            return
        await self._explain(produced, where, offset)

    async def _may_have_expired(self, produced: Produced) -> bool:
        """A task writes in the order of its input and retention takes the oldest: nothing after a record that is still there."""
        place = produced.topic, produced.partition
        return produced.topic in _EXPIRING and place not in self.begun and await self.log.start(*place) > 0

    async def _explain(self, produced: Produced, where: _Live, offset: int) -> None:
        if where.topic != produced.topic or where.partition != produced.partition:
            self._differ(offset, "partition", f"{produced.topic}/{produced.partition}", f"{where.topic}/{where.partition}")
            return
        async for record in self.log.read(where.topic, where.partition, where.offset, where.offset + 1):
            if record.key != produced.key:
                self._differ(offset, "key", repr(produced.key), repr(record.key))
            for path, expected, found in _json_differences(produced.value, record.value or b""):
                self._differ(offset, f"value{path}", expected, found)
            if tuple(record.headers) != produced.headers:
                self._differ(offset, "headers", str(produced.headers), str(tuple(record.headers)))

    def _close_compacted(self) -> None:
        """Compaction may take any record but the newest of its key."""
        newest = set(self.last.values())
        for source, produced in self.absent.items():
            if source in newest:
                self._differ(source[3], "missing", _brief(produced.topic, produced.key, produced.value), "nothing")
            else:
                self.expired += 1

    def _compare_ends(self, fold: Fold, state: Mapping[str, Any], counters: Mapping[str, int]) -> None:
        recorded = {name: count for name, count in self.position.counters.items() if count}
        if recorded != counters:
            self._differ(None, "counters", str(dict(sorted(counters.items()))), str(dict(sorted(recorded.items()))))
        for key in sorted(state.keys() | self.kept.keys()):
            expected = fold.dump(key, state[key]) if key in state else None
            if expected != self.kept.get(key):
                self._differ(None, f"state {key}", repr(expected)[:200], repr(self.kept.get(key))[:200])

    def _differ(self, offset: int | None, field: str, expected: str, found: str) -> None:
        self.differences.append(Difference(self.stage.name, self.topic, self.partition, offset, field, expected, found))


def _unexpected(task: tuple[str, str, int], start: int, end: int, live: dict[Provenance, list[_Live]]) -> list[Difference]:
    """Live records that claim to come from [start, end) of a task's input partition, but that the fold did not make."""
    claimed = sorted(source for source in live if source[:3] == task and start <= source[3] < end)
    return [
        Difference(*task, source[3], "unexpected", "nothing", f"{where.topic}/{where.partition}@{where.offset}")
        for source in claimed
        for where in live.pop(source)
    ]


def _brief(topic: str, key: bytes, value: bytes) -> str:
    return f"{topic} key {key[:80]!r} value {value[:200]!r}"


def _json_differences(expected: bytes, found: bytes) -> list[tuple[str, str, str]]:
    """Paths at which two JSON texts differ; the whole texts where one is no JSON or they differ in form only."""
    if expected == found:
        return []
    try:
        paths = list(_walk("", msgspec.json.decode(expected), msgspec.json.decode(found)))
    except msgspec.DecodeError:
        paths = []
    return paths or [("", repr(expected[:200]), repr(found[:200]))]


def _walk(path: str, expected: Any, found: Any) -> Iterable[tuple[str, str, str]]:
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in sorted(expected.keys() | found.keys()):
            yield from _walk(f"{path}.{name}", expected.get(name), found.get(name))
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for place, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _walk(f"{path}[{place}]", one, other)
    elif expected != found:
        yield path, repr(expected)[:200], repr(found)[:200]
