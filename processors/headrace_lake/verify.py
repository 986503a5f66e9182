"""Verify: folds recorded input partitions again and compares with what is on the log. Decides nothing itself, knows no client.

Each stage runs alone over each of its input partitions, from offset 0 to the task's recorded position, switching rule version and
policy at the offsets that `rules` names; order, keys, values and headers of the outputs, the counters, the fold time and the
state must be the live ones, byte for byte. Outputs are aligned by their provenance, in the order of the input. Where the code
does not have a rule version, or can't read a recorded policy, that span is not comparable, which is neither equal nor different:
it is listed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from headrace_lake.differences import Difference, brief, json_differences
from headrace_lake.erased import ErasedOwners
from headrace_lake.erased_steps import ErasedSteps, erased_ends
from headrace_lake.keys import sealing_of
from headrace_lake.log import Log, LogRecord, TaskRules, changelog_of, partitions_of, rules_of, shown_ahead
from headrace_lake.recorded_outputs import Place, RecordedOutput, RecordedOutputs, Task, entry_print, fingerprint, state_print
from headrace_schemas.canonical import digest
from headrace_schemas.derived import RulesActivation
from headrace_schemas.topics import TOPICS
from headrace_schemas.topology import DEAD, RECORDS, changelog
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.journal import POSITION_KEY, Position, decode_position, encode_position
from headrace_streams.runtime.sealing import Sealing
from headrace_streams.runtime.stage import FoldStage, InvalidBody, StatelessFold, UnknownVersion
from headrace_streams.runtime.step import Produced
from headrace_streams.signing import without_signature

_COMPACTED = {topic.name for topic in TOPICS if topic.compacted}
_EXPIRING = {topic.name for topic in TOPICS if topic.retention_ms > 0}


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
    differs, and what could not be compared. `erased`: outputs that were compared only in what does not come from texts whose key
    was erased."""

    tasks: int = 0
    records: int = 0
    outputs: int = 0
    expired: int = 0
    differences: Sequence[Difference] = ()
    not_comparable: Sequence[NotComparable] = ()
    notes: Sequence[str] = ()
    erased: int = 0

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
            self.erased + other.erased,
        )


class _Recorded(NamedTuple):
    """A task's changelog in short: its position, and the number of its whole state (`state_print`)."""

    position: Position | None
    print: int


async def verify(log: Log, stages: Sequence[FoldStage], *, topics: Iterable[str] = (), limit: int = 20) -> dict[str, Verified]:
    """Every stage against the log: short name -> what was compared. Stops collecting after `limit` differences a stage.

    Every record of the stages' outputs, and of `topics` beside them (`DERIVED` for all that we write), is accounted for or is a
    difference. One partition's state is in memory at a time, and the log's outputs are in a temporary folder."""
    tasks = [
        (stage, (stage.name, topic, partition))
        for stage in stages
        for topic in stage.inputs
        for partition in range(await log.partitions(topic))
    ]
    # Positions before outputs: a live worker may go on meanwhile, and what it adds is beyond these positions.
    recorded = {task: await _recorded(log, task) for _, task in tasks}
    sealing = await sealing_of(log)  # whose keys were on the log before what is sealed with them
    rules = await rules_of(log)
    report = {stage.name: Verified() for stage in stages}
    with tempfile.TemporaryDirectory(prefix="headrace-verify-") as folder:
        live = RecordedOutputs(Path(folder), [stage.topology for stage in stages])
        await live.read(log, {*topics, "dead-letters", *(topic for stage in stages for topic in stage.outputs)})
        for stage, task in tasks:
            part = await _verify_partition(log, sealing, stage, task, recorded[task], rules[task], live, limit)
            report[stage.name] = report[stage.name].plus(part, limit)
    for stranger in live.strangers.values():
        report[stranger.stage] = report[stranger.stage].plus(Verified(differences=[stranger]), limit)
    return report


async def _recorded(log: Log, task: Task) -> _Recorded:
    prints: dict[str, int] = {}
    raw: bytes | None = None
    async for record in log.read(changelog(task[0], task[1]).name, task[2]):
        key = (record.key or b"").decode(errors="backslashreplace")
        if key == POSITION_KEY:
            raw = record.value
        elif record.value is None:
            prints.pop(key, None)
        else:
            prints[key] = entry_print(key, record.value)
    position = None if raw is None else decode_position(raw)
    return _Recorded(position, sum(prints.values()) % 2**256)


async def _verify_partition(
    log: Log,
    sealing: Sealing,
    stage: FoldStage,
    task: Task,
    recorded: _Recorded,
    rules: TaskRules,
    live: RecordedOutputs,
    limit: int,
) -> Verified:
    _, topic, partition = task
    position = recorded.position
    if position is None:
        # It has written nothing either, or has begun only after positions were read.
        if not live.of(task) or await changelog_of(log, *task, within=POSITION_KEY):
            return Verified()
        return Verified(differences=[Difference(*task, None, "position", "a position record on the changelog", "none")])
    start = await log.start(topic, partition)
    if start and position.counters and not _is_stateless(stage, rules.activations):
        reason = f"input before {start} has expired, and with it what the state was made of"
        span = NotComparable(*task, start, position.next_offset, max(0, position.next_offset - start), reason)
        return Verified(tasks=1, not_comparable=[span])
    counts = await partitions_of(log, (*stage.outputs, "dead-letters"))
    runner = FoldRunner(stage, topic, partition, counts, sealing)
    erased = ErasedOwners(stage.topology, sealing.keyring)
    return await _Comparison(log, runner, erased, position, recorded.print, rules, live, limit).run(start)


def _is_stateless(stage: FoldStage, rules: Iterable[RulesActivation]) -> bool:
    """Whether the recorded rules keep nothing, as far as this code has them. What is kept now says little: a state may expire."""
    for activation in rules:
        with suppress(UnknownVersion, InvalidBody):
            return isinstance(stage.build(activation.version, activation.body, activation.digest), StatelessFold)
    return True


class _Outputs:
    """The live outputs of one task in one place, read in step with the fold."""

    def __init__(self, outputs: Iterator[RecordedOutput]) -> None:
        self._outputs = outputs
        self.head = next(outputs, None)
        self.begun = False  # something was found: only what is older expires

    def pop(self) -> RecordedOutput:
        head, self.head = self.head, next(self._outputs, None)
        assert head is not None
        return head

    def of(self, source: int) -> list[RecordedOutput]:
        """Takes what claims to have been made of record `source`, as far as it stands in its order."""
        taken: list[RecordedOutput] = []
        while self.head is not None and self.head.source == source and (not taken or self.head.ordinal > taken[-1].ordinal):
            taken.append(self.pop())
        return taken

    def before(self, source: int, ordinal: int) -> Iterator[RecordedOutput]:
        """Takes what claims to have been made before output `ordinal` of record `source`."""
        while self.head is not None and (self.head.source, self.head.ordinal) < (source, ordinal):
            yield self.pop()


class _Comparison:
    """One input partition of one stage, folded again beside its live outputs, both in the order of the input."""

    def __init__(
        self,
        log: Log,
        runner: FoldRunner,
        erased: ErasedOwners,
        position: Position,
        state: int,
        rules: TaskRules,
        live: RecordedOutputs,
        limit: int,
    ) -> None:
        self.log, self.runner, self.position, self.state, self.limit = log, runner, position, state, limit
        self.owners, self.erased = erased, 0
        self.steps: ErasedSteps | None = None
        self.task: Task = (runner.stage.name, runner.topic, runner.partition)
        self.live = {place: _Outputs(outputs) for place, outputs in live.of(self.task).items()}
        self.strangers, self.refused = live.strangers, 0
        self.rules, self.skipped = rules, 0
        self.start = 0  # the first offset of the input that is still there
        self.equal = self.expired = self.records = 0
        self.differences: list[Difference] = []
        self.not_comparable: list[NotComparable] = []
        self.blocked: str | None = None  # why the records from here on can't be folded
        self.new_span = True  # the next of them begins a span
        self.newest: dict[tuple[str, bytes], tuple[int, int]] = {}  # newest expected output of each key of a compacted topic
        self.absent: dict[tuple[int, int], Produced] = {}  # expected on a compacted topic, not there

    async def run(self, start: int) -> Verified:
        pending = list(self.rules.activations)
        self.start = start
        notes: list[str] = []
        if start:
            name, topic, partition = self.task
            notes.append(
                f"{name} over {topic}/{partition}: input before {start} has expired: what came of it, and the counters, are not "
                "compared"
            )
        read = self.log.read(self.runner.topic, self.runner.partition, start, self.position.next_offset)
        async for record in shown_ahead(self.runner, read):
            while pending and pending[0].from_offset <= record.offset:
                self._activate(pending.pop(0))
            if self.rules.skipped(record.offset):
                self.skipped += 1
                continue
            if self.blocked is not None:
                await self._skip(record.offset)
                continue
            if self.runner.fold is None:
                self._differ(record.offset, "rules", "an activation before this record", "none")
                break
            processed = self.runner.run(record)
            if self.runner.erased and self.steps is not None:
                await self._compare_erased(self.steps, record, processed.produced)
            else:
                for ordinal, produced in enumerate(processed.produced):
                    await self._compare(produced, record.offset, ordinal)
            self.records += 1
            if processed.counters.get(DEAD) and self.strangers.pop((record.topic, record.partition, record.offset), None):
                self.refused += 1
            if len(self.differences) >= self.limit:  # each takes a look at the log, and what follows is mostly their doing
                return self._report(notes)
        self._close_compacted()
        for place, outputs in self.live.items():
            await self._unexpected(place, outputs, self.position.next_offset, 0)
        if self.runner.fold is not None and not start and not self.not_comparable:
            await self._compare_ends()
        return self._report(notes)

    def _report(self, notes: list[str]) -> Verified:
        name, topic, partition = self.task
        if self.skipped:
            notes.append(f"{name} over {topic}/{partition}: {self.skipped} records were skipped by hand (`rules` says why)")
        if self.refused:
            notes.append(f"{name} over {topic}/{partition}: {self.refused} records that no stage wrote, each a dead letter")
        if self.erased or self.runner.erased:
            notes.append(
                f"{name} over {topic}/{partition}: {self.runner.erased} records whose texts are erased; of {self.erased} outputs "
                "only what comes from no such text is compared"
            )
        verified = Verified(1, self.records, self.equal, self.expired, self.differences, self.not_comparable, notes)
        return verified._replace(erased=self.erased)

    def _activate(self, rules: RulesActivation) -> None:
        """Switches to the rules that held from here on. State that was made by rules which are not known stays unknown."""
        if digest(rules.body) != rules.digest:
            self._differ(rules.from_offset, "rules", f"digest {digest(rules.body)} of the recorded policy", rules.digest)
        lost = bool(self.not_comparable)
        self.new_span = True
        try:
            self.runner.activate(rules.version, rules.body, rules.digest)
            if self.owners and self.steps is None:
                assert self.runner.fold is not None
                meet = self.runner.fold.texts_meet
                self.steps = ErasedSteps(self.log, self.owners, self.runner.stage.name, texts_meet=meet)
        except (UnknownVersion, InvalidBody) as error:
            self.blocked = str(error)
        else:
            stateless = isinstance(self.runner.fold, StatelessFold)
            self.blocked = None if stateless or not lost else "its state was made by rules that are not known to this code"

    async def _skip(self, offset: int) -> None:
        """Counts a record that can't be folded; what came of it is not unexpected."""
        for place, outputs in self.live.items():
            await self._unexpected(place, outputs, offset, 0)
            for _ in outputs.before(offset + 1, 0):
                pass
        assert self.blocked is not None
        if self.new_span:
            self.not_comparable.append(NotComparable(*self.task, offset, offset, 0, self.blocked))
            self.new_span = False
        span = self.not_comparable.pop()
        self.not_comparable.append(span._replace(end=offset + 1, records=span.records + 1))

    async def _compare(self, produced: Produced, offset: int, ordinal: int) -> None:
        if produced.topic in _COMPACTED:
            self.newest[(produced.topic, produced.key)] = offset, ordinal
        place = produced.topic, produced.partition
        outputs = self.live.get(place)
        if outputs is None:
            outputs = self.live[place] = _Outputs(iter(()))
        await self._unexpected(place, outputs, offset, ordinal)
        head = outputs.head
        if head is None or (head.source, head.ordinal) != (offset, ordinal):
            if produced.topic in _COMPACTED:
                self.absent[offset, ordinal] = produced
            elif await self._may_have_expired(produced):
                self.expired += 1
            else:
                self._differ(offset, "missing", brief(produced.topic, produced.key, produced.value), "nothing")
            return
        outputs.begun = True
        found = outputs.pop()
        if found.print == fingerprint(produced.key, produced.value, produced.headers):
            self.equal += 1
            self._note(produced, offset)
        else:
            await self._explain(produced, found.offset, offset)

    def _note(self, produced: Produced, offset: int) -> None:
        """What is on the log as the fold made it: where texts are erased, what came before it need not be."""
        if self.steps is not None:
            finding = self.steps.note(produced.topic, produced.value, produced.headers, first=True)
            if finding is not None:
                self._differ(offset, *finding)

    async def _compare_erased(self, steps: ErasedSteps, record: LogRecord, produced: Sequence[Produced]) -> None:
        """The outputs of one record behind the first whose texts are erased: another one may have been made, or one less."""
        places = dict.fromkeys((each.topic, each.partition) for each in produced)
        for place in (*places, *(known for known in self.live if known not in places)):
            outputs = self.live.setdefault(place, _Outputs(iter(())))
            await self._unexpected(place, outputs, record.offset, 0)
            made = [each for each in produced if (each.topic, each.partition) == place]
            found = outputs.of(record.offset)
            if [each.print for each in found] == [fingerprint(each.key, each.value, each.headers) for each in made]:
                self.equal += len(made)
                for each in made:
                    self._note(each, record.offset)
            elif not found and made and await self._may_have_expired(made[0]):
                self.expired += len(made)
            else:
                there = [each async for each in self.log.records_at(*place, [each.offset for each in found])]
                compared = await steps.compare(record, made, there)
                self.equal += compared.equal
                self.erased += compared.erased
                for finding in compared.findings:
                    self._differ(record.offset, *finding)
            outputs.begun = outputs.begun or bool(found)

    @property
    def _all_open(self) -> bool:
        """Whether erased texts may have decided about anything from here on."""
        return bool(self.runner.erased) and self.runner.fold is not None and self.runner.fold.texts_meet

    async def _unexpected(self, place: Place, outputs: _Outputs, source: int, ordinal: int) -> None:
        """Live records that claim to come from before (`source`, `ordinal`), and that the fold did not make there: another one
        that was made already, one out of its order, one that was never made."""
        for found in outputs.before(source, ordinal):
            if found.source >= self.start:
                self._differ(found.source, "unexpected", "nothing", f"{place[0]}/{place[1]}@{found.offset}")

    async def _may_have_expired(self, produced: Produced) -> bool:
        """A task writes in the order of its input and retention takes the oldest: nothing after a record that is still there."""
        output = produced.topic, produced.partition
        return produced.topic in _EXPIRING and not self.live[output].begun and await self.log.start(*output) > 0

    async def _explain(self, produced: Produced, found_at: int, offset: int) -> None:
        async for record in self.log.read(produced.topic, produced.partition, found_at, found_at + 1):
            if self._alike(produced, record):
                self.erased += 1
                return
            if record.key != produced.key:
                self._differ(offset, "key", repr(produced.key), repr(record.key))
            for path, expected, found in json_differences(produced.value, record.value or b""):
                self._differ(offset, f"value{path}", expected, found)
            headers = tuple(without_signature(record.topic, record.headers))
            if headers != produced.headers:
                self._differ(offset, "headers", str(produced.headers), str(headers))

    def _alike(self, produced: Produced, record: LogRecord) -> bool:
        """Whether two outputs of an owner who was erased differ in nothing but what comes from its texts."""
        if record.key != produced.key or tuple(without_signature(record.topic, record.headers)) != produced.headers:
            return False
        if not self.owners.owns(produced.topic, produced.value, produced.headers):
            return False
        return self.owners.owns(record.topic, record.value, record.headers) and self.owners.alike(produced.value, record.value)

    def _close_compacted(self) -> None:
        """Compaction may take any record but the newest of its key."""
        newest = set(self.newest.values())
        for source, produced in self.absent.items():
            if source in newest:
                self._differ(source[0], "missing", brief(produced.topic, produced.key, produced.value), "nothing")
            else:
                self.expired += 1

    async def _compare_ends(self) -> None:
        counters, recorded = self._comparable(self.runner.counters), self._comparable(self.position.counters)
        if recorded != counters:
            self._differ(None, "counters", str(dict(sorted(counters.items()))), str(dict(sorted(recorded.items()))))
        if self.position.now != self.runner.now:
            self._differ(None, "now", str(self.runner.now), str(self.position.now))
        same_form = self.position.state_version == self.runner.state_version
        if same_form and state_print(self.runner.entries()) == self.state:
            return self._compare_erased_ends(self.runner.dumped())
        changelog = await changelog_of(self.log, *self.task)  # whole, as only now it has to be shown
        if changelog.pop(POSITION_KEY, None) != encode_position(self.position) and same_form:
            if not self.owners:  # else it may be that one, but for values of who was erased, and is gone
                self._differ(None, "state", "the one that the fold made", "another one (the task has gone on since)")
            return
        if same_form:
            self._compare_erased_ends(changelog)
        if self._all_open:
            return  # the state is what was decided
        try:
            stage = self.runner.stage
            form = max(self.runner.state_version, min(self.position.state_version, stage.state_version))
            state = stage.upcast_state(self.position.state_version, changelog, form)
            expected = stage.upcast_state(self.runner.state_version, self.runner.dumped(), form)
        except UnknownVersion as error:
            self.not_comparable.append(NotComparable(*self.task, 0, self.position.next_offset, self.records, str(error)))
            return
        for key in sorted(expected.keys() | state.keys()):
            if expected.get(key) != state.get(key) and not self.owners.owns_state(key):
                self._differ(None, f"state {key}", repr(expected.get(key))[:200], repr(state.get(key))[:200])

    def _compare_erased_ends(self, changelog: Mapping[str, bytes]) -> None:
        for finding in () if self.steps is None else erased_ends(self.steps, self.owners, changelog):
            self._differ(None, *finding)

    def _comparable(self, counters: Mapping[str, int]) -> dict[str, int]:
        if self._all_open:
            return {RECORDS: counters.get(RECORDS, 0)}
        if self.erased or self.runner.erased:
            return self.owners.comparable(counters)
        return {name: count for name, count in counters.items() if count}

    def _differ(self, offset: int | None, field: str, expected: str, found: str) -> None:
        self.differences.append(Difference(*self.task, offset, field, expected, found))
