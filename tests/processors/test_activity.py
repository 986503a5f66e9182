"""What was counted beforehand is what counting every record gives, at every cut and whatever became of the files of counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace_lake.activity import keep_activity, remove_damaged
from headrace_lake.compaction import compacted
from headrace_lake.manifest import LakeFolder
from headrace_lake.query import opened
from support.memory_ring import MemoryRing, lake_of

COUNTED = (
    "SELECT date_trunc('minute', appended_at), topic, split_part(split_part(origin, '/', 1), '.', 1), "
    "replace(replace(event_type, 'headrace.', ''), '.v1', ''), CASE topic WHEN 'rejections' THEN value->>'$.data.reason' "
    "WHEN 'dead-letters' THEN value->>'$.data.error.code' END, bucket, count(*) FROM records GROUP BY ALL ORDER BY ALL"
)
KEPT = "SELECT minute, topic, stage, kind, reason, bucket, records FROM activity ORDER BY ALL"


def both(folder: LakeFolder) -> tuple[list[Any], list[Any]]:
    with opened(folder) as lake:
        return lake.run(KEPT).rows, lake.run(COUNTED).rows


def test_what_is_kept_is_what_counting_gives_whether_files_are_there_or_not(tmp_path: Path) -> None:
    ring = MemoryRing(1)
    ring.round(30)
    folder = lake_of(ring.log, tmp_path / "lake", rows=7)
    without, counted = both(folder)
    assert without == counted
    assert {row[2] for row in counted} >= {"intake", "reward", "curate", "train", "release"}
    assert any(row[4] for row in counted if row[1] == "rejections")
    segments = folder.load().segments
    assert keep_activity(folder, segments) == len(segments)
    assert keep_activity(folder, segments) == 0
    assert both(folder) == (counted, counted)
    folder.activity_file(segments[3]).unlink()
    assert both(folder) == (counted, counted)
    ring.round(30)
    lake_of(ring.log, folder.path, rows=7)  # a later cut, not yet counted
    after, counted = both(folder)
    assert after == counted


def test_counts_go_with_their_segments_and_those_of_merged_ones_are_made(tmp_path: Path) -> None:
    ring = MemoryRing(1)
    ring.round(30)
    folder = lake_of(ring.log, tmp_path / "lake", rows=3)
    before = folder.load()
    keep_activity(folder, before.segments)
    full = compacted(folder, before, fully=True)
    keep_activity(folder, full.segments)
    folder.store(full)
    folder.remove_strangers(full)
    assert {path.name for path in folder.activity.iterdir()} == {segment.file for segment in full.segments}
    kept, counted = both(folder)
    assert kept == counted
    folder.remove_activity()
    assert both(folder) == (counted, counted)


def test_a_page_that_asks_for_activity_reads_no_segment(tmp_path: Path) -> None:
    """Segments are gone behind its back, and the answer is the same."""
    ring = MemoryRing(1)
    ring.round(20)
    folder = lake_of(ring.log, tmp_path / "lake")
    keep_activity(folder, folder.load().segments)
    expected = both(folder)[1]
    with opened(folder) as lake:
        for segment in folder.load().segments:
            folder.file(segment).unlink()
        assert lake.run(KEPT).rows == expected


@pytest.mark.parametrize(
    "spoil", [lambda raw: b"x" * 99, lambda raw: b"", lambda raw: raw[:-9], lambda raw: raw[:20] + bytes(40) + raw[60:]]
)
def test_counts_that_were_damaged_or_are_of_another_segment_are_made_anew(
    tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    ring = MemoryRing(1)
    ring.round(20)
    folder = lake_of(ring.log, tmp_path / "lake", rows=7)
    segments = folder.load().segments
    keep_activity(folder, segments)
    first, second, third = (folder.activity_file(segment) for segment in segments[:3])
    first.write_bytes(spoil(first.read_bytes()))
    other = next(one for one in segments if one.records != segments[1].records)
    second.write_bytes(folder.activity_file(other).read_bytes())
    kept = third.stat().st_ino
    assert remove_damaged(folder, segments) == keep_activity(folder, segments) == 2
    assert third.stat().st_ino == kept
    assert remove_damaged(folder, segments) == 0
    found, counted = both(folder)
    assert found == counted
