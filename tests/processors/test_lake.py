"""A lake's files: records come back byte for byte, a manifest is whole or not there, and nothing altered is read."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_lake.compaction import FAN, compacted
from headrace_lake.lake_log import LakeLog
from headrace_lake.log import LogRecord
from headrace_lake.manifest import LAKE_TOPICS, MANIFEST, ForeignLake, LakeError, LakeFolder, Manifest
from headrace_lake.segments import HEAD, SegmentColumns, records_of, write_segment
from headrace_lake.views import SERVING, says
from headrace_schemas.canonical import digest
from headrace_schemas.root_error import USAGE
from headrace_streams.kafka.record_columns import RecordColumns
from headrace_streams.kafka.unpacking import unpack_columns
from headrace_streams.release_log import CHANGES
from headrace_streams.runtime.provenance import Provenance, origin, origin_without_input, six_headers
from support import batches
from support.memory_log import MemoryLog
from support.memory_ring import MemoryRing, lake_of

SOURCE = Provenance("intake", "interactions", 1, 22, 0)
EVENT = b'{"specversion":"1.0","id":"e","source":"s","type":"headrace.x.v1","data":{"interaction_id":"i","revision":2}}'


def columns_of(records: list[LogRecord]) -> SegmentColumns:
    columns = SegmentColumns("signals", 1)
    for record in records:
        columns.add(record.offset, record.timestamp, record.key, record.value, record.headers)
    return columns


def through_a_file(folder: Path, values: list[tuple[Any, Any, Any]]) -> tuple[list[LogRecord], list[LogRecord]]:
    records = [LogRecord("signals", 1, 3 * at, 1_790_000_000_000 + at, *value) for at, value in enumerate(values)]
    segment = write_segment(folder, [columns_of(records).table()], 0, 3 * len(values))
    assert (segment.records, segment.size_bytes) == (len(records), (folder / segment.file).stat().st_size)
    return records, list(records_of(folder / segment.file, 0, 10**9))


HEADERS = [
    (),
    origin(SOURCE),
    six_headers(SOURCE),
    origin_without_input("curate.tick"),
    (*origin(SOURCE), ("signature", b"\x00\xff")),
    (("content-type", b"application/cloudevents+json"), ("headrace-origin", b"\xff/not/text")),
    (("ce_id", b"1"), ("ce_type", b"x"), ("ce_source", b"y"), ("nothing", None)),
]
VALUES = [
    None,
    b"",
    b"no json",
    EVENT,
    b"[1]",
    b'{"data":7}',
    b"\xff\x00",
    b'{"type":"a","id":"b","source":"c","data":{"text":"\xff"}}',
    '{"type":"ä","id":"b","source":"c","data":{"bucket":"\u0000ü"}}'.encode(),
    b'{"type":"a","id":"b","source":"c","data":{"revision":"x"}}',
    b'{"type":"a","id":"b","source":"c","data":{"x":' + b"[" * 3000 + b"]" * 3000 + b"}}",
]
KEYS = [None, b"", b"key", b"\xff"]


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES) | st.binary(), st.sampled_from(HEADERS)), min_size=1))
def test_whatever_lies_on_the_log_comes_back_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[Any, Any, Any]]
) -> None:
    written, read = through_a_file(tmp_path_factory.mktemp("segments"), values)
    assert read == written


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(KEYS), st.sampled_from(VALUES) | st.binary(), st.sampled_from(HEADERS[1:] + [origin(SOURCE)] * 9)
        ),
        min_size=1,
    )
)
def test_what_comes_as_columns_makes_the_segment_that_records_make(values: list[tuple[Any, Any, Any]]) -> None:
    rows = [
        batches.record(number, key, value, [(name.encode(), content) for name, content in headers])
        for number, (key, value, headers) in enumerate(values)
    ]
    whole, one_by_one = SegmentColumns("signals", 1), SegmentColumns("signals", 1)
    for read in unpack_columns(batches.batch_of("lz4", rows), HEAD):
        if isinstance(read, RecordColumns):
            whole.add_columns(read)
        else:
            whole.add(read.offset, read.timestamp, read.key, read.value, tuple(read.headers))
    for number, value in enumerate(values):
        one_by_one.add(number, 7, *value)
    assert whole.table().to_pylist() == one_by_one.table().to_pylist()
    assert (whole.raw_bytes, len(whole)) == (one_by_one.raw_bytes, len(values))


def test_a_segment_says_of_an_id_that_it_does_not_have_it_without_being_read(tmp_path: Path) -> None:
    ids = [digest(number) for number in range(300)]
    values = [(EVENT.replace(b'"i"', f'"{name}"'.encode()).replace(b'"e"', f'"e{name}"'.encode())) for name in ids]
    columns = columns_of([LogRecord("signals", 1, at, 0, b"k", value, origin(SOURCE)) for at, value in enumerate(values)])
    segment = write_segment(tmp_path, [columns.table()], 0, 300)
    with duckdb.connect() as connection:
        for column, known in (("interaction_id", ids), ("event_id", [f"e{name}" for name in ids])):
            probed = f"parquet_bloom_probe('{tmp_path / segment.file}', '{column}', $id)"
            probe = f"SELECT count(*) FROM {probed} WHERE bloom_filter_excludes"
            excluded = [connection.execute(probe, {"id": name}).fetchall() for name in known]
            assert excluded == [[(0,)]] * 300
            assert sum(connection.execute(probe, {"id": f"x{name}"}).fetchall() == [(1,)] for name in ids) > 250


@pytest.mark.parametrize("name", ["f-1", "ä", 'said "so"', "back\\slash", "a\nb", "nobody"])
def test_a_text_is_found_where_it_stands_however_json_writes_it(name: str) -> None:
    value = json.dumps({"data": {"feedback_id": name, "comment": "nobody"}}, ensure_ascii=False)
    with duckdb.connect() as connection:
        sought = f"SELECT {says('data.feedback_id', 'name')} FROM (SELECT $value AS value)"
        assert connection.execute(sought, {"name": name, "value": value}).fetchall() == [(True,)]
        assert connection.execute(sought, {"name": "nobody ", "value": value}).fetchall() == [(False,)]
        if name != "nobody":
            assert connection.execute(sought, {"name": "nobody", "value": value}).fetchall() == [(False,)]


def test_a_lake_reads_as_the_log_that_it_was_made_of(tmp_path: Path) -> None:
    ring = MemoryRing(1)
    ring.round(20)
    folder = lake_of(ring.log, tmp_path / "lake", rows=7)

    async def same() -> int:
        with folder.open() as manifest:
            lake, count = LakeLog(folder, manifest), 0
            for topic in LAKE_TOPICS:
                assert await lake.partitions(topic) == await ring.log.partitions(topic)
                for partition in range(await lake.partitions(topic)):
                    for span in ((0, None), (3, None), (5, 12)):
                        theirs = [record async for record in ring.log.read(topic, partition, *span)]
                        assert [record async for record in lake.read(topic, partition, *span)] == theirs
                        count += len(theirs)
        return count

    assert asyncio.run(same()) > 200


def test_a_folder_of_another_deployment_or_cluster_or_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = lake_of(MemoryLog(), tmp_path / "lake")
    for deployment, cluster, words in (
        ("other", "in-memory", "deployment 'memory', and this is 'other'"),
        ("memory", "other", "'in-memory'"),
    ):
        with pytest.raises(ForeignLake, match=words) as refused:
            folder.bound(deployment, cluster)
        assert (refused.value.exit_code, "\n" in str(refused.value)) == (USAGE, False)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    with pytest.raises(ForeignLake, match=r"it is no lake, and not empty: it holds 'thesis.txt'"):
        LakeFolder(tmp_path / "home").bound("memory", "in-memory")
    with pytest.raises(LakeError, match="there is no lake: `headrace lake follow` makes one"):
        LakeFolder(tmp_path / "nowhere").load()


def test_a_manifest_that_was_altered_or_is_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    folder = lake_of(MemoryLog(), tmp_path / "lake")
    path = folder.path / MANIFEST
    whole = path.read_text()
    for altered in (whole.replace('"in-memory"', '"mine"'), whole[:-20], "[]", "", whole.replace('"format":1', '"format":"1"')):
        path.write_text(altered)
        with pytest.raises(LakeError, match=r"^[^\n]*the manifest was altered[^\n]*$"):
            folder.load()
    path.write_text(json.dumps(json.loads(whole) | {"format": 2}))
    with pytest.raises(ForeignLake, match="format 2 is of a newer Headrace"):
        folder.load()


def test_a_second_feeder_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = LakeFolder(tmp_path / "lake")
    with folder.fed(), pytest.raises(LakeError, match="another feeder holds this lake"), LakeFolder(folder.path).fed():
        pass
    with folder.fed():
        pass


def altered(path: Path, *, quietly: bool) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    before = path.stat()
    path.write_bytes(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns if quietly else before.st_mtime_ns + 1))


def test_a_segment_that_was_altered_cut_short_or_lost_is_found(tmp_path: Path) -> None:
    ring = MemoryRing(1)
    ring.round(10)
    folder = lake_of(ring.log, tmp_path / "lake")
    [first, second, third, *_] = folder.load().segments
    altered(folder.file(first), quietly=False)
    with pytest.raises(LakeError, match=r"the segment was altered: .*: `headrace lake follow` makes it anew"), folder.open():
        pass
    os.truncate(folder.file(first), 10)
    assert "10 bytes" in (folder.fault(first) or "")
    folder.file(first).unlink()
    assert folder.fault(first) == "the segment is missing"
    altered(folder.file(second), quietly=True)  # its size and its time are as they were: only reading it tells
    assert folder.fault(second) is None
    assert "was altered" in (folder.fault(second, thorough=True) or "")
    assert folder.fault(third, thorough=True) is None


def test_files_that_no_manifest_names_go_but_not_under_a_reader(tmp_path: Path) -> None:
    ring = MemoryRing(1)
    ring.round(10)
    folder = lake_of(ring.log, tmp_path / "lake")
    with folder.fed():
        manifest = folder.load()
        folder.remove_strangers(manifest)
        orphan = folder.segments / "signals-0-0-9-abc.parquet"
        orphan.write_bytes(b"half a segm")
        (folder.segments / ".7.writing").write_bytes(b"half")
        with folder.open():
            assert folder.remove_strangers(manifest) == []
        assert sorted(folder.remove_strangers(manifest)) == [".7.writing", orphan.name]
        assert {path.name for path in folder.segments.iterdir()} == {segment.file for segment in manifest.segments}


def test_compaction_changes_no_record_and_bounds_the_number_of_files(tmp_path: Path) -> None:
    ring = MemoryRing(1)
    for _ in range(3):
        ring.round(20)
    folder = lake_of(ring.log, tmp_path / "lake", rows=2)
    before = folder.load()

    def records(manifest: Manifest) -> list[LogRecord]:
        return [record for segment in manifest.segments for record in records_of(folder.file(segment), 0, 10**9)]

    levelled = compacted(folder, before)
    assert records(levelled) == records(before)
    assert len(levelled.segments) < len(before.segments)
    places = {(segment.topic, segment.partition) for segment in before.segments}
    for place in places:
        assert len(levelled.of(*place)) < 2 * FAN
    assert levelled.cut == before.cut
    assert compacted(folder, levelled) is levelled
    full = compacted(folder, levelled, fully=True)
    assert records(full) == records(before)
    kept = {"dead-letters", "rejections", "runs"}
    assert {len(full.of(*place)) for place in places if place[0] not in kept} == {1}


def test_compaction_does_not_make_an_altered_segment_a_true_one(tmp_path: Path) -> None:
    ring = MemoryRing(1)
    ring.round(20)
    folder = lake_of(ring.log, tmp_path / "lake", rows=2)
    altered(folder.file(folder.load().of("signals")[1]), quietly=True)
    with pytest.raises(LakeError, match="was altered"):
        compacted(folder, folder.load(), fully=True)


def test_what_expires_is_not_merged_over_more_than_a_part_of_its_retention(tmp_path: Path) -> None:
    folder = LakeFolder(tmp_path / "lake")
    folder.path.mkdir()
    folder.bound("memory", "in-memory")
    day = 24 * 3600 * 1000
    segments = []
    for number in range(40):
        columns = SegmentColumns("dead-letters", 0)
        columns.add(number, number * day, None, EVENT, ())
        segments.append(write_segment(folder.segments, [columns.table()], number, number + 1))
    full = compacted(folder, folder.load().moved({("dead-letters", 0): 40}, segments), fully=True)
    assert max(segment.last_ms - segment.first_ms for segment in full.segments) <= 2 * day
    assert len(full.segments) < 40


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lake_of(MemoryLog(), tmp_path / "lake")
    before = (folder.path / MANIFEST).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    columns = SegmentColumns("signals", 0)
    columns.add(0, 1, None, EVENT, ())
    with pytest.raises(OSError, match="No space left"):
        write_segment(folder.segments, [columns.table()], 0, 1)
    with pytest.raises(OSError, match="No space left"):
        folder.store(msgspec.structs.replace(folder.load(), cut={"signals/0": 1}))
    assert list(folder.segments.iterdir()) == []
    assert (folder.path / MANIFEST).read_bytes() == before
    assert not list(folder.path.glob(".manifest*"))


def test_a_lake_and_a_log_call_the_same_answers_a_change_of_what_is_served() -> None:
    assert SERVING == CHANGES
