"""A whole ring in memory: what agents and people publish goes through every stage; a stand-in for the trainer answers batches.

Deterministic: the same arguments make the same log, byte for byte.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import structs

from headrace_lake.log import LogRecord, changelog_of
from headrace_lake.manifest import LAKE_TOPICS, LakeFolder, Manifest
from headrace_lake.segments import SegmentColumns, write_segment
from headrace_processors import policy_file
from headrace_processors.curate.state import describe_buckets
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode, encode
from headrace_schemas.derived import Batch, Member, ModelVersion, TrainingCompletion, TrainingFailure, TrainingStart
from headrace_schemas.events import (
    BatchReady,
    EvaluationCompleted,
    Event,
    ModelVersionCreated,
    ReleasePromoted,
    TrainingCompleted,
    TrainingFailed,
    TrainingStarted,
    make,
)
from headrace_schemas.ids import derive_id
from headrace_schemas.selection import dataset_members, members_digest
from headrace_streams.runtime.provenance import Provenance, origin
from support.memory_log import MemoryLog
from support.outcomes import adapter, evaluation
from support.signals import event

ORDER = ("intake", "link", "reward", "curate")
BUCKET = "sql/tiny"


class MemoryRing:
    """`log` is what it has written. Each `round` publishes, folds, and trains what was cut."""

    def __init__(self, seed: int = 0, *, partitions: int = 2, target: float = 6.0) -> None:
        self.log = MemoryLog(partitions)
        self.bodies: dict[str, dict[str, Any]] = policy_file.load(None).bodies()
        self.bodies["curate"] |= {"target_effective_size": target, "near_duplicate": None, "fresh_share": 0.0, "graded": ["sql"]}
        self.bodies["reward"]["draw"]["artifact_types"] = ["sql"]
        self.bodies["release"] |= {"rule": "gate"}
        self._draw = random.Random(seed)
        self._number = 0
        self._trained: set[str] = set()
        self._members: defaultdict[str, list[Member]] = defaultdict(list)

    def round(self, interactions: int = 20, *, odd: bool = True) -> None:
        for _ in range(interactions):
            self._one(odd)
        self.turn()

    def turn(self) -> None:
        """What was published goes through all stages."""
        self._fold(*ORDER)
        self._train()
        self._fold("release", "curate")

    def publish(self, topic: str, value: bytes, partition: int | None = None) -> LogRecord:
        at = self._draw.randrange(self.log.count) if partition is None else partition
        return self.log.append(topic, at, None, value)

    def _one(self, odd: bool) -> None:
        self._number += 1
        name, draw = f"i-{self._number}", self._draw
        data: dict[str, Any] = {
            "interaction_id": name,
            "agent": {"name": f"bot-{self._number % 3}", "role": "analyst"},
            "artifact_type": "sql",
            "model": "tiny",
            "prompt": f"how many orders of kind {self._number}?" if draw.random() < 0.9 else [{"role": "user", "content": "hm?"}],
            "output": f"select count(*) from orders where kind = {self._number}",
            "refs": [{"system": "jira", "id": f"OPS-{self._number}"}],
            "prompt_group": f"group-{self._number}",
            "latency_ms": 10.5,
        }
        if odd and draw.random() < 0.2:
            data["data_subject"] = f"subject-{self._number % 4}"
        self.publish("interactions", event("interaction.recorded", data, id=name))
        choice = draw.random()
        if odd and choice < 0.1:
            return  # nothing is ever said of it
        right = choice < 0.8
        said: dict[str, Any] = {"feedback_id": f"f-{self._number}", "kind": "success" if right else "validation_failure"}
        said["score"] = 100 if right else 10
        said["principal"] = {"id": f"rater-{self._number % 5}", "kind": "human"}
        if draw.random() < 0.3:
            said["ref"] = {"system": "jira", "id": f"OPS-{self._number}"}
        else:
            said["interaction_id"] = name
        if not right:
            said |= {"kind": "user_correction", "corrected_output": f"select {self._number}"}
        self.publish("feedback", event("feedback.recorded", said, id=f"f-{self._number}"))
        if odd and draw.random() < 0.05:
            self.publish("interactions", event("interaction.retracted", {"interaction_id": name}, id=f"r-{self._number}"))
        if odd and draw.random() < 0.1:  # once more, and once with something else in it
            self.publish("interactions", event("interaction.recorded", data | {"output": "select 2"}, id=name))
            self.publish("feedback", event("feedback.recorded", said, id=f"f-{self._number}"))
        if odd and draw.random() < 0.05:
            self.publish("feedback", b"no event at all")

    def _fold(self, *names: str) -> None:
        for name in names:
            stage = next(stage for stage in STAGES if stage.name == name)
            self.log.run(stage, self.bodies[name])

    def _train(self) -> None:
        for record in self.log.of("batches"):
            batch = decode(record.value)
            if isinstance(batch, BatchReady) and batch.data.batch_id not in self._trained:
                self._trained.add(batch.data.batch_id)
                self._train_batch(batch.data, record)

    def _train_batch(self, batch: Batch, record: LogRecord) -> None:
        run_id = derive_id("run", batch.batch_id)
        version_id = derive_id("version", run_id)
        common: dict[str, Any] = {"bucket": batch.bucket, "batch_id": batch.batch_id, "run_id": run_id}
        ordinals = iter(range(10))

        def write(topic: str, kind: type[Any], data: Any) -> None:
            made: Event = make(kind, data, id=derive_id(topic, run_id, kind.__name__), writer="train", time_ms=record.timestamp)
            headers = origin(Provenance("train", "batches", record.partition, record.offset, next(ordinals)))
            self.log.append(topic, record.partition, batch.bucket.encode(), encode(made), headers)

        start = TrainingStart(
            **common, base=batch.base, seed=1, method="lora", hyperparameters={}, policy_digests={},
            rehearsal=self._members[batch.bucket][:3],
        )  # fmt: skip
        write("runs", TrainingStarted, start)
        self._members[batch.bucket] += batch.members
        taught = members_digest(dataset_members(batch, start))
        if len(self._trained) % 4 == 0:
            write("runs", TrainingFailed, TrainingFailure(**common, attempts=3, error="out of memory"))
            return
        version = ModelVersion(
            **common, version_id=version_id, artifact_type=batch.artifact_type, base=batch.base, adapter=adapter(version_id),
            method="lora", hyperparameters={}, rows=len(batch.members), tokens=100, seconds=1.0,
            dataset_digest=taught,
        )  # fmt: skip
        write("versions", ModelVersionCreated, version)
        compared = decode(evaluation(version_id, self._served(batch.bucket), bucket=batch.bucket, wins=40, losses=1))
        assert isinstance(compared, EvaluationCompleted)
        said = structs.replace(compared.data, batch_id=batch.batch_id, run_id=run_id, dataset_digest=taught)
        said = structs.replace(said, artifact_type=batch.artifact_type, base=batch.base)
        write("outcomes", EvaluationCompleted, said)
        done = TrainingCompletion(**common, version_id=version_id, evaluation_id=compared.data.evaluation_id, seconds=1.0)
        write("runs", TrainingCompleted, done)
        self._fold("release")

    def _served(self, bucket: str) -> str | None:
        found: str | None = None
        for record in self.log.of("releases.history"):
            answer = decode(record.value)
            if isinstance(answer, ReleasePromoted) and answer.data.bucket == bucket:
                found = answer.data.release_id
        return found


def buckets_of(log: MemoryLog) -> list[dict[str, Any]]:
    """How full curate's buckets are, as `headrace status --json` says it."""
    states = [asyncio.run(changelog_of(log, "curate", "examples", partition)) for partition in range(log.count)]
    return [bucket for state in states for bucket in describe_buckets(state)]


def lake_of(log: MemoryLog, path: Path, *, rows: int = 50, ends: Mapping[tuple[str, int], int] | None = None) -> LakeFolder:
    """A lake of all that a log in memory holds (or up to `ends`), in segments of `rows` records."""
    folder = LakeFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    manifest: Manifest = folder.bound("memory", "in-memory")
    cut, segments = {}, list(manifest.segments)
    for topic in LAKE_TOPICS:
        for partition in range(asyncio.run(log.partitions(topic))):
            records = log.records.get((topic, partition), [])
            end = records[-1].offset + 1 if records else 0
            end = end if ends is None else min(end, ends.get((topic, partition), end))
            start = manifest.offset((topic, partition)) or 0
            records = [record for record in records if start <= record.offset < end]
            for first in range(0, len(records), rows):
                columns = SegmentColumns(topic, partition)
                for record in records[first : first + rows]:
                    columns.add(record.offset, record.timestamp, record.key, record.value, record.headers)
                last = records[first : first + rows][-1].offset + 1
                segments.append(write_segment(folder.segments, [columns.table()], start, last))
                start = last
            cut[topic, partition] = end
    folder.store(manifest.moved(cut, segments))
    return folder
