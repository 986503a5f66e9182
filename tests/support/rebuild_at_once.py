"""Rebuild as plainly as it can be said: every signal in its order, what comes of it at once, all partitions' state in memory.

What `headrace_lake.rebuild` must say too, record by record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from headrace_lake.log import Log, LogRecord
from headrace_lake.rebuild import CHAIN, signals_in_order
from headrace_schemas.codec import encode
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.provenance import origin_without_input
from headrace_streams.runtime.stage import FoldStage
from headrace_streams.runtime.step import Produced


async def rebuilt_at_once(log: Log, stages: Sequence[FoldStage], policies: Mapping[str, Mapping[str, Any]]) -> list[Produced]:
    chain = [stage for name in CHAIN for stage in stages if stage.name == name]
    partitions = {topic: await log.partitions(topic) for stage in chain for topic in (*stage.outputs, "dead-letters")}
    runners: dict[tuple[str, int], FoldRunner] = {}
    offsets: Counter[tuple[str, int]] = Counter()
    by_input = {stage.inputs[0]: stage for stage in chain}

    def follow(topic: str, partition: int, time_ms: int, record: LogRecord | Produced) -> list[Produced]:
        stage, task = by_input[topic], (topic, partition)
        if task not in runners:
            runners[task] = FoldRunner(stage, topic, partition, partitions)
            runners[task].activate_newest(policies[stage.name])
        given = LogRecord(topic, partition, offsets[task], time_ms, record.key, record.value, tuple(record.headers))
        offsets[task] += 1
        written: list[Produced] = []
        processed = runners[task].run(given)
        for produced in (*processed.produced, *due_at_once(task, time_ms, processed.changes)):
            written.append(produced)
            if produced.topic in by_input:
                written += follow(produced.topic, produced.partition, time_ms, produced)
        return written

    def due_at_once(task: tuple[str, int], time_ms: int, changes: Mapping[str, Any]) -> list[Produced]:
        runner = runners[task]
        fold = runner.fold
        assert fold is not None
        keys = [key for key, value in changes.items() if value is not None and fold.deadline(key, value) == 0]
        headers = origin_without_input(f"{runner.stage.name}.tick")
        return [
            Produced(*task, write.key.encode(), write.value if isinstance(write.value, bytes) else encode(write.value), headers)
            for write in (fold.overdue(runner.state, keys, time_ms) if keys else ())
        ]

    return [
        produced
        async for signal in signals_in_order(log)
        for produced in follow("signals", signal.record.partition, signal.time_ns // 1_000_000, signal.record)
    ]
