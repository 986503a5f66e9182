"""Two policies over one input partition: the rules that the log names, and a policy that takes over from some time on.

Knows folds and records, not what a stage decides. Both sides are given the records in their recorded order: what one made of them
is then what was recorded, and what differs on the other is the policy's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from headrace_lake.log import LogRecord, TaskRules
from headrace_schemas.canonical import digest
from headrace_schemas.codec import encode
from headrace_schemas.root_error import NO, HeadraceError
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.provenance import origin_without_input
from headrace_streams.runtime.sealing import PlainTexts
from headrace_streams.runtime.stage import FoldStage, InvalidBody, UnknownVersion
from headrace_streams.runtime.step import Processed

PATIENCE_MS = 60_000  # after a deadline before time passes by itself: a live task says so within seconds
_KEYS = 500  # whose time passes at once


class NotTried(HeadraceError):
    """The two policies can't be compared over this log; one line that says why."""

    exit_code = NO


class PolicyTrial:
    """One task's input under two policies. `before` is always there, `after` once the new policy is in force.

    `takes_over_ms`: append time from which on the new policy holds, with the state that there is then; None: from the beginning.
    `instead`: a policy body that stands in for all recorded ones, under the newest rules."""

    def __init__(
        self,
        stage: FoldStage,
        topic: str,
        partition: int,
        partitions: Mapping[str, int],
        rules: TaskRules,
        body: Mapping[str, Any],
        *,
        takes_over_ms: int | None = None,
        instead: Mapping[str, Any] | None = None,
    ) -> None:
        self.before = FoldRunner(stage, topic, partition, partitions, PlainTexts())
        self.after: FoldRunner | None = None
        self._partitions, self._body, self._takes_over_ms = partitions, body, takes_over_ms
        self._rules, self._instead = rules, instead
        self._activations = list(rules.activations)
        self._tick = origin_without_input(f"{stage.name}.tick")

    def is_skipped(self, record: LogRecord) -> bool:
        """Whether people told the task to leave a record out."""
        return self._rules.skipped(record.offset)

    def activate(self, record: LogRecord) -> bool:
        """Puts in force what holds from a record on; whether the new policy takes over with it. Raises NotTried."""
        runner = self.before
        try:
            if self._instead is not None:
                if runner.fold is None:
                    runner.activate_newest(self._instead)
            else:
                while self._activations and self._activations[0].from_offset <= record.offset:
                    activation = self._activations.pop(0)
                    runner.activate(activation.version, activation.body, activation.digest)
            if runner.fold is None:
                raise NotTried(
                    f"{runner.stage.name} over {runner.topic}/{runner.partition}: the log names no policy that was in force at "
                    f"offset {record.offset}: has a worker ever run here?"
                )
            if self.after is None and (self._takes_over_ms is None or record.timestamp >= self._takes_over_ms):
                self.after = self._taken_over()
                return True
        except (UnknownVersion, InvalidBody) as error:
            raise NotTried(f"{error}; what was decided under it can't be compared") from error
        return False

    def pass_time(self, record: LogRecord) -> Iterator[Processed]:
        """What the new policy does by itself before a record comes, when its deadlines have passed. Those that the recorded
        policy has too pass where they are recorded to have passed."""
        after = self.after
        assert after is not None
        if after.deadlines is None:
            return
        assert after.fold is not None
        while (at := after.deadlines.earliest) is not None and at + PATIENCE_MS <= record.timestamp:
            keys = [key for key in after.deadlines.overdue(after.state, at, _KEYS) if not self._passes_by_record(key)]
            for write in after.fold.overdue(after.state, keys, max(at, after.now)) if keys else ():
                value = write.value if isinstance(write.value, bytes) else encode(write.value)
                key = write.key.encode()
                yield after.run(LogRecord(after.topic, after.partition, record.offset, at, key, value, self._tick))
        if after.deadlines.waiting:  # those of both policies are looked at again, in case the recorded one has another by then
            after.deadlines.settle(record.timestamp)

    def _passes_by_record(self, key: str) -> bool:
        """Whether the recorded policy has the same deadline for a state key."""
        assert self.before.fold is not None
        assert self.after is not None
        assert self.after.fold is not None
        value = self.before.state.get(key)
        if value is None:
            return False
        return self.before.fold.deadline(key, value) == self.after.fold.deadline(key, self.after.state[key])

    def _taken_over(self) -> FoldRunner:
        before = self.before
        runner = FoldRunner(before.stage, before.topic, before.partition, self._partitions, PlainTexts())
        runner.state, runner.state_version, runner.fold = dict(before.state), before.state_version, before.fold
        runner.counters, runner.now = dict(before.counters), before.now
        runner.activate_newest(self._body)
        runner.watch(PATIENCE_MS)
        return runner


def is_tried(stage: FoldStage, rules: TaskRules, body: Mapping[str, Any], instead: Mapping[str, Any] | None) -> bool:
    """Whether a task could decide otherwise under a policy body: not if it ran under no other, by the newest rules."""
    name = digest(body)
    if instead is not None:
        return digest(instead) != name
    return any(activation.version != stage.version or activation.digest != name for activation in rules.activations)
