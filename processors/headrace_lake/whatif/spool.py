"""What a new policy makes of signals, where that is not what was recorded: kept on disk until examples are curated.

A row holds what one signal leads to on one partition of `examples`. Knows no policy; memory does not grow with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec import msgpack

from headrace_lake.whatif.report import WITHDRAWN, ExampleSide
from headrace_streams.runtime.step import Produced

_TABLES = (
    "CREATE TABLE instead (partition INTEGER, source INTEGER, log_offset INTEGER, time_ms INTEGER, behind INTEGER, "
    "replaces INTEGER, outputs BLOB)",
    "CREATE TABLE contents (example_id TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID",
    "CREATE TABLE halves (example_id TEXT, after INTEGER, side BLOB, PRIMARY KEY (example_id, after)) WITHOUT ROWID",
)
_SIDE = msgpack.Decoder(tuple[str, str, ExampleSide])


class Instead(NamedTuple):
    """What the new policy writes to a partition of `examples` for a signal (`source`, `offset`), which was appended at `time_ms`.
    `replaces`: the recorded policy wrote something there too; otherwise it comes behind what it wrote for signal `behind` of the
    same partition, -1 for the beginning."""

    source: int
    offset: int
    time_ms: int
    behind: int
    replaces: bool
    outputs: list[Produced]


class Spool:
    """A database on disk, which goes with its connection."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        for table in _TABLES:
            self._database.execute(table)
        self._indexed = False

    def close(self) -> None:
        self._database.close()

    def put(self, partition: int, row: Instead) -> None:
        outputs = msgpack.encode([(made.key, made.value, made.headers) for made in row.outputs])
        values = (partition, row.source, row.offset, row.time_ms, row.behind, row.replaces, outputs)
        self._database.execute("INSERT INTO instead VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def put_content(self, example_id: str, value: bytes) -> None:
        """Keeps the newest example record that the new policy makes of an interaction."""
        self._database.execute("INSERT OR REPLACE INTO contents VALUES (?, ?)", (example_id, value))

    def content(self, example_id: str) -> bytes | None:
        found = self._database.execute("SELECT value FROM contents WHERE example_id = ?", (example_id,)).fetchone()
        return None if found is None else found[0]

    def put_half(self, example_id: str, interaction_id: str, place: str, side: ExampleSide, *, after: bool) -> None:
        """Keeps where an example ended that is in this bucket under one of the policies only. One that
        moved on was withdrawn from all buckets but the last."""
        packed = msgpack.encode((interaction_id, place, side))
        how = "IGNORE" if side.fate == WITHDRAWN else "REPLACE"
        self._database.execute(f"INSERT OR {how} INTO halves VALUES (?, ?, ?)", (example_id, after, packed))

    def joined_halves(self) -> Iterator[tuple[str, str, str, ExampleSide | None, ExampleSide | None]]:
        """(example id, interaction id, place, before, after) of those, by example id."""
        query = "SELECT example_id, after, side FROM halves ORDER BY example_id, after"
        held: tuple[str, str, str, ExampleSide] | None = None
        for example_id, after, packed in self._database.execute(query):
            interaction_id, place, side = _SIDE.decode(packed)
            if held is not None and held[0] == example_id:
                yield example_id, held[1] or interaction_id, held[2] or place, held[3], side
                held = None
                continue
            if held is not None:
                yield *held, None
                held = None
            if after:
                yield example_id, interaction_id, place, None, side
            else:
                held = example_id, interaction_id, place, side
        if held is not None:
            yield *held, None

    def sources(self, partition: int) -> Sequence[int]:
        """The partitions of `signals` with rows for a partition of `examples`."""
        if not self._indexed:
            self._database.execute("CREATE INDEX instead_by_place ON instead (partition, source, log_offset)")
            self._indexed = True
        found = self._database.execute("SELECT DISTINCT source FROM instead WHERE partition = ? ORDER BY source", (partition,))
        return [source for (source,) in found]

    def rows(self, partition: int, source: int) -> Iterator[Instead]:
        """In the order of the signals."""
        query = (
            "SELECT log_offset, time_ms, behind, replaces, outputs FROM instead WHERE partition = ? AND source = ? "
            "ORDER BY log_offset"
        )
        for offset, time_ms, behind, replaces, outputs in self._database.execute(query, (partition, source)):
            made = [
                Produced("examples", partition, key, value, tuple((name, content) for name, content in headers))
                for key, value, headers in msgpack.decode(outputs)
            ]
            yield Instead(source, offset, time_ms, behind, bool(replaces), made)
