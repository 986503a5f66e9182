"""Many ask a lake at once: each at one cut, none waits for a feeder, and nothing is kept of a cut that nobody reads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from headrace_lake.manifest import LakeError, LakeFolder
from headrace_lake.query import QueryStopped, connected
from headrace_lake.shared_query import SharedQuery
from support.memory_ring import MemoryRing, lake_of

COUNT = "SELECT count(*) FROM records"


@pytest.fixture
def ring() -> MemoryRing:
    ring = MemoryRing(4)
    ring.round(8)
    return ring


def test_a_page_stays_at_its_cut_and_the_next_one_is_at_the_newer(ring: MemoryRing, tmp_path: Path) -> None:
    folder = lake_of(ring.log, tmp_path / "lake")
    shared = SharedQuery(folder)
    with shared.at_cut() as (lake, manifest):
        before = lake.run(COUNT).rows
        ring.round(8)
        lake_of(ring.log, folder.path)
        with shared.at_cut() as (newer, moved):
            assert newer.run(COUNT).rows[0][0] > before[0][0]
            assert moved.cut != manifest.cut
        assert lake.run(COUNT).rows == before
    shared.close()


def test_readers_of_one_cut_share_it_and_it_goes_with_the_last_of_them(
    ring: MemoryRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def counted(*given: Any) -> Any:
        made.append(connected(*given))
        return made[-1]

    monkeypatch.setattr("headrace_lake.shared_query.connected", counted)
    folder = lake_of(ring.log, tmp_path / "lake")
    shared = SharedQuery(folder)
    answers: list[object] = []

    def read() -> None:
        with shared.at_cut() as (lake, _):
            answers.append(lake.run(COUNT).rows)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert answers == [answers[0]] * 8
    ring.round(8)
    lake_of(ring.log, folder.path)
    with shared.at_cut():
        assert len(made) == 2
        with pytest.raises(Exception, match="closed"):
            made[0].execute("SELECT 1")
    shared.close()


def test_while_nobody_reads_a_feeder_may_remove_what_it_replaced(ring: MemoryRing, tmp_path: Path) -> None:
    folder = lake_of(ring.log, tmp_path / "lake")
    shared = SharedQuery(folder)
    folder.remove_strangers(folder.load())  # as a feeder does when it starts
    stranger = folder.segments / "old.parquet"
    stranger.write_bytes(b"x")
    with shared.at_cut() as (_, manifest):
        assert folder.remove_strangers(manifest) == []
    assert folder.remove_strangers(manifest) == ["old.parquet"]
    shared.close()


def test_one_that_takes_too_long_is_stopped_and_the_others_are_not(ring: MemoryRing, tmp_path: Path) -> None:
    shared = SharedQuery(lake_of(ring.log, tmp_path / "lake"), seconds=0.3)
    with shared.at_cut() as (slow, _), shared.at_cut() as (other, _):
        with pytest.raises(QueryStopped, match="stopped after 0"):
            slow.run("SELECT count(*) FROM range(100000000000) a, range(100) b WHERE a.range + b.range < 0")
        assert other.run(COUNT).rows
        assert slow.run(COUNT).rows
    shared.close()


def test_a_lake_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="there is no lake"), SharedQuery(LakeFolder(tmp_path / "none")).at_cut():
        pass
