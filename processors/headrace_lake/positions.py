"""The state of a task made anew from the log: what to do when a changelog can't be read any more. Decides nothing."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from headrace_lake.log import Log, rules_of
from headrace_schemas.root_error import NO, HeadraceError
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.journal import BATCH_BYTES, Journal, Position
from headrace_streams.runtime.stage import FoldStage, InvalidBody, StatelessFold, UnknownVersion
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

    Fences the task, so that a running worker starts it anew from the new state. Writes no outputs: those are on the log. Raises
    NotRebuilt, and what a journal raises."""
    label = f"{stage.name}/{topic}/{partition}"
    journal = Journal(settings, stage.name, topic, partition, (topic, *stage.outputs))
    try:
        await journal.open(mend=True)
        position = journal.position
        if position is None:
            raise NotRebuilt(f"{label}: there is no position, so nothing was ever folded")
        counts = {name: await log.partitions(name) for name in (*stage.outputs, "dead-letters")}
        runner = FoldRunner(stage, topic, partition, counts)
        records = await _fold(log, runner, position, label)
        state = runner.dumped() if runner.fold is not None else {}
        changes: dict[str, bytes | None] = {key: value for key, value in state.items() if journal.state.get(key) != value}
        removed = journal.state.keys() - state.keys()
        changes |= dict.fromkeys(removed)
        await _replace(journal, changes, position, runner.state_version)
        return Rebuilt(records, len(state), len(changes) - len(removed), len(removed))
    finally:
        await journal.close()


async def _fold(log: Log, runner: FoldRunner, position: Position, label: str) -> int:
    """Folds the input up to the position; how many records that were."""
    activations = (await rules_of(log)).get((runner.stage.name, runner.topic, runner.partition), [])
    start = await log.start(runner.topic, runner.partition)
    records = 0
    async for record in log.read(runner.topic, runner.partition, start, position.next_offset):
        while activations and activations[0].from_offset <= record.offset:
            rules = activations.pop(0)
            try:
                runner.activate(rules.version, rules.body, rules.digest)
            except (UnknownVersion, InvalidBody) as error:
                raise NotRebuilt(f"{label}: {error}") from error
        if runner.fold is None:
            raise NotRebuilt(f"{label}: offset {record.offset} has no rules in force on the log")
        if start and not isinstance(runner.fold, StatelessFold):
            raise NotRebuilt(f"{label}: input before offset {start} has expired, and the state was made of it too")
        runner.run(record)
        records += 1
    return records


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
