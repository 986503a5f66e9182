"""Training data as files, from the log: what trained a release, or all that was cut for a bucket. Knows no Kafka client.

Rows are members of role `train` on the train and validation side; the test side is never training data. The digest covers the
rows (ids, revisions, texts, weights), not the format they are written in, so that two exports of one release are equal.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import orjson

from headrace_lake.log import Log
from headrace_schemas.canonical import canonical, digest, sha256
from headrace_schemas.chat import answer_dict, messages_of
from headrace_schemas.codec import decode
from headrace_schemas.derived import Batch, Example, Member, ReleaseDecision, TrainingStart
from headrace_schemas.events import BatchReady, Event, ExampleRewarded, ExampleWithdrawn, ReleasePromoted, TrainingStarted
from headrace_schemas.root_error import HeadraceError
from headrace_streams.kafka.partitioner import partition_for

Format = Literal["chat", "parquet"]


class DatasetError(HeadraceError, ValueError):
    """The data asked for is not on the log; the message says what is missing."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One training example. `weight` is the one of the batch that it was cut in."""

    example_id: str
    revision: int
    interaction_id: str
    bucket: str
    split: str
    weight: float
    reward: float
    quality: float
    model: str
    event_time: str
    messages: list[dict[str, Any]]


def row_of(example: Example, member: Member) -> Row:
    content = example.content
    return Row(
        example_id=example.example_id,
        revision=example.revision,
        interaction_id=example.interaction_id,
        bucket=example.bucket,
        split=member.split,
        weight=member.weight,
        reward=example.reward,
        quality=example.quality,
        model=example.model,
        event_time=example.event_time,
        messages=[*messages_of(content.prompt, content.context), answer_dict(content.target)],
    )


async def bucket_rows(log: Log, bucket: str) -> list[Row]:
    """All that was ever cut for training, at its newest revision; what was withdrawn since, or turned out to be worth nothing, is
    left out, as in rehearsal."""
    members: dict[str, Member] = {}
    async for event in _events(log, "batches", bucket):
        if isinstance(event, BatchReady) and event.data.bucket == bucket:
            members |= {member.example_id: member for member in _training(event.data.members)}
    newest: dict[str, Example] = {}
    async for event in _events(log, "examples", bucket):
        if isinstance(event, ExampleRewarded) and event.data.example_id in members:
            newest[event.data.example_id] = event.data
        elif isinstance(event, ExampleWithdrawn):
            newest.pop(event.data.example_id, None)
    return [row_of(newest[name], members[name]) for name in sorted(newest) if newest[name].train and newest[name].reward > 0]


async def release_rows(log: Log, bucket: str, release_id: str) -> list[Row]:
    """Exactly what trained a release: its batch's members and the rehearsal rows that its run pinned, each verified by digest.

    Raises DatasetError when the release, its batch, its run or one of the rows is not on the log."""
    release: ReleaseDecision | None = None
    async for event in _events(log, "releases.history", bucket):
        if isinstance(event, ReleasePromoted) and event.data.release_id == release_id:
            release = event.data
    if release is None or release.bucket != bucket:
        raise DatasetError(f"release {release_id!r} of bucket {bucket!r} is not on releases.history")
    batch: Batch | None = None
    start: TrainingStart | None = None
    async for event in _events(log, "batches", bucket):
        if isinstance(event, BatchReady) and event.data.batch_id in release.batch_ids:
            batch = event.data
    async for event in _events(log, "runs", bucket):
        if isinstance(event, TrainingStarted) and event.data.batch_id in release.batch_ids:
            start = start or event.data
    if batch is None or start is None:
        raise DatasetError(f"the {'batch' if batch is None else 'run'} of release {release_id!r} is no longer on the log")
    used = [member for member in batch.members if member.example_id not in (start.withdrawn or ())]
    return [await _exact(log, member) for member in [*_training(used), *_training(start.rehearsal)]]


def _training(members: Sequence[Member]) -> list[Member]:
    return [member for member in members if member.role == "train" and member.split != "test"]


async def _exact(log: Log, member: Member) -> Row:
    place = member.locator
    async for record in log.read(place.topic, place.partition, place.offset, place.offset + 1):
        if record.value is not None and sha256(record.value) == member.sha256:
            event = decode(record.value, record.headers)
            if isinstance(event, ExampleRewarded):
                return row_of(event.data, member)
    where = f"{place.topic}/{place.partition}@{place.offset}"
    raise DatasetError(f"example {member.example_id!r} revision {member.revision} with {member.sha256} is not at {where}")


async def _events(log: Log, topic: str, bucket: str) -> AsyncIterator[Event]:
    partition = partition_for(bucket.encode(), await log.partitions(topic))
    async for record in log.read(topic, partition):
        yield decode(record.value, record.headers)


def rows_digest(rows: Sequence[Row]) -> str:
    return digest([msgspec.to_builtins(row) for row in rows])


def write(rows: Sequence[Row], out: Path, form: Format) -> Path:
    """Writes `rows` as `out/train.jsonl` (one {"messages": […], …} a line) or `out/train.parquet`, whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    lines = b"".join(canonical(msgspec.to_builtins(row)) + b"\n" for row in rows)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        made = Path(scratch) / "train.jsonl"
        made.write_bytes(lines)
        if form == "parquet":
            made = _parquet(made, Path(scratch) / "train.parquet")
        return made.replace(out / made.name)


def _parquet(lines: Path, made: Path) -> Path:
    """`messages` becomes a list of {role, content}; whatever else a message holds is JSON in `extra`."""
    import pyarrow
    import pyarrow.parquet

    rows = [orjson.loads(line) for line in lines.read_bytes().splitlines()]
    for row in rows:
        row["messages"] = [
            {
                "role": message["role"],
                "content": message["content"],
                "extra": canonical({name: value for name, value in message.items() if name not in ("role", "content")}).decode(),
            }
            for message in row["messages"]
        ]
    text, number = pyarrow.string(), pyarrow.float64()
    message = pyarrow.struct([("role", text), ("content", text), ("extra", text)])
    types: dict[str, Any] = dict.fromkeys(Row.__struct_fields__, text)
    types |= {"revision": pyarrow.int64(), "weight": number, "reward": number, "quality": number}
    types["messages"] = pyarrow.list_(message)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(list(types.items()))), made)
    return made
