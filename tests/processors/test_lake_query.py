"""SQL over a lake: every view answers, and a query can do nothing but read them, within its bounds."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace_cli.main import invoke
from headrace_lake import query
from headrace_lake.manifest import LakeFolder
from headrace_lake.query import LakeQuery, QueryRefused, QueryStopped, opened
from headrace_lake.views import COMPOSED, EXAMPLES, VIEWS
from headrace_schemas.codec import decode, encode
from headrace_schemas.derived import RollbackRequest
from headrace_schemas.events import RollbackRequested, make
from headrace_streams.testing import written_headers
from support.memory_log import MemoryLog
from support.memory_ring import MemoryRing, lake_of
from support.readme import ROOT


@pytest.fixture(scope="module")
def ring() -> MemoryRing:
    ring = MemoryRing(2)
    for _ in range(3):
        ring.round(25)
    return ring


@pytest.fixture
def lake(folder: LakeFolder) -> Iterator[LakeQuery]:
    with opened(folder, seconds=20) as lake:
        yield lake


def test_who_asks_loads_no_kafka_client_and_no_parquet_writer() -> None:
    loaded = "import headrace_lake.query_child, headrace_lake.read_models.lineage_view, sys; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert "duckdb" in told
    assert {"aiokafka", "pyarrow"}.isdisjoint(told)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of_every_view_is_in_the_docs_and_answers(lake: LakeQuery, name: str) -> None:
    question, sql = EXAMPLES[name]
    page = " ".join((ROOT / "docs" / "lake.md").read_text(encoding="utf-8").split())
    assert question in page
    assert " ".join(sql.split()) in page
    assert lake.run(sql).columns
    whole = lake.run(f"SELECT * FROM {name}")
    assert len(whole.columns) == len(set(whole.columns))
    if name not in {"withdrawals", "settlements", "redriven", "silences"}:  # the ring of these tests has none
        assert whole.rows


def test_every_event_of_a_topic_is_in_its_view(ring: MemoryRing, lake: LakeQuery) -> None:
    for view in VIEWS:
        records = ring.log.of(view.topic)
        found = lake.run(f"SELECT topic, partition, log_offset FROM {view.name}").rows
        there = {(record.topic, record.partition, record.offset) for record in records}
        assert set(found) <= there
        if view.name == "signals":
            assert set(found) == there


def test_a_view_says_what_the_event_says(ring: MemoryRing, lake: LakeQuery) -> None:
    for row in lake.run("SELECT * FROM examples").dicts():
        value = ring.log.records[row["topic"], row["partition"]][row["log_offset"]].value
        example = decode(value).data
        assert (row["example_id"], row["revision"], row["reward"]) == (example.example_id, example.revision, example.reward)  # type: ignore[union-attr]
        assert (row["output"], row["agent"], row["train"]) == (example.content.output, example.agent.name, True)  # type: ignore[union-attr]


def test_what_is_served_is_the_base_after_a_roll_back_to_it(tmp_path: Path) -> None:
    ring = MemoryRing(1)
    ring.round(25)
    sql = EXAMPLES["releases"][1]
    with opened(lake_of(ring.log, tmp_path / "before")) as lake:
        [(bucket, adapter, number)] = lake.run(sql).rows
    [partition] = [at for (topic, at), records in ring.log.records.items() if topic == "outcomes" and records]
    data = RollbackRequest(bucket=bucket, release_id="base")
    asked = make(RollbackRequested, data, id="back", writer="command", time_ms=ring.log.time)
    ring.log.append("outcomes", partition, bucket.encode(), encode(asked))
    ring.round(0)
    with opened(lake_of(ring.log, tmp_path / "after")) as lake:
        assert (adapter is None, lake.run(sql).rows) == (False, [(bucket, None, number + 1)])


def test_nothing_but_one_select_is_answered(lake: LakeQuery, folder: LakeFolder, tmp_path: Path) -> None:
    file = folder.file(folder.load().segments[0])
    for sql in (
        "",
        "SELECT 1; SELECT 2",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW examples",
        f"COPY (SELECT 1) TO '{tmp_path}/x.csv'",
        f"COPY (SELECT 1) TO '{file}'",
        "SET memory_limit = '10GB'",
        "RESET ALL",
        "ATTACH ':memory:' AS other",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "EXPORT DATABASE 'x'",
        "EXPLAIN ANALYZE SELECT 1",
        "SELECT * FROM no_such_view",
        "SELEKT 1",
        "SELECT * FROM query('DROP VIEW examples')",
    ):
        with pytest.raises(QueryRefused, match=r"^SQL: [^\n]+$"):
            lake.run(sql)
    assert lake.run("SELECT count(*) FROM examples").rows
    assert not list(tmp_path.iterdir())


def test_no_file_is_read_but_the_segments(lake: LakeQuery, folder: LakeFolder, tmp_path: Path) -> None:
    file = folder.file(folder.load().segments[0]).resolve()
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for sql in (
        f"SELECT * FROM read_text('{secret}')",
        f"SELECT * FROM read_csv('{secret}')",
        f"SELECT * FROM '{secret}'",
        f"SELECT * FROM glob('{tmp_path}/*')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_parquet('https://example.org/x.parquet')",
        "SELECT * FROM parquet_metadata('/etc/passwd')",
        "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
        "SELECT * FROM query_table('/etc/passwd')",
        "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''/etc/passwd'')'))",
        "SELECT * FROM read_duckdb('/etc/passwd')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        f"SELECT * FROM read_text('{file}/../../manifest.json')",
        f"SELECT * FROM glob('{file.parent}/*')",
        "DESCRIBE '/etc/passwd'",
        "SELECT getenv('HOME')",
        "SELECT * FROM enable_logging()",
    ):
        with pytest.raises(QueryRefused):
            lake.run(sql)
        assert secret.read_text() == "a\n1\n"


def test_a_query_that_would_run_for_ever_is_stopped_and_the_next_one_answered(folder: LakeFolder) -> None:
    with opened(folder, seconds=0.5) as lake:
        began = time.monotonic()
        with pytest.raises(QueryStopped, match=r"stopped after 0.5 s: ask for less"):
            lake.run("SELECT count(*) FROM range(1000000000000) a, range(1000000) b")
        assert time.monotonic() - began < 60
        assert lake.run("SELECT 1").rows == [(1,)]


def test_rows_and_memory_are_bounded(folder: LakeFolder) -> None:
    with opened(folder, rows=10) as lake:
        found = lake.run("SELECT * FROM range(11)")
        assert (len(found.rows), found.more) == (10, True)
        assert not lake.run("SELECT * FROM range(10)").more
        assert lake.run("SELECT current_setting('memory_limit'), current_setting('threads')").rows == [("488.2 MiB", 2)]


def test_large_texts_are_bounded_by_their_bytes(folder: LakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "BYTES", 10_000)
    with opened(folder) as lake:
        for text in ("repeat('x', 1000)", "[repeat('x', 500), repeat('x', 500)]", "{'a': repeat('x', 1000)}"):
            found = lake.run(f"SELECT {text} AS text FROM range(300)")
            assert (found.more, 10 <= len(found.rows) <= 11) == (True, True)
        assert not lake.run("SELECT 'x' FROM range(300)").more
        assert len(lake.all("SELECT repeat('x', 1000) FROM range(300)")) == 300


def test_a_query_of_our_own_is_whole_or_none(lake: LakeQuery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "_WHOLE", 100)
    assert len(lake.all("SELECT * FROM range(100)")) == 100
    with pytest.raises(QueryStopped, match="more than 100 records"):
        lake.all("SELECT * FROM range(101)")


def test_a_reader_keeps_its_cut_while_the_lake_goes_on(ring: MemoryRing, tmp_path: Path) -> None:
    ends = {place: len(records) // 2 for place, records in ring.log.records.items()}
    folder = lake_of(ring.log, tmp_path / "lake", ends=ends)
    with opened(folder) as lake:
        [(before,)] = lake.run("SELECT count(*) FROM records").rows
        lake_of(ring.log, tmp_path / "lake")
        assert lake.run("SELECT count(*) FROM records").rows == [(before,)]
    with opened(folder) as lake:
        assert lake.run("SELECT count(*) FROM records").rows[0][0] > before


def test_junk_on_a_stages_topic_stops_no_query(tmp_path: Path) -> None:
    log = MemoryLog()
    for value in (None, b"\xff", b"{", b'{"type":"headrace.example.rewarded.v1","id":"a","source":"b","data":{"reward":"x"}}'):
        log.append("examples", 0, None, value, written_headers("examples"))
    huge = b'{"type":"headrace.example.rewarded.v1","id":"a","source":"b","data":{"reward":1e999,"voices":1e99}}'
    log.append("examples", 0, None, huge)
    with opened(lake_of(log, tmp_path / "lake")) as lake:
        assert lake.run("SELECT count(*) FROM records").rows == [(5,)]
        assert lake.run("SELECT count(*) FROM examples").rows == [(2,)]
        assert lake.run("SELECT log_offset FROM examples WHERE reward > 0").rows in ([], [(4,)])
        for name in (*(view.name for view in VIEWS), *COMPOSED):
            lake.run(f"SELECT * FROM {name}")


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sql(folder: LakeFolder, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        return invoke(["sql", "--lake", str(folder.path), *arguments]), *capsys.readouterr()

    return run


def test_the_command_prints_a_table_or_json_and_its_errors_in_one_line(sql: Run, tmp_path: Path) -> None:
    code, out, error = sql("SELECT 1 AS one, 'a' || chr(10) || chr(27) || '[31m' AS text")
    assert (code, out, error) == (0, "one  text\n---  -------\n1    a  [31m\n", "")
    assert chr(27) not in sql('SELECT 1 AS "a\x1b[31m"')[1]
    code, out, _ = sql("--json", "SELECT bucket, count(*) AS n FROM batches GROUP BY bucket")
    assert (code, json.loads(out)["bucket"]) == (0, "sql/tiny")
    code, out, error = sql("--rows", "2", "SELECT * FROM range(5)")
    assert (code, error) == (0, "headrace: the first 2 rows; --rows shows more\n")
    assert sql("DROP VIEW examples") == (2, "", "headrace: SQL: one SELECT is asked for, this is DROP\n")
    code, out, error = sql("--lake", str(tmp_path), "SELECT 1")
    assert (code, out, error.count("\n"), "there is no lake" in error) == (1, "", 1, True)
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert all(timer.finished.is_set() for timer in timers)  # nothing ends this process later
    code, _, error = sql("--seconds", "0.3", "SELECT count(*) FROM range(1000000000000) a, range(1000000) b")
    assert (code, error.count("\n"), "stopped after 0.3 s" in error) == (1, 1, True)
