"""What a rebuild reads and writes, on disk: signals in their order, and records by their place in it. Folds nothing.

A position is the rank of a signal among all, then, for what came of it, a number a step: which of the records that one input
record led to. They compare as bytes, and what comes of a record comes directly behind it.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import msgpack

from headrace_lake.log import LogRecord
from headrace_streams.runtime.step import Produced

Position = bytes
Task = tuple[str, int]  # input topic, partition


class FetchedRecord(NamedTuple):
    """An input record of a rebuild at its position; `time_ms` is that of the signal that it came of."""

    position: Position
    time_ms: int
    record: LogRecord | Produced


def below(position: Position, number: int) -> Position:
    """Of the record that was written as the `number`-th for the one at `position`."""
    return position + number.to_bytes(4, "big")


class RebuiltSpool:
    """SQLite's temporary database: it goes with the connection, and has 2 MB of memory. Fill, `sort`, then fold."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("BEGIN")
        self._database.execute(
            "CREATE TABLE signals (id INTEGER PRIMARY KEY, time_ns INTEGER, event_id BLOB, partition INTEGER, "
            "log_offset INTEGER, time_ms INTEGER, key BLOB, value BLOB, headers BLOB)"
        )
        self._database.execute("CREATE TABLE ranks (partition INTEGER, rank INTEGER, id INTEGER, PRIMARY KEY (partition, rank))")
        self._database.execute(
            "CREATE TABLE written (position BLOB PRIMARY KEY, from_topic TEXT, from_partition INTEGER, time_ms INTEGER, "
            "topic TEXT, partition INTEGER, key BLOB, value BLOB, headers BLOB)"
        )
        self._database.execute("CREATE INDEX inputs ON written (topic, partition, position)")
        self._database.execute("CREATE INDEX tasks ON written (from_topic, from_partition)")

    def close(self) -> None:
        self._database.close()

    def add_signal(self, time_ns: int, event_id: str, record: LogRecord) -> None:
        row = (time_ns, event_id.encode(), record.partition, record.offset, record.timestamp, record.key, record.value)
        self._database.execute(
            "INSERT INTO signals VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, msgpack.encode(record.headers))
        )

    def sort(self) -> None:
        self._database.execute(
            "INSERT INTO ranks SELECT partition, row_number() OVER (ORDER BY time_ns, event_id, partition, log_offset), id "
            "FROM signals"
        )

    def signals(self) -> Iterator[tuple[int, str, LogRecord]]:
        """All, by time and id, as they lay on the log."""
        for _, *row in self._ranked("ORDER BY ranks.rank"):
            time_ns, event_id, partition, offset, time_ms, key, value, headers = row
            yield time_ns, event_id.decode(), LogRecord("signals", partition, offset, time_ms, key, value, _headers(headers))

    def signals_of(self, partition: int) -> Iterator[FetchedRecord]:
        """Those of one partition in that order. Their time is the event's."""
        for rank, *row in self._ranked("WHERE ranks.partition = ? ORDER BY ranks.rank", partition):
            time_ns, _, _, offset, time_ms, key, value, headers = row
            record = LogRecord("signals", partition, offset, time_ms, key, value, _headers(headers))
            yield FetchedRecord(rank.to_bytes(8, "big"), time_ns // 1_000_000, record)

    def _ranked(self, which: str, *parameters: int) -> Iterator[tuple[Any, ...]]:
        columns = "rank, time_ns, event_id, signals.partition, log_offset, time_ms, key, value, headers"
        yield from self._database.execute(f"SELECT {columns} FROM ranks JOIN signals USING (id) {which}", parameters)

    def add_written(self, source: Task, position: Position, time_ms: int, produced: Produced) -> None:
        """What the task over `source` wrote."""
        topic, partition, key, value, headers = produced
        self._database.execute(
            "INSERT INTO written VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (position, *source, time_ms, topic, partition, key, value, msgpack.encode(headers)),
        )

    def forget(self, *source: str | int) -> None:
        """Takes out what the task over `source` (topic, partition) wrote."""
        self._database.execute("DELETE FROM written WHERE from_topic = ? AND from_partition = ?", source)

    def told_to(self, topic: str, partition: int) -> Iterator[FetchedRecord]:
        """What other tasks have written into a partition, in order."""
        for position, time_ms, key, value, headers in self._told(topic, partition):
            yield FetchedRecord(position, time_ms, Produced(topic, partition, key, value, _headers(headers)))

    def told(self, topic: str, partition: int) -> bytes:
        """The digest of all that `told_to` gives."""
        hashed = hashlib.sha256()
        for row in self._told(topic, partition):
            hashed.update(msgpack.encode(row))
        return hashed.digest()

    def _told(self, *task: str | int) -> Iterator[tuple[Any, ...]]:
        yield from self._database.execute(
            "SELECT position, time_ms, key, value, headers FROM written INDEXED BY inputs WHERE topic = ? AND partition = ? "
            "AND NOT (from_topic = ? AND from_partition = ?) ORDER BY position",
            (*task, *task),
        )

    def written(self) -> Iterator[Produced]:
        """All that was written, in order."""
        for topic, partition, key, value, headers in self._database.execute(
            "SELECT topic, partition, key, value, headers FROM written ORDER BY position"
        ):
            yield Produced(topic, partition, key, value, _headers(headers))


def _headers(raw: bytes) -> tuple[Any, ...]:
    return tuple((name, content) for name, content in msgpack.decode(raw))
