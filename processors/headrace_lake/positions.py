"""Where a task stands, set right by hand: its state made anew from the log, or a position behind input that is left out.

Both fence the task, so that a running worker starts it anew from what was written here. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from msgspec import UNSET
from msgspec.structs import replace

from headrace_lake.keys import sealing_of
from headrace_lake.log import Log, TaskRules, partitions_of, rules_of, shown_ahead
from headrace_schemas.codec import encode
from headrace_schemas.derived import PositionSkip
from headrace_schemas.events import PositionSkipped, make
from headrace_schemas.ids import derive_id
from headrace_schemas.root_error import NO, HeadraceError
from headrace_schemas.topology import StageTopology
from headrace_streams.kafka.reader import Reader
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.journal import BATCH_BYTES, Journal, Position, Rules
from headrace_streams.runtime.provenance import origin_without_input, provenance_of
from headrace_streams.runtime.session import now_ms
from headrace_streams.runtime.stage import FoldStage, InvalidBody, StatelessFold, UnknownVersion
from headrace_streams.runtime.step import Produced
from headrace_streams.settings import Settings

REBUILDING = 0  # a state version that no code has: a rebuild that was cut short is refused, not taken for a state


class NotRebuilt(HeadraceError):
    """The state can't be made from what the log has; nothing was changed."""

    exit_code = NO


class Rebuilt(NamedTuple):
    """What a rebuild did: records folded, state keys that it has now, and how many of them are other than before, or gone."""

    records: int
    keys: int
    changed: int
    removed: int


async def rebuild_state(settings: Settings, log: Log, stage: FoldStage, topic: str, partition: int) -> Rebuilt:
    """Folds a task's whole input again, under the rules that the log names, and replaces its changelog by the outcome.

    A changelog that was lost is made anew too: the position is behind the last record that led to an output. Writes no outputs:
    those are on the log. Raises NotRebuilt, and what a journal raises."""
    label = f"{stage.name}/{topic}/{partition}"
    journal = Journal(settings, stage.name, topic, partition, stage.outputs)
    try:
        await journal.open(mend=True)
        position = recorded = journal.position
        task = stage.name, topic, partition
        rules = (await rules_of(log))[task]
        counts = await partitions_of(log, (*stage.outputs, "dead-letters"))
        if position is None:
            written = await _end_of_outputs(log, task, rules, counts)
            end = min(written, (await Reader(settings).spans(topic))[partition].end)  # headers may claim anything
            position = Position(next_offset=end, partitions=journal.partitions[topic])
        runner = FoldRunner(stage, topic, partition, counts, await sealing_of(log))
        records, in_force = await _fold(log, runner, position, rules, label)
        if recorded is None:
            position = replace(position, now=runner.now, counters=runner.counters, rules=in_force)
        state = runner.dumped() if runner.fold is not None else {}
        changes: dict[str, bytes | None] = {key: value for key, value in state.items() if journal.state.get(key) != value}
        removed = journal.state.keys() - state.keys()
        changes |= dict.fromkeys(removed)
        await _replace(journal, changes, replace(position, watched=UNSET), runner.state_version)
        return Rebuilt(records, len(state), len(changes) - len(removed), len(removed))
    finally:
        await journal.close()


async def _end_of_outputs(log: Log, task: tuple[str, str, int], rules: TaskRules, topics: Iterable[str]) -> int:
    """Behind the last input record that led to an output, that rules hold from or that was skipped: what follows it led
    to nothing that is on the log."""
    if not rules.activations:
        raise NotRebuilt(f"{task[0]}/{task[1]}/{task[2]}: there is neither a position nor rules, so nothing was ever folded")
    end = max([rules.activations[-1].from_offset, *(skipped.to_offset for skipped in rules.skips)])
    for topic in topics:
        for partition in range(await log.partitions(topic)):
            async for record in log.read(topic, partition):
                source = provenance_of(record.headers)
                if source is not None and source[:3] == task:
                    end = max(end, source.offset + 1)
    return end


async def _fold(log: Log, runner: FoldRunner, position: Position, rules: TaskRules, label: str) -> tuple[int, Rules | None]:
    """Folds the input up to the position; how many records that were, and the rules in force at its end."""
    activations = list(rules.activations)
    start = await log.start(runner.topic, runner.partition)
    records, in_force = 0, None
    async for record in shown_ahead(runner, log.read(runner.topic, runner.partition, start, position.next_offset)):
        while activations and activations[0].from_offset <= record.offset:
            activation = activations.pop(0)
            try:
                runner.activate(activation.version, activation.body, activation.digest)
            except (UnknownVersion, InvalidBody) as error:
                raise NotRebuilt(f"{label}: {error}") from error
            in_force = Rules(activation.version, activation.digest)
        if rules.skipped(record.offset):
            continue
        if runner.fold is None:
            raise NotRebuilt(f"{label}: offset {record.offset} has no rules in force on the log")
        if start and not isinstance(runner.fold, StatelessFold):
            raise NotRebuilt(f"{label}: input before offset {start} has expired, and the state was made of it too")
        runner.run(record)
        records += 1
    return records, in_force


async def _replace(journal: Journal, changes: dict[str, bytes | None], position: Position, state_version: int) -> None:
    """Writes the changes in transactions of bounded size; only the last one makes the state one that a task takes."""
    portion: dict[str, bytes | None] = {}
    size = 0
    for key, value in changes.items():
        portion[key] = value
        size += len(key) + len(value or b"")
        if size >= BATCH_BYTES:
            await journal.commit([], portion, replace(position, state_version=REBUILDING))
            portion, size = {}, 0
    await journal.commit([], portion, replace(position, state_version=state_version))


class NotSkipped(HeadraceError):
    """A task can't go on from there; nothing was changed."""

    exit_code = NO


class Skipped(NamedTuple):
    """Input offsets [start, end) that a task leaves out, and how many of them the log no longer has."""

    start: int
    end: int
    removed: int


async def skip(
    settings: Settings,
    stage: StageTopology,
    topic: str,
    partition: int,
    to: str,
    *,
    reason: str,
    requested_by: str | None = None,
    really: bool = True,
) -> Skipped:
    """Moves a task's position to `to`: an offset, "start" (the first record that is kept) or "end". The loss stands on `rules`,
    in the same transaction. Not `really`: only says what would be left out. Raises NotSkipped, and what a journal raises."""
    label = f"{stage.name}/{topic}/{partition}"
    journal = Journal(settings, stage.name, topic, partition, stage.outputs)
    try:
        await journal.open()
        position = journal.position
        if position is None:
            raise NotSkipped(f"{label}: there is no position: `headrace positions rebuild {label}` makes one, if it ever ran")
        span = (await Reader(settings).spans(topic))[partition]
        target = span.begin if to == "start" else span.end if to == "end" else int(to)
        at = position.next_offset
        if target > span.end:
            raise NotSkipped(f"{label}: offset {target} is beyond the log's end, {span.end}")
        if target < span.begin:
            raise NotSkipped(f"{label}: offset {target} is no longer on the log, which begins at {span.begin}")
        if target <= at:
            lost = "; the log has lost its end: restore the topic, or start another deployment" if at > span.end else ""
            raise NotSkipped(f"{label}: offset {target} is not behind its position, {at}: nothing is folded twice{lost}")
        skipped = Skipped(at, target, max(0, min(target, span.begin) - at))
        if really:
            data = PositionSkip(
                stage=stage.name,
                topic=topic,
                partition=partition,
                from_offset=at,
                to_offset=target,
                removed=skipped.removed,
                reason=reason,
                requested_by=requested_by,
            )
            identity = derive_id("position.skipped", label, at, target)
            event = make(PositionSkipped, data, id=identity, writer=stage.name, time_ms=now_ms())
            told = Produced("rules", 0, label.encode(), encode(event), origin_without_input(f"{stage.name}.skip"))
            await journal.commit([told], {}, replace(position, next_offset=target))
        return skipped
    finally:
        await journal.close()
