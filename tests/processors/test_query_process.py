"""A SELECT in a process of its own: the same answers, and whatever it does, one line and nothing left behind."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace_lake import query_process
from headrace_lake.manifest import LakeError, LakeFolder
from headrace_lake.query import QueryRefused, QueryStopped, opened
from headrace_lake.query_process import QueryFailed, ask_apart
from support.memory_ring import MemoryRing, lake_of

FOR_EVER = "SELECT count(*) FROM range(1000000000000) a, range(1000000) b"
FOUR_GIB = "SELECT length(list_aggregate(list_transform(range(4000), lambda x: repeat('y', 1000000)), 'string_agg', ''))"
TYPES = (
    "SELECT 1 AS a, 2.5 AS b, 'text' AS c, NULL AS d, true AS e, DATE '2026-01-02' AS f, TIMESTAMP '2026-01-02 03:04:05' AS g, "
    "INTERVAL 3 DAY AS h, 1.50::DECIMAL(5, 2) AS i, sum(1::HUGEINT) * 100000000000000000000000 AS j, [1, 2] AS k, "
    "{'x': 'y'} AS l, '\\xAA'::BLOB AS m, uuid '11111111-2222-3333-4444-555555555555' AS n, TIME '01:02:03' AS o"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> LakeFolder:
    ring = MemoryRing(2)
    ring.round(25)
    return lake_of(ring.log, tmp_path_factory.mktemp("lakes") / "lake")


@pytest.fixture(autouse=True)
def spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where queries spill."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_answer_is_what_it_is_in_this_process(folder: LakeFolder, spills: Path) -> None:
    for sql in (TYPES, "SELECT * FROM examples", "SELECT * FROM range(100) t(i) ORDER BY i"):
        with opened(folder, rows=50) as lake:
            assert ask_apart(folder, sql, seconds=20, rows=50) == lake.run(sql)
    assert list(spills.iterdir()) == []


def test_what_is_wrong_with_a_query_or_a_lake_is_said_as_in_this_process(folder: LakeFolder, tmp_path: Path) -> None:
    with pytest.raises(QueryRefused, match=r"^SQL: one SELECT is asked for, this is DROP$"):
        ask_apart(folder, "DROP VIEW examples", seconds=5, rows=5)
    with pytest.raises(QueryRefused, match=r"^SQL: Catalog Error[^\n]+$"):
        ask_apart(folder, "SELECT * FROM nothing", seconds=5, rows=5)
    with pytest.raises(LakeError, match="there is no lake"):
        ask_apart(LakeFolder(tmp_path / "none"), "SELECT 1", seconds=5, rows=5)


def test_a_query_that_would_run_for_ever_is_one_line(folder: LakeFolder) -> None:
    with pytest.raises(QueryStopped, match=r"^SQL: the query was stopped after 0.5 s: ask for less$"):
        ask_apart(folder, FOR_EVER, seconds=0.5, rows=5)


def test_one_that_can_not_be_interrupted_is_killed_and_nothing_is_left(
    folder: LakeFolder, spills: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_process, "STUBBORN_SECONDS", -29.5)
    with pytest.raises(QueryStopped, match=r"^SQL: the query was ended after 30 s and could not be interrupted$"):
        ask_apart(folder, FOR_EVER, seconds=30, rows=5)
    assert list(spills.iterdir()) == []


def test_four_gib_of_text_never_come_to_be(folder: LakeFolder) -> None:
    """In a process whose children are no others, so that their peak is that query's."""
    code = f"""
import resource
from pathlib import Path
from headrace_lake.manifest import LakeFolder
from headrace_lake.query_process import ask_apart
try:
    ask_apart(LakeFolder(Path({str(folder.path)!r})), {FOUR_GIB!r}, seconds=120, rows=5)
except Exception as error:
    print(type(error).__name__, str(error).count(chr(10)), "of memory" in str(error))
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""
    said, peak = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == "QueryStopped 0 True"
    assert int(peak) < 1400


@pytest.mark.parametrize("killed", [signal.SIGKILL, signal.SIGABRT])
def test_a_process_that_dies_is_one_line(folder: LakeFolder, spills: Path, killed: signal.Signals) -> None:
    error = query_process._died(-killed, b"", 5)
    assert isinstance(error, QueryStopped)
    assert "more memory than it may have" in str(error)
    odd = query_process._died(1, b"Traceback\nImportError: no module", 5)
    assert isinstance(odd, QueryFailed)
    assert str(odd) == "SQL: the process of the query ended with 1: ImportError: no module"


def test_a_query_ends_with_who_asked_and_the_next_one_clears_up(folder: LakeFolder, spills: Path) -> None:
    code = (
        "from pathlib import Path; from headrace_lake.manifest import LakeFolder; "
        "from headrace_lake.query_process import ask_apart; "
        f"ask_apart(LakeFolder(Path({str(folder.path)!r})), {FOR_EVER!r}, seconds=3600, rows=5)"
    )
    asking = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(spills)})
    children = Path(f"/proc/{asking.pid}/task/{asking.pid}/children")
    try:
        until(lambda: bool(children.read_text().split()))
        [child] = children.read_text().split()
        assert len(list(spills.iterdir())) == 1
        ask_apart(folder, "SELECT 1", seconds=20, rows=5)
        assert len(list(spills.iterdir())) == 1  # another query's is left alone
    finally:
        asking.kill()
        asking.wait()
    until(lambda: not Path(f"/proc/{child}").exists())
    assert len(list(spills.iterdir())) == 1
    ask_apart(folder, "SELECT 1", seconds=20, rows=5)
    assert list(spills.iterdir()) == []


@pytest.mark.parametrize(
    "held", ["opened(LakeFolder(Path({path!r}))) as lake", "SharedQuery(LakeFolder(Path({path!r}))).at_cut() as (lake, _)"]
)
def test_who_asks_without_a_process_and_is_killed_leaves_nothing_for_long(folder: LakeFolder, spills: Path, held: str) -> None:
    code = (
        "from pathlib import Path; from headrace_lake.manifest import LakeFolder; from headrace_lake.query import opened\n"
        "from headrace_lake.shared_query import SharedQuery\n"
        f"with {held.format(path=str(folder.path))}: print('there', flush=True); input()"
    )
    asking = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(spills)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with asking:
        assert asking.stdout is not None
        assert asking.stdout.readline() == b"there\n"
        assert len(list(spills.iterdir())) == 1
        asking.kill()
    assert len(list(spills.iterdir())) == 1
    with opened(folder) as lake:
        assert lake.run("SELECT 1").rows == [(1,)]
    assert list(spills.iterdir()) == []


def test_nothing_but_plain_values_is_taken_from_a_query_s_process() -> None:
    with pytest.raises(QueryFailed, match=r"answered with a posix\.system"):
        query_process._Reader(io.BytesIO(pickle.dumps(os.system))).load()
