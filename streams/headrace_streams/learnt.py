"""What a version has learnt that was taken back since. Knows events of batches, runs and withdrawals, no trainer.

The release stage looks at what an evaluation says, and that may be older than what was taken back: who asks for a version by hand
is told. Counted is what it learnt beyond what is served, its own rows and those of the versions that it went on from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import aclosing
from typing import NamedTuple

from headrace_schemas.derived import Batch, ModelVersion, TrainingStart
from headrace_schemas.events import BatchReady, ExampleWithdrawn, TrainingStarted
from headrace_schemas.selection import learnt_members, run_members
from headrace_streams import release_log, retraining
from headrace_streams.kafka.reader import Reader
from headrace_streams.settings import Settings


class RetractedRows(NamedTuple):
    """`taken_back`: how many examples among them were; `unknown`: runs of which nobody knows any more what they rehearsed."""

    taken_back: int
    unknown: list[str]

    def __str__(self) -> str:
        """As the end of a sentence that begins with the version."""
        parts = [f"has learnt {self.taken_back} examples that were taken back since"] if self.taken_back else []
        parts += [f"may have: what run {run} rehearsed is no longer on the log" for run in self.unknown[:1]]
        return ", and ".join(parts)


async def learnt_taken_back(settings: Settings, version: ModelVersion, made: Collection[ModelVersion]) -> RetractedRows:
    """`made`: versions in the order of the log. Reads the partitions of its bucket."""
    reader, bucket = Reader(settings), version.bucket
    gone: set[str] = set()
    async with aclosing(reader.events("examples", key=bucket, containing=b"headrace.example.withdrawn.v1")) as events:
        async for event in events:
            if isinstance(event, ExampleWithdrawn) and event.data.reason != "feedback_retracted":
                gone.add(event.data.example_id)
    batches: dict[str, Batch] = {}
    starts: dict[str, TrainingStart] = {}
    for topic, kind in (("batches", b"headrace.batch.ready.v1"), ("runs", b"headrace.training.started.v1")) if gone else ():
        async with aclosing(reader.events(topic, key=bucket, containing=kind)) as events:
            async for event in events:
                if isinstance(event, BatchReady) and event.data.bucket == bucket:
                    batches[event.data.batch_id] = event.data
                elif isinstance(event, TrainingStarted) and event.data.bucket == bucket:
                    starts[event.data.run_id] = event.data
    served = release_log.adapter_digest((await release_log.served(reader, bucket)).get(bucket))
    return learnt_rows(version, [each for each in made if each.bucket == bucket], batches, starts, gone, served)


def learnt_rows(
    version: ModelVersion,
    made: Collection[ModelVersion],
    batches: Mapping[str, Batch],
    starts: Mapping[str, TrainingStart],
    gone: Collection[str],
    served: str | None,
) -> RetractedRows:
    """Of examples `gone`; `served`: digest of the adapter that is served. Pure."""
    named = {member.example_id for batch in batches.values() for member in learnt_members(batch.members, avoids=True)}
    taken_back = named & set(gone)
    by_adapter = {each.adapter.digest: each for each in made if each.parent_adapter != each.adapter.digest}
    found: set[str] = set()
    unknown: list[str] = []
    seen: set[str] = set()
    each: ModelVersion | None = version
    while taken_back and each is not None and each.adapter.digest not in {served, *seen}:
        seen.add(each.adapter.digest)
        batch, start = batches.get(each.batch_id), starts.get(each.run_id)
        if batch is None or start is None:
            unknown.append(each.run_id)
        else:
            members = run_members(batch, start)
            found.update(member.example_id for member in (*members.training, *members.rehearsal))
        each = by_adapter.get(each.parent_adapter or "") if retraining.goes_on(each) else None
    return RetractedRows(len(found & taken_back), unknown)
