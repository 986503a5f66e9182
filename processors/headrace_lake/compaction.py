"""Small segments become large ones: which, and how. Knows the folder of a lake, no broker.

A feeder that looks every few seconds leaves many small files, and a reader opens each. Eight neighbours of about a size become
one, so that a record is written three times at most. What a feeder writes while it catches up is large enough as it is: merging
it too cost 10 us a record (of 38). `headrace lake compact` makes the largest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pyarrow

from headrace_lake.manifest import LakeError, LakeFolder, Manifest
from headrace_lake.segment import Segment
from headrace_lake.segments import GROUP_BYTES, tables_of, write_segment
from headrace_schemas.topics import BY_NAME

FAN = 8  # neighbours that become one
MIB = 1024 * 1024
LARGEST = 128 * MIB  # of keys and values: no segment is made larger than this, or one of its parts
_LEVELS = (MIB // 4, 2 * MIB)
_PARTS = 16  # of a topic's retention: how long a time a segment of it spans at most, as it goes only as a whole


def compacted(folder: LakeFolder, manifest: Manifest, *, fully: bool = False) -> Manifest:
    """The manifest with neighbours merged, whose files are on disk; the same one where there is nothing to merge. `fully`: all
    that may become one does. The files of before are still there. LakeError for one that was altered."""
    segments: list[Segment] = []
    for _, neighbours in groupby(manifest.segments, key=lambda one: (one.topic, one.partition)):
        run = list(neighbours)
        while (found := _fitting(run) if fully else _level(run)) is not None:
            start, end = found
            run = [*run[:start], merged(folder, run[start:end]), *run[end:]]
        segments += run
    return manifest if segments == manifest.segments else manifest.moved({}, segments)


def merged(folder: LakeFolder, segments: Sequence[Segment]) -> Segment:
    """One segment of several that follow each other."""
    for segment in segments:
        if (fault := folder.fault(segment, thorough=True)) is not None:
            raise LakeError(f"{folder.file(segment)}: {fault}: `headrace lake follow` makes it anew from the log")
    tables = _groups(folder.file(segment) for segment in segments)
    return write_segment(folder.segments, tables, segments[0].start, segments[-1].end)


def _level(run: Sequence[Segment]) -> tuple[int, int] | None:
    """The first FAN neighbours of one level."""
    for most in _LEVELS:
        start = 0
        for end in range(1, len(run) + 1):
            if run[end - 1].raw_bytes >= most:
                start = end
            elif end - start == FAN:
                if _may_be_one(run[start:end]):
                    return start, end
                start += 1
    return None


def _fitting(run: Sequence[Segment]) -> tuple[int, int] | None:
    """The first neighbours that may become one."""
    for start in range(len(run) - 1):
        end = start + 1
        while end < len(run) and _may_be_one(run[start : end + 1]):
            end += 1
        if end - start > 1:
            return start, end
    return None


def _may_be_one(run: Sequence[Segment]) -> bool:
    """Neighbours of which nothing lies between but markers, or what the log has let go."""
    retention = BY_NAME[run[0].topic].retention_ms
    return sum(segment.raw_bytes for segment in run) <= LARGEST and (
        retention < 0 or run[-1].last_ms - run[0].first_ms <= retention // _PARTS
    )


def _groups(files: Iterable[Path]) -> Iterator[pyarrow.Table]:
    """The rows of files in tables of about a row group each."""
    waiting: list[pyarrow.Table] = []
    size = 0
    for file in files:
        for table in tables_of(file):
            waiting.append(table)
            size += table.nbytes
            if size >= GROUP_BYTES:
                yield pyarrow.concat_tables(waiting).combine_chunks()
                waiting, size = [], 0
    if waiting:
        yield pyarrow.concat_tables(waiting).combine_chunks()
