"""Verify: folds recorded input partitions again and compares with what is on the log. Decides nothing itself, knows no client.

Each stage runs alone over each of its input partitions, from offset 0 to the task's recorded position, switching rule version and
policy at the offsets that `rules` names; keys, values and headers of the outputs, the counters and the state must be the live
ones, byte for byte. Outputs are aligned by their provenance headers. Where the code does not have a rule version, or can't read a
recorded policy, that span is not comparable, which is neither equal nor different: it is listed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from headrace_lake.log import Log, changelog_of, rules_of
from headrace_schemas.canonical import digest
from headrace_schemas.derived import RulesActivation
from headrace_schemas.topics import TOPICS
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.journal import POSITION_KEY, Position, decode_position
from headrace_streams.runtime.provenance import Provenance, provenance_of
from headrace_streams.runtime.stage import FoldStage, Headers, InvalidBody, StatelessFold, UnknownVersion
from headrace_streams.runtime.step import Produced

_COMPACTED = {topic.name for topic in TOPICS if topic.compacted}
_EXPIRING = {topic.name for topic in TOPICS if topic.retention_ms > 0}


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
        where = f"{self.stage} over {self.topic}/{self.partition}" + ("" if self.offset is None else f"@{self.offset}")
        return f"{where}: {self.field}: expected {self.expected}, found {self.found}"


class NotComparable(NamedTuple):
    """Input records [start, end) of a task, `records` of them, that could not be folded again, or whose state can't be read."""

    stage: str
    topic: str
    partition: int
    start: int
    end: int
    records: int
    reason: str

    def __str__(self) -> str:
        span = f"[{self.start}, {self.end})"
        return f"{self.stage} over {self.topic}/{self.partition}{span}: not comparable: {self.records} records: {self.reason}"


class Verified(NamedTuple):
    """What was compared: tasks that have a position, input records folded, outputs equal, outputs no longer on the log, what
    differs, and what could not be compared."""

    tasks: int = 0
    records: int = 0
    outputs: int = 0
    expired: int = 0
    differences: Sequence[Difference] = ()
    not_comparable: Sequence[NotComparable] = ()
    notes: Sequence[str] = ()

    def plus(self, other: Verified, limit: int) -> Verified:
        """Both together, with at most `limit` differences."""
        return Verified(
            self.tasks + other.tasks,
            self.records + other.records,
            self.outputs + other.outputs,
            self.expired + other.expired,
            [*self.differences, *other.differences][:limit],
            [*self.not_comparable, *other.not_comparable],
            [*self.notes, *other.notes],
        )


class _Live(NamedTuple):
    """Where a live output lies and the digest of its partition, key, value and headers."""

    topic: str
    partition: int
    offset: int
    print: bytes


LiveOutputs = dict[Provenance, list[_Live]]
_Task = tuple[str, str, int]  # stage, input topic, partition


def fingerprint(partition: int, key: bytes, value: bytes, headers: Headers) -> bytes:
    """Equal for two records exactly when everything that verify compares is equal."""
    parts = [str(partition).encode(), key, value, *(part for name, text in headers for part in (name.encode(), text))]
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()


async def live_outputs(log: Log, topics: Iterable[str]) -> LiveOutputs:
    """Every derived record of `topics` by where it came from; several under one provenance is itself a difference."""
    live: LiveOutputs = {}
    for topic in sorted(set(topics)):
        for partition in range(await log.partitions(topic)):
            async for record in log.read(topic, partition):
                source = provenance_of(record.headers)
                if source is not None:
                    print_ = fingerprint(partition, record.key or b"", record.value or b"", record.headers)
                    live.setdefault(source, []).append(_Live(topic, partition, record.offset, print_))
    return live


async def verify(log: Log, stages: Sequence[FoldStage], *, limit: int = 20) -> dict[str, Verified]:
    """Every stage against the log: short name -> what was compared. Stops collecting after `limit` differences a stage."""
    tasks = [
        (stage, topic, partition)
        for stage in stages
        for topic in stage.inputs
        for partition in range(await log.partitions(topic))
    ]
    # Positions before outputs: a live worker may go on meanwhile, and what it adds is beyond these positions.
    changelogs = {(stage.name, topic, part): await changelog_of(log, stage.name, topic, part) for stage, topic, part in tasks}
    rules = await rules_of(log)
    live = await live_outputs(log, (topic for stage in stages for topic in (*stage.outputs, "dead-letters")))
    report = {stage.name: Verified() for stage in stages}
    for stage, topic, partition in tasks:
        task = (stage.name, topic, partition)
        part = await _verify_partition(log, stage, task, changelogs[task], rules.get(task, []), live, limit)
        report[stage.name] = report[stage.name].plus(part, limit)
    return report


async def _verify_partition(
    log: Log,
    stage: FoldStage,
    task: _Task,
    changelog: dict[str, bytes],
    rules: list[RulesActivation],
    live: LiveOutputs,
    limit: int,
) -> Verified:
    _, topic, partition = task
    raw = changelog.pop(POSITION_KEY, None)
    if raw is None:
        if await _never_ran(log, task, live):
            return Verified()
        return Verified(differences=[Difference(*task, None, "position", "a position record on the changelog", "none")])
    position = decode_position(raw)
    start = await log.start(topic, partition)
    if start and any(not key.startswith("@") for key in changelog):
        reason = f"input before {start} has expired, and with it what the state was made of"
        claims = [source for source in live if source[:3] == task]
        for source in claims:
            live.pop(source)
        span = NotComparable(*task, start, position.next_offset, max(0, position.next_offset - start), reason)
        return Verified(tasks=1, not_comparable=[span])
    counts = {name: await log.partitions(name) for name in (*stage.outputs, "dead-letters")}
    return await _Comparison(log, FoldRunner(stage, topic, partition, counts), position, changelog, live, limit).run(rules, start)


async def _never_ran(log: Log, task: _Task, live: LiveOutputs) -> bool:
    """Whether a task without a position has written nothing either, or has begun only after positions were read."""
    if not any(source[:3] == task for source in live):
        return True
    return POSITION_KEY in await changelog_of(log, *task)


class _Comparison:
    """One input partition of one stage, folded again."""

    def __init__(
        self,
        log: Log,
        runner: FoldRunner,
        position: Position,
        changelog: Mapping[str, bytes],
        live: LiveOutputs,
        limit: int,
    ) -> None:
        self.log, self.runner, self.position, self.changelog, self.live, self.limit = (
            log,
            runner,
            position,
            changelog,
            live,
            limit,
        )
        self.task: _Task = (runner.stage.name, runner.topic, runner.partition)
        self.equal = self.expired = self.records = 0
        self.differences: list[Difference] = []
        self.not_comparable: list[NotComparable] = []
        self.blocked: str | None = None  # why the records from here on can't be folded
        self.new_span = True  # the next of them begins a span
        self.claims: dict[int, list[Provenance]] | None = None  # live outputs by the offset that they claim to come from
        self.newest: dict[tuple[str, bytes], Provenance] = {}  # newest expected record of each key of a compacted topic
        self.absent: dict[Provenance, Produced] = {}  # expected on a compacted topic, not there
        self.begun: set[tuple[str, int]] = set()  # output partitions of which something was found: only what is older expires

    async def run(self, rules: list[RulesActivation], start: int) -> Verified:
        pending = list(rules)
        notes: list[str] = []
        if start:
            name, topic, partition = self.task
            notes.append(
                f"{name} over {topic}/{partition}: input before {start} has expired: what came of it, and the counters, are not "
                "compared"
            )
        async for record in self.log.read(self.runner.topic, self.runner.partition, start, self.position.next_offset):
            while pending and pending[0].from_offset <= record.offset:
                self._activate(pending.pop(0))
            if self.blocked is not None:
                self._skip(record.offset)
                continue
            if self.runner.fold is None:
                self._differ(record.offset, "rules", "an activation before this record", "none")
                break
            processed = self.runner.run(record)
            for produced in processed.produced:
                await self._compare(produced, record.offset)
            self.records += 1
            if len(self.differences) >= self.limit:  # each takes a look at the log, and what follows is mostly their doing
                return self._report(notes)
        self._close_compacted()
        self.differences += _unexpected(self.task, start, self.position.next_offset, self.live)
        if self.runner.fold is not None and not start and not self.not_comparable:
            self._compare_ends()
        return self._report(notes)

    def _report(self, notes: list[str]) -> Verified:
        return Verified(1, self.records, self.equal, self.expired, self.differences, self.not_comparable, notes)

    def _activate(self, rules: RulesActivation) -> None:
        """Switches to the rules that held from here on. State that was made by rules which are not known stays unknown."""
        if digest(rules.body) != rules.digest:
            self._differ(rules.from_offset, "rules", f"digest {digest(rules.body)} of the recorded policy", rules.digest)
        lost = bool(self.not_comparable)
        self.new_span = True
        try:
            self.runner.activate(rules.version, rules.body, rules.digest)
        except (UnknownVersion, InvalidBody) as error:
            self.blocked = str(error)
        else:
            stateless = isinstance(self.runner.fold, StatelessFold)
            self.blocked = None if stateless or not lost else "its state was made by rules that are not known to this code"

    def _skip(self, offset: int) -> None:
        """Counts a record that can't be folded; what came of it is not unexpected."""
        if self.claims is None:
            self.claims = {}
            for source in self.live:
                if source[:3] == self.task:
                    self.claims.setdefault(source.offset, []).append(source)
        for source in self.claims.get(offset, ()):
            self.live.pop(source, None)
        assert self.blocked is not None
        if self.new_span:
            self.not_comparable.append(NotComparable(*self.task, offset, offset, 0, self.blocked))
            self.new_span = False
        span = self.not_comparable.pop()
        self.not_comparable.append(span._replace(end=offset + 1, records=span.records + 1))

    async def _compare(self, produced: Produced, offset: int) -> None:
        source = provenance_of(produced.headers)
        assert source is not None
        if produced.topic in _COMPACTED:
            self.newest[(produced.topic, produced.key)] = source
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
        output = produced.topic, produced.partition
        return produced.topic in _EXPIRING and output not in self.begun and await self.log.start(*output) > 0

    async def _explain(self, produced: Produced, where: _Live, offset: int) -> None:
        if where.topic != produced.topic or where.partition != produced.partition:
            self._differ(offset, "partition", f"{produced.topic}/{produced.partition}", f"{where.topic}/{where.partition}")
            return
        async for record in self.log.read(where.topic, where.partition, where.offset, where.offset + 1):
            if record.key != produced.key:
                self._differ(offset, "key", repr(produced.key), repr(record.key))
            for path, expected, found in json_differences(produced.value, record.value or b""):
                self._differ(offset, f"value{path}", expected, found)
            if tuple(record.headers) != produced.headers:
                self._differ(offset, "headers", str(produced.headers), str(tuple(record.headers)))

    def _close_compacted(self) -> None:
        """Compaction may take any record but the newest of its key."""
        newest = set(self.newest.values())
        for source, produced in self.absent.items():
            if source in newest:
                self._differ(source[3], "missing", _brief(produced.topic, produced.key, produced.value), "nothing")
            else:
                self.expired += 1

    def _compare_ends(self) -> None:
        counters = {name: count for name, count in self.runner.counters.items() if count}
        recorded = {name: count for name, count in self.position.counters.items() if count}
        if recorded != counters:
            self._differ(None, "counters", str(dict(sorted(counters.items()))), str(dict(sorted(recorded.items()))))
        try:
            stage = self.runner.stage
            form = max(self.runner.state_version, min(self.position.state_version, stage.state_version))
            state = stage.upcast_state(self.position.state_version, self.changelog, form)
            expected = stage.upcast_state(self.runner.state_version, self.runner.dumped(), form)
        except UnknownVersion as error:
            self.not_comparable.append(NotComparable(*self.task, 0, self.position.next_offset, self.records, str(error)))
            return
        for key in sorted(expected.keys() | state.keys()):
            if expected.get(key) != state.get(key):
                self._differ(None, f"state {key}", repr(expected.get(key))[:200], repr(state.get(key))[:200])

    def _differ(self, offset: int | None, field: str, expected: str, found: str) -> None:
        self.differences.append(Difference(*self.task, offset, field, expected, found))


def _unexpected(task: _Task, start: int, end: int, live: LiveOutputs) -> list[Difference]:
    """Live records that claim to come from [start, end) of a task's input partition, but that the fold did not make."""
    claimed = sorted(source for source in live if source[:3] == task and start <= source[3] < end)
    return [
        Difference(*task, source[3], "unexpected", "nothing", f"{where.topic}/{where.partition}@{where.offset}")
        for source in claimed
        for where in live.pop(source)
    ]


def _brief(topic: str, key: bytes, value: bytes) -> str:
    return f"{topic} key {key[:80]!r} value {value[:200]!r}"


def json_differences(expected: bytes, found: bytes) -> list[tuple[str, str, str]]:
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
        for index, (left, right) in enumerate(zip(expected, found, strict=True)):
            yield from _walk(f"{path}[{index}]", left, right)
    elif expected != found:
        yield path, repr(expected)[:200], repr(found)[:200]
