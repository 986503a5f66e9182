"""Feeds a lake: committed records become segments, and the manifest moves when they are on disk. Knows Kafka by its reader.

What the manifest says is exactly a prefix of each partition, whenever the process ends: records that were fetched and not
written, files that were written and not named, are as if they had never been there. A damaged segment is written anew from the
log, and what the log no longer keeps, the lake no longer keeps either.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import NamedTuple

from headrace_lake.activity import keep_activity, remove_damaged
from headrace_lake.compaction import compacted
from headrace_lake.kafka_log import KafkaLog
from headrace_lake.manifest import LAKE_TOPICS, LakeError, LakeFolder, Manifest, Place
from headrace_lake.segment import Segment
from headrace_lake.segments import HEAD, SegmentColumns, write_segment
from headrace_streams.kafka.clients import full_name
from headrace_streams.kafka.compat import PartitionColumns
from headrace_streams.kafka.reader import Fetched, OffsetOutOfRangeError, Span

SEGMENT_BYTES = 8 * 1024 * 1024  # in memory, of one partition, until they become a segment
BUFFER_BYTES = 32 * 1024 * 1024  # of all partitions together


class LakeProgress(NamedTuple):
    """How far a feeder is: records and bytes of this run, offsets still to come up to where it was to stop or to the log's end
    when it was last asked, and seconds."""

    records: int
    bytes: int
    left: int
    seconds: float


class Feeder:
    """The one process that writes into a folder. `every`: seconds after which what has come is written, however little."""

    def __init__(self, log: KafkaLog, folder: LakeFolder, manifest: Manifest, *, every: float = 5.0) -> None:
        self.manifest = manifest
        self._log, self._folder, self._every = log, folder, every
        self._names = {full_name(log.settings, topic): topic for topic in LAKE_TOPICS}
        self._pending: dict[Place, SegmentColumns] = {}
        self._positions: dict[Place, int] = {}
        self._from: dict[Place, int] = {}  # where the next segment of a partition begins
        self._writing: asyncio.Task[None] | None = None
        self._records = self._bytes = 0
        self._began = self._written = time.monotonic()

    async def prepare(self, *, thorough: bool = False, told: Callable[[str], None] = lambda line: None) -> None:
        """Makes the folder what its manifest says, and both what the log still has. LakeError when the log is not the one that
        the lake was made of."""
        self._folder.remove_strangers(self.manifest)
        spans = await self._log.offsets(LAKE_TOPICS)
        for (topic, partition), span in spans.items():
            at = self.manifest.offset((topic, partition))
            if at is not None and at > span.end:
                raise LakeError(
                    f"{self._folder.path}: it has read {topic}/{partition} up to {at}, and that log ends at {span.end}: "
                    "it is another log, or has lost its end; take another folder"
                )
        await self._mend(spans, thorough, told)
        self._forget(spans, told)
        if thorough:
            self._folder.remove_activity()
        await asyncio.to_thread(remove_damaged, self._folder, self.manifest.segments)
        await asyncio.to_thread(keep_activity, self._folder, self.manifest.segments)

    async def _mend(self, spans: Mapping[Place, Span], thorough: bool, told: Callable[[str], None]) -> None:
        for segment in self.manifest.segments:
            fault = await asyncio.to_thread(self._folder.fault, segment, thorough=thorough)
            if fault is None:
                continue
            told(f"{segment.file}: {fault}; made anew from the log")
            others = [one for one in self.manifest.segments if one is not segment]
            start = max(segment.start, spans[segment.topic, segment.partition].begin)
            anew = await self._again(segment, start) if start < segment.end else []
            self._move({}, [*others, *anew])
        self._folder.remove_strangers(self.manifest)

    async def _again(self, segment: Segment, start: int) -> list[Segment]:
        """A segment's records from `start` on, read once more, in segments that fit into memory."""
        made: list[Segment] = []
        columns = SegmentColumns(segment.topic, segment.partition)
        async with aclosing(self._log.read(segment.topic, segment.partition, start, segment.end)) as records:
            async for record in records:
                if columns.bytes >= SEGMENT_BYTES:
                    made.append(await self._write(columns, start, record.offset))
                    columns, start = SegmentColumns(segment.topic, segment.partition), record.offset
                columns.add(record.offset, record.timestamp, record.key, record.value, record.headers)
        if len(columns):
            made.append(await self._write(columns, start, segment.end))
        return made

    def _forget(self, spans: Mapping[Place, Span], told: Callable[[str], None] = lambda line: None) -> None:
        """Lets go of segments of which the log has nothing any more."""
        kept = [one for one in self.manifest.segments if one.end > spans[one.topic, one.partition].begin]
        if gone := len(self.manifest.segments) - len(kept):
            told(f"{gone} segments hold what the log no longer keeps; they go")
            self._move({}, kept)
            self._folder.remove_strangers(self.manifest)

    async def starts(self) -> dict[Place, int]:
        """Where each partition goes on: at the cut, or where its log begins now."""
        spans = await self._log.offsets(LAKE_TOPICS)
        return {place: max(span.begin, self.manifest.offset(place) or 0) for place, span in spans.items()}

    async def ends(self) -> dict[Place, int]:
        """The log's end as of now, asked topic by topic against the stream: what is below it refers to nothing beyond it."""
        return {place: span.end for place, span in (await self._spans()).items()}

    async def _spans(self) -> dict[Place, Span]:
        found: dict[Place, Span] = {}
        for topic in reversed(LAKE_TOPICS):
            found |= {(topic, partition): span for partition, span in (await self._log.spans(topic)).items()}
        return found

    async def feed(self, ends: Mapping[Place, int] | None = None, *, poll_ms: int = 500) -> AsyncGenerator[LakeProgress, None]:
        """Reads on, up to `ends` or for ever. LakeError when the lake is beyond them already; OSError when the disk is full."""
        starts = await self.starts()
        if ends is not None:
            for (topic, partition), at in starts.items():
                if (self.manifest.offset((topic, partition)) or 0) > ends[topic, partition]:
                    raise LakeError(
                        f"{self._folder.path}: it is at {at} of {topic}/{partition}, beyond {ends[topic, partition]}: "
                        "an earlier cut takes another folder"
                    )
            ends = {place: max(end, starts[place]) for place, end in ends.items()}
        self._positions, self._from = dict(starts), dict(starts)
        asked, log_ends = -math.inf, dict(ends or {})
        try:
            async with aclosing(self._log.read_on(starts, ends, poll_ms=poll_ms, head=HEAD)) as fetches:
                async for fetched in fetches:
                    self._take(fetched)
                    await self._flush()
                    if ends is None and time.monotonic() - asked > self._every:
                        spans = await self._spans()
                        asked, log_ends = time.monotonic(), {place: span.end for place, span in spans.items()}
                        await self._written_out()
                        self._forget(spans)
                    left = sum(max(0, end - self._positions[place]) for place, end in log_ends.items())
                    yield LakeProgress(self._records, self._bytes, left, time.monotonic() - self._began)
            await self._flush(whole=True)
            await self._written_out()
        except OffsetOutOfRangeError as error:
            raise LakeError(f"{self._folder.path}: the log has lost what was to be read: {error}") from error
        finally:
            if self._writing is not None:
                await asyncio.gather(self._writing, return_exceptions=True)
        yield LakeProgress(self._records, self._bytes, 0, time.monotonic() - self._began)

    def _take(self, fetched: Fetched) -> None:
        for record in fetched.records:
            place = self._names[record.topic], record.partition
            columns = self._pending.get(place)
            if columns is None:
                columns = self._pending[place] = SegmentColumns(*place)
            before = len(columns)
            if isinstance(record, PartitionColumns):
                columns.add_columns(record.columns)
            else:
                columns.add(record.offset, record.timestamp, record.key, record.value, record.headers)
            self._records += len(columns) - before
        self._positions = fetched.positions

    async def _flush(self, *, whole: bool = False) -> None:
        """Begins to write what is large enough, or all when it is time, while what follows is read."""
        whole = whole or time.monotonic() - self._written >= self._every
        total = sum(columns.bytes for columns in self._pending.values())
        due: dict[Place, SegmentColumns] = {}
        for place, columns in sorted(self._pending.items(), key=lambda item: -item[1].bytes):
            if whole or columns.bytes >= SEGMENT_BYTES or total > BUFFER_BYTES:
                due[place] = self._pending.pop(place)
                total -= columns.bytes
        if not due and not whole:
            return
        await self._written_out()
        # Where nothing waits to be written, what was read were markers: the cut moves behind them.
        cut = {place: at for place, at in self._positions.items() if place not in self._pending}
        spans = {place: (self._from[place], cut[place]) for place in due}
        self._from |= cut
        if whole:
            self._written = time.monotonic()
        self._writing = asyncio.create_task(self._write_out(due, spans, cut))

    async def _written_out(self) -> None:
        """What was begun to be written is on disk, and the manifest says so. Raises what went wrong."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def _write_out(
        self, due: Mapping[Place, SegmentColumns], spans: Mapping[Place, tuple[int, int]], cut: Mapping[Place, int]
    ) -> None:
        segments = list(self.manifest.segments)
        for place, columns in due.items():
            segments.append(await self._write(columns, *spans[place]))
            self._bytes += columns.raw_bytes
        await asyncio.to_thread(keep_activity, self._folder, segments)
        self._move(cut, segments)
        smaller = await asyncio.to_thread(compacted, self._folder, self.manifest)
        if smaller is not self.manifest:
            await asyncio.to_thread(keep_activity, self._folder, smaller.segments)
            self._move({}, smaller.segments)
            self._folder.remove_strangers(self.manifest)

    async def _write(self, columns: SegmentColumns, start: int, end: int) -> Segment:
        return await asyncio.to_thread(write_segment, self._folder.segments, [columns.table()], start, end)

    def _move(self, cut: Mapping[Place, int], segments: list[Segment]) -> None:
        manifest = self.manifest.moved(cut, segments)
        if manifest != self.manifest:
            self._folder.store(manifest)
            self.manifest = manifest
