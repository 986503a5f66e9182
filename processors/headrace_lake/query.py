"""SQL over one manifest of a lake: a DuckDB in memory that can read its segments and do nothing else. Knows DuckDB.

The views are made first; then file access ends but for the segments themselves, and no setting can be changed any more. A query
is one SELECT; its memory, its threads, its time and the rows that it gives are bounded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb

from headrace_lake.activity_view import activity_sql
from headrace_lake.manifest import LAKE_TOPICS, LakeError, LakeFolder, Manifest
from headrace_lake.query_result import QueryRefused as QueryRefused
from headrace_lake.query_result import QueryResult as QueryResult
from headrace_lake.query_result import QueryStopped as QueryStopped
from headrace_lake.segment import COLUMNS
from headrace_lake.spill import spill_folder
from headrace_lake.text_opener import TextOpener
from headrace_lake.views import COMPOSED, VIEWS, literal, table_of
from headrace_lake.views import SCHEMA as TABLES

MEMORY, THREADS, SPILLED = "512MB", 2, "2GB"
SECONDS, ROWS, BYTES = 30.0, 5000, 64 * 1024 * 1024
_WHOLE = 10_000_000  # rows of a query of our own
_PORTION = 64  # rows that are taken at once: a text of the log has up to 1 MiB


class LakeQuery:
    """A connection. One query at a time; not to be shared by threads. `seconds` and `rows` bound each query. `opener` opens the
    sealed texts of what is read, for whom it may."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, seconds: float = SECONDS, rows: int = ROWS) -> None:
        self._connection, self._seconds, self._most = connection, seconds, rows
        self.opener = TextOpener()

    def run(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] | None = None) -> QueryResult:
        """The answer to one SELECT. QueryRefused, or QueryStopped."""
        return self._run(sql, parameters, self._most, BYTES)

    def _run(
        self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] | None, most: int, most_bytes: int | None
    ) -> QueryResult:
        try:
            statements = self._connection.extract_statements(sql)
        except duckdb.Error as error:
            raise QueryRefused(f"SQL: {_line(error)}") from error
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
            raise QueryRefused(f"SQL: one SELECT is asked for, this is {kinds}")
        watchdog = threading.Timer(self._seconds, self._connection.interrupt)
        watchdog.daemon = True
        watchdog.start()
        try:
            found = self._connection.execute(statements[0], parameters or [])
            columns = [str(column[0]) for column in found.description or ()]
            rows, more = _taken(found, most, most_bytes)
        except duckdb.InterruptException as error:
            raise QueryStopped(f"SQL: the query was stopped after {self._seconds:g} s: ask for less") from error
        except duckdb.OutOfMemoryException as error:
            raise QueryStopped(
                f"SQL: the query needs more than {MEMORY} of memory and {SPILLED} of disk: ask for less"
            ) from error
        except duckdb.Error as error:
            raise QueryRefused(f"SQL: {_line(error)}") from error
        finally:
            watchdog.cancel()
        return QueryResult(columns, rows, more)

    def all(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Every row of a query of our own. QueryStopped."""
        found = self._run(sql, parameters, _WHOLE, None)
        if found.more:
            raise QueryStopped(f"the lake: more than {_WHOLE} records belong to it: ask for less")
        return found.rows

    def keep(self, name: str, places: Iterable[tuple[str, int, int]]) -> None:
        """Makes (topic, partition, offset) a relation of this connection, for queries of our own."""
        topics, partitions, offsets = zip(*places, strict=True)
        self._connection.execute(
            f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT unnest($topics) AS topic, unnest($partitions) AS partition, "
            "unnest($offsets) AS log_offset",
            {"topics": list(topics), "partitions": list(partitions), "offsets": list(offsets)},
        )

    def keep_texts(self, name: str, texts: Sequence[str]) -> None:
        """Makes texts a relation of one column, `text`."""
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT unnest($texts) AS text", {"texts": list(texts)})


@contextmanager
def opened(folder: LakeFolder, *, seconds: float = SECONDS, rows: int = ROWS) -> Iterator[LakeQuery]:
    """A lake to be asked at the cut that it has now, whatever its feeder does meanwhile. LakeError."""
    with folder.open() as manifest, spill_folder() as (spill, _):
        connection = connected(folder, manifest, str(spill))
        try:
            with readable(folder):
                yield LakeQuery(connection, seconds, rows)
        finally:
            connection.close()


@contextmanager
def readable(folder: LakeFolder) -> Iterator[None]:
    """LakeError for a file that DuckDB can't read."""
    try:
        yield
    except duckdb.IOException as error:
        raise LakeError(f"{folder.path}: {_line(error)}") from error


def connected(folder: LakeFolder, manifest: Manifest, spill: str) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory with the views over `manifest`, which can read nothing else; it spills into the folder `spill`."""
    connection = duckdb.connect(config={"memory_limit": MEMORY, "threads": THREADS, "autoload_known_extensions": False})
    try:
        _prepare(connection, folder, manifest, spill)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: duckdb.DuckDBPyConnection, folder: LakeFolder, manifest: Manifest, spill: str) -> None:
    files = {topic: [str(folder.file(segment).resolve()) for segment in manifest.of(topic)] for topic in LAKE_TOPICS}
    allowed = [name for names in files.values() for name in names]
    activity, counts = activity_sql(folder, manifest.segments)
    for setting, value in (
        ("allowed_paths", [*allowed, *map(str, counts)]),
        ("temp_directory", spill),
        ("max_temp_directory_size", SPILLED),
        ("autoinstall_known_extensions", False),
        ("enable_external_access", False),
    ):
        connection.execute(f"SET {setting} = {literal(value)}")
    connection.execute(f"CREATE SCHEMA {TABLES}")
    for topic, names in files.items():
        connection.execute(f"CREATE VIEW {table_of(topic)} AS {_relation(names)}")
    connection.execute(f"CREATE VIEW records AS {_relation(allowed)}")
    connection.execute(f"CREATE VIEW activity AS {activity}")
    for view in VIEWS:
        connection.execute(f"CREATE VIEW {view.name} AS {view.sql()}")
    for name, (_, sql, _) in COMPOSED.items():
        if sql:
            connection.execute(f"CREATE VIEW {name} AS {sql}")
    connection.execute("SET lock_configuration = true")


def _taken(found: duckdb.DuckDBPyConnection, most: int, most_bytes: int | None) -> tuple[list[tuple[Any, ...]], bool]:
    """Rows up to a bound, and whether there are more."""
    rows: list[tuple[Any, ...]] = []
    size = 0
    while portion := found.fetchmany(_PORTION):
        for row in portion:
            if len(rows) == most or (most_bytes is not None and size > most_bytes):
                return rows, True
            rows.append(row)
            size += 0 if most_bytes is None else _size(row)
    return rows, False


def _size(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_size(name) + _size(one) for name, one in value.items())
    return sum(map(_size, value)) if isinstance(value, Iterable) else 8


def _relation(files: Sequence[str]) -> str:
    """The rows of segments; of none, no rows of the same columns."""
    if files:
        return f"SELECT * FROM read_parquet({literal(files)})"
    columns = ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in COLUMNS.items())
    return f"SELECT {columns} WHERE false"


def _line(error: BaseException) -> str:
    """The first line of what DuckDB says."""
    return str(error).strip().partition("\n")[0]
