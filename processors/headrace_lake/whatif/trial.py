"""What-if: the recorded signals, examples and outcomes under another policy, beside what was made of them. Reads any log or lake.

Each topic is read once, in its recorded order, one partition at a time: the state of one task under both policies is in memory,
what differs between signals and examples is on disk. The order is the recorded one and not that of event time, in which
`rebuild` goes: only so is one side what was recorded, byte for byte, and only so can one partition be done after another.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any

from headrace_lake.log import Log, LogRecord, TaskRules, partitions_of, rules_of, windows
from headrace_lake.manifest import LAKE_TOPICS
from headrace_lake.whatif.examples import CurateTask, ExamplesTally
from headrace_lake.whatif.releases import ReleasesTally, run_release
from headrace_lake.whatif.report import (
    TEXT,
    ExampleFlip,
    FlipTexts,
    PolicyDifference,
    RejectionsTrial,
    WhatIfReport,
    changed_keys,
)
from headrace_lake.whatif.rewards import RewardsTally, RewardTask
from headrace_lake.whatif.sides import NotTried, PolicyTrial, is_tried
from headrace_lake.whatif.spool import Spool
from headrace_schemas.canonical import digest
from headrace_schemas.codec import decode
from headrace_schemas.events import ExampleRewarded
from headrace_schemas.text import render
from headrace_schemas.times import rfc3339
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.runtime.stage import FoldStage

TRIED = ("reward", "curate", "release")
TAKEN = ("intake", "link", "attribute")  # whose decisions are taken as they were recorded
TOP = 10
Body = Mapping[str, Any]


class WhatIf:
    """One trial. `bodies`: the new policy, stage name -> policy body; `against`: bodies that stand in for the recorded policies.

    `since_ms`: the new policy holds for what was appended from then on; `bucket`: what is counted. `told` hears the number of
    records folded so far."""

    def __init__(
        self,
        log: Log,
        stages: Sequence[FoldStage],
        bodies: Mapping[str, Body],
        *,
        against: Mapping[str, Body] | None = None,
        since_ms: int | None = None,
        bucket: str | None = None,
        top: int = TOP,
        told: Callable[[int], None] = lambda records: None,
    ) -> None:
        self._log, self._bodies, self._against = log, bodies, against
        self._stages = {stage.name: stage for stage in stages}
        self._since_ms, self._bucket, self._top, self._told = since_ms, bucket, top, told
        self._records = 0
        self._rules: Mapping[tuple[str, str, int], TaskRules] = {}

    async def run(self) -> WhatIfReport:
        """The report. Raises NotTried, and what the log raises."""
        self._rules = await rules_of(self._log)
        since = None if self._since_ms is None else rfc3339(self._since_ms)
        report = WhatIfReport(self._differences(), since, self._bucket, self._notes())
        with closing(Spool()) as spool:
            rewards = await self._rewards(spool)
            examples = await self._examples(spool, rewards)
            report.rewards, report.examples = rewards.trial, examples.trial
            report.batches = [examples.batches[name] for name in sorted(examples.batches)]
            before, after = rewards.before + examples.before, rewards.after + examples.after
            report.rejections = RejectionsTrial(dict(before.most_common()), dict(after.most_common()))
            await self._add_texts(spool, [*report.rewards.largest, *report.examples.largest])
        releases = await self._releases(examples)
        report.releases = releases.trial
        return report

    async def _rewards(self, spool: Spool) -> RewardsTally:
        tally = RewardsTally(self._top, self._bucket)
        async for trial, topic, partition in self._tasks("reward"):
            if not self._is_tried("reward"):
                tally.trial.tried = False
                break
            task = RewardTask(trial, tally, spool)
            async for record in self._read(topic, partition):
                task.run(record)
            task.finish()
        tally.trial.largest = tally.largest.flips()
        return tally

    async def _examples(self, spool: Spool, rewards: RewardsTally) -> ExamplesTally:
        tally = ExamplesTally(self._top, self._bucket, spool)
        wanted: dict[str, list[ExampleFlip]] = {}
        for flip in rewards.trial.largest:
            wanted.setdefault(flip.example_id, []).append(flip)
        async for trial, topic, partition in self._tasks("curate"):
            if self._bucket is not None and partition != partition_for(self._bucket.encode(), await self._log.partitions(topic)):
                continue
            task = CurateTask(trial, tally, spool, wanted)
            async with aclosing(windows(self._read(topic, partition))) as listed:
                async for window in listed:
                    task.run(window)
            task.finish()
        tally.finish()
        return tally

    async def _releases(self, examples: ExamplesTally) -> ReleasesTally:
        tally = ReleasesTally(self._top, self._bucket, examples.only_before)
        async for trial, topic, partition in self._tasks("release"):
            if not self._is_tried("release"):
                tally.trial.tried = False
                break
            async for record in self._read(topic, partition):
                run_release(trial, tally, record)
        tally.finish()
        return tally

    async def _tasks(self, name: str) -> AsyncIterator[tuple[PolicyTrial, str, int]]:
        """Every task of a stage, with its topic and partition."""
        stage = self._stages[name]
        read = [topic for topic in (*stage.outputs, "dead-letters") if topic in LAKE_TOPICS]
        counts = dict.fromkeys(stage.outputs, 1) | await partitions_of(self._log, read)
        for topic in stage.inputs:
            for partition in range(await self._log.partitions(topic)):
                if start := await self._log.start(topic, partition):
                    raise NotTried(f"{topic}/{partition}: what was appended before offset {start} is gone, and with it the state")
                trial = PolicyTrial(
                    stage,
                    topic,
                    partition,
                    counts,
                    self._rules[name, topic, partition],
                    self._bodies[name],
                    takes_over_ms=self._since_ms,
                    instead=None if self._against is None else self._against[name],
                )
                yield trial, topic, partition

    async def _read(self, topic: str, partition: int) -> AsyncGenerator[LogRecord, None]:
        async with aclosing(self._log.read(topic, partition)) as records:
            async for record in records:
                self._records += 1
                self._told(self._records)
                yield record

    def _recorded(self, name: str) -> Iterator[TaskRules]:
        return (rules for (stage, _, _), rules in self._rules.items() if stage == name)

    def _is_tried(self, name: str) -> bool:
        instead = None if self._against is None else self._against[name]
        return any(is_tried(self._stages[name], rules, self._bodies[name], instead) for rules in self._recorded(name))

    def _newest(self, name: str) -> list[Body]:
        """The policy bodies that the tasks of a stage ran under last: one, unless a task has not run since it was changed."""
        if self._against is not None:
            return [self._against[name]]
        last = [activation for rules in self._recorded(name) for activation in rules.activations[-1:]]
        return list({activation.digest: activation.body for activation in last}.values())

    def _differences(self) -> list[PolicyDifference]:
        found: list[PolicyDifference] = []
        for name in TRIED:
            for old in self._newest(name):
                differences = [PolicyDifference(name, *change) for change in changed_keys(old, self._bodies[name])]
                found += [difference for difference in differences if difference not in found]
        return found

    def _notes(self) -> list[str]:
        notes: list[str] = []
        for name in TAKEN:
            if any(digest(old) != digest(self._bodies[name]) for old in self._newest(name)):
                notes.append(f"the policy of {name} differs too; signals are taken as they were recorded")
        for name in TRIED:
            newest = self._stages[name].version
            versions = {activation.version for rules in self._recorded(name) for activation in rules.activations} - {newest}
            if versions and self._against is None:
                listed = ", ".join(map(str, sorted(versions)))
                notes.append(f"{name} ran by rule version {listed} too; the new policy is tried by {newest}: both differ here")
            bodies = {activation.digest for rules in self._recorded(name) for activation in rules.activations}
            if len(bodies) > 1 and self._against is None:
                notes.append(f"{name} ran under {len(bodies)} policies; each holds here where it held")
        return notes

    async def _add_texts(self, spool: Spool, flips: Sequence[ExampleFlip]) -> None:
        """What was asked and answered, of the few flips that are shown."""
        for flip in flips:
            value = spool.content(flip.example_id)
            if value is None and flip.place is not None:
                topic, partition, offset = flip.place.split("/")
                async for record in self._log.records_at(topic, int(partition), [int(offset)]):
                    value = record.value
            event = None if value is None else decode(value)
            if isinstance(event, ExampleRewarded):
                content = event.data.content
                output, target = render(content.output)[:TEXT], render(content.target)[:TEXT]
                flip.texts = FlipTexts(render(content.prompt)[:TEXT], output, None if target == output else target)
