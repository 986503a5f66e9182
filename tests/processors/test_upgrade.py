"""A log that version 1 began and the newest goes on with, in the middle of state: verify and rebuild make what tasks made."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import structs

from headrace_lake.log import changelog_of, rules_of
from headrace_lake.positions import _fold
from headrace_lake.verify import verify
from headrace_processors.stages import STAGES
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.journal import POSITION_KEY, decode_position
from headrace_streams.runtime.provenance import provenance_of
from headrace_streams.runtime.stage import FoldStage
from support import histories
from support.histories import path_of, unpack
from support.memory_log import MemoryLog

STAGE = {stage.name: stage for stage in STAGES}
DAY_MS = 86_400_000
SOON: dict[str, dict[str, Any]] = {
    "link": {"expire_after_days": 1},
    "reward": {"expire_after_days": 1, "forget_after_days": 1},
    "curate": {"keep_days": 1, "age_limit_days": 0.5, "near_duplicate": 0.7, "contradictions": "wait"},
}


def first_of(stage: FoldStage) -> FoldStage:
    """As the code was that knew version 1 only."""
    return structs.replace(stage, versions={1: stage.versions[1]}, state_version=stage.state_version_of(1))


def body_of(stage: str, version: int) -> dict[str, Any]:
    return dict(histories.read(path_of(stage, version)).activations[0].body)


@pytest.mark.parametrize("part", [0.25, 0.6])
@pytest.mark.parametrize("name", ["intake", "link", "reward", "curate", "release"])
def test_a_log_of_both_versions_verifies_and_is_rebuilt_after_what_waited_has_expired(name: str, part: float) -> None:
    stage, history = STAGE[name], histories.read(path_of(name, 2))
    log = MemoryLog(2)
    body, later = body_of(name, 1), body_of(name, 2) | SOON.get(name, {})
    count = len(history.entries)
    for number, entry in enumerate(history.entries):
        if number == int(count * part):
            log.run(first_of(stage), body)
        if number > count * (part + 0.2) and number % 20 == 0:
            log.run(stage, later)
        log.time = max(log.time, entry.timestamp)
        headers = [(header, unpack(value) or b"") for header, value in entry.headers]
        source = provenance_of(headers)
        if source is not None and source.stage == name:  # it is written again here
            continue
        log.append(entry.topic, entry.partition, unpack(entry.key), unpack(entry.value), headers)
    log.run(stage, later)
    for _ in range(3):
        log.time += 2 * DAY_MS
        log.run(stage, later, overdue=True)
    report = asyncio.run(verify(log, [stage]))[name]
    assert (report.differences, report.not_comparable) == ([], [])
    for topic in stage.inputs:
        for partition in range(log.count):
            asyncio.run(rebuilt_as_recorded(log, stage, topic, partition))


async def rebuilt_as_recorded(log: MemoryLog, stage: FoldStage, topic: str, partition: int) -> None:
    changelog = await changelog_of(log, stage.name, topic, partition)
    position = decode_position(changelog.pop(POSITION_KEY))
    counts = {name: log.count for name in (*stage.outputs, "dead-letters")}
    runner = FoldRunner(stage, topic, partition, counts)
    await _fold(log, runner, position, (await rules_of(log))[stage.name, topic, partition], "")
    assert runner.dumped() == changelog
    assert (runner.now, runner.counters) == (position.now, position.counters)
