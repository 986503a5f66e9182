"""A corpus through the folds of intake, reward and curate in one process: what they admit, cut and reject. Knows no Kafka.

Each stage is one task in memory under its newest rules and the policy that is given; a record follows the one before it by a
second, as if all of it had come today.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode
from headrace_schemas.derived import Batch, Example
from headrace_schemas.events import ExampleRejected, ExampleRewarded
from headrace_streams.policy import Policy
from headrace_streams.runtime.step import Produced
from headrace_streams.testing import MemoryTask
from real import corpora


class Folded(NamedTuple):
    """`values`: records of `examples` by (example id, revision), `examples` the same decoded; `rejected`: those of curate."""

    batches: list[Batch]
    values: dict[tuple[str, int], bytes]
    examples: dict[tuple[str, int], Example]
    rejected: list[Any]
    counters: dict[str, dict[str, int]]


class Chain:
    """The three stages, each a task in memory; what one writes the next reads."""

    def __init__(self, policies: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.written: dict[str, list[Produced]] = defaultdict(list)
        self.tasks: dict[str, MemoryTask] = {}
        for stage in STAGES:
            if stage.name in ("intake", "reward", "curate"):
                policy: Policy = stage.policy(**(policies or {}).get(stage.name, {}))
                for topic in stage.inputs:
                    self.tasks[topic] = MemoryTask(stage, topic, policy)

    def publish(self, said: corpora.Said, number: int) -> None:
        """One line of a corpus, as an agent publishes it."""
        self.feed(*corpora.published(said, f"e{number}"))

    def feed(self, topic: str, value: bytes | None, key: bytes | None = None, headers: Any = ()) -> None:
        for produced in self.tasks[topic].feed(value, key=key, headers=headers).produced:
            self.written[produced.topic].append(produced)
            if produced.topic in self.tasks:
                self.feed(produced.topic, produced.value, produced.key, produced.headers)


def folded(lines: Iterable[corpora.Said], policies: Mapping[str, Mapping[str, Any]] | None = None) -> Folded:
    """What the stages make of the lines of a corpus. `policies`: of each stage, what differs from the defaults."""
    chain = Chain(policies)
    for number, said in enumerate(lines):
        chain.publish(said, number)
    values: dict[tuple[str, int], bytes] = {}
    examples: dict[tuple[str, int], Example] = {}
    for produced in chain.written["examples"]:
        assert produced.value is not None
        decoded = decode(produced.value)
        if isinstance(decoded, ExampleRewarded):
            key = (decoded.data.example_id, decoded.data.revision)
            values[key], examples[key] = produced.value, decoded.data
    batches = [decode(produced.value or b"").data for produced in chain.written["batches"]]
    rejected = [decode(produced.value or b"") for produced in chain.written["rejections"]]
    return Folded(
        [batch for batch in batches if isinstance(batch, Batch)],
        values,
        examples,
        [each.data for each in rejected if isinstance(each, ExampleRejected)],
        {topic: dict(task.counters) for topic, task in chain.tasks.items()},
    )
