"""A lake read as the log that it was made of, at its cut: whatever reads a log reads a lake. Knows files alone, no broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from itertools import islice
from pathlib import Path

from headrace_lake.log import LogRecord
from headrace_lake.manifest import LakeError, LakeFolder, Manifest
from headrace_lake.segments import records_of
from headrace_schemas.topology import LATER

_PORTION = 500  # records that one turn of a thread reads


class LakeLog:
    """The topics that a lake holds (`LAKE_TOPICS`); others have no records here. LakeError for a topic that it has not read."""

    def __init__(self, folder: LakeFolder, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest

    async def partitions(self, topic: str) -> int:
        numbers = self._manifest.partitions(topic)
        if not numbers and topic in LATER:
            return 0
        if not numbers:
            raise LakeError(f"{self._folder.path}: it holds nothing of {topic} yet: `headrace lake follow` goes on reading")
        return numbers[-1] + 1

    async def start(self, topic: str, partition: int) -> int:
        """The first offset that the lake holds."""
        segments = self._manifest.of(topic, partition)
        return segments[0].start if segments else self._manifest.offset((topic, partition)) or 0

    async def read(self, topic: str, partition: int, start: int = 0, end: int | None = None) -> AsyncGenerator[LogRecord, None]:
        """The records of a partition from `start` up to `end`, at most up to the cut."""
        for segment in self._manifest.of(topic, partition):
            if segment.end <= start or (end is not None and segment.start >= end):
                continue
            limit = segment.end if end is None else min(end, segment.end)
            records = records_of(self._folder.file(segment), start, limit)
            while portion := await asyncio.to_thread(list, islice(records, _PORTION)):
                for record in portion:
                    yield record

    async def records_at(self, topic: str, partition: int, offsets: Sequence[int]) -> AsyncGenerator[LogRecord, None]:
        """Those at `offsets` (ascending) of a partition; where there is none, nothing."""
        for segment in self._manifest.of(topic, partition):
            wanted = {offset for offset in offsets if segment.start <= offset < segment.end}
            if wanted:
                for record in await asyncio.to_thread(_picked, self._folder.file(segment), wanted):
                    yield record


def _picked(file: Path, offsets: set[int]) -> list[LogRecord]:
    return [record for record in records_of(file, min(offsets), max(offsets) + 1) if record.offset in offsets]
