"""A partition of `examples` as it would have been under another policy of reward: the recorded one, with what differs put in.

What a signal leads to stands where the recorded record of the same signal stands; where there is none, behind what the same
partition of signals led to before it, and not before the signal was appended. So revisions of an interaction stay in order.
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace_lake.log import LogRecord
from headrace_lake.whatif.spool import Instead, Spool
from headrace_streams.runtime.provenance import Provenance, provenance_of


class MergedExamples:
    """Given the recorded records one by one, gives those that a new policy of reward would have led to."""

    def __init__(self, spool: Spool, partition: int) -> None:
        self._partition = partition
        self._rows = {source: spool.rows(partition, source) for source in spool.sources(partition)}
        self._next = {source: row for source, rows in self._rows.items() if (row := next(rows, None)) is not None}
        self._reached: dict[int, int] = {}  # by partition of signals: the last one that a recorded record was made of
        self._replaced: dict[int, int] = {}  # by partition of signals: the signal of which a row stands for the recorded records

    def instead_of(self, record: LogRecord) -> list[LogRecord]:
        """What comes instead of a recorded record; mostly itself."""
        if not self._next and not self._replaced:
            return [record]
        made_of = provenance_of(record.headers)
        if made_of is None or made_of.stage != "reward":
            return [*self._due(record), record]
        found = self._due(record, made_of)
        self._reached[made_of.partition] = max(made_of.offset, self._reached.get(made_of.partition, -1))
        if self._replaced.get(made_of.partition) == made_of.offset:  # other tasks' records may lie between those of one signal
            return found
        self._replaced.pop(made_of.partition, None)
        row = self._next.get(made_of.partition)
        if row is not None and row.offset == made_of.offset:
            self._replaced[row.source] = row.offset
            self._advance(row.source)
            return [*found, *self._records(row, record.offset, record.timestamp)]
        return [*found, record]

    def rest(self, offset: int) -> list[LogRecord]:
        """What comes after the last recorded record. What replaces records that were never written is left out: the recorded
        policy has not come that far either."""
        found: list[LogRecord] = []
        while self._next:
            row = min(self._next.values(), key=lambda row: (row.time_ms, row.source, row.offset))
            self._advance(row.source)
            if not row.replaces and row.behind <= self._reached.get(row.source, -1):
                found += self._records(row, offset, row.time_ms)
        return found

    def _due(self, record: LogRecord, made_of: Provenance | None = None) -> list[LogRecord]:
        """What has no place of its own and comes before a recorded record."""
        found: list[LogRecord] = []
        while True:
            due = [row for row in self._next.values() if self._is_due(row, record, made_of)]
            if not due:
                return found
            row = min(due, key=lambda row: (row.time_ms, row.source, row.offset))
            self._advance(row.source)
            found += self._records(row, record.offset, row.time_ms)

    def _is_due(self, row: Instead, record: LogRecord, made_of: Provenance | None) -> bool:
        if made_of is not None and made_of.partition == row.source and row.offset < made_of.offset:
            return True
        if row.replaces:
            return False
        return row.time_ms <= record.timestamp and row.behind <= self._reached.get(row.source, -1)

    def _advance(self, source: int) -> None:
        row = next(self._rows[source], None)
        if row is None:
            del self._next[source]
        else:
            self._next[source] = row

    def _records(self, row: Instead, offset: int, time_ms: int) -> Iterator[LogRecord]:
        for made in row.outputs:
            yield LogRecord("examples", self._partition, offset, time_ms, made.key, made.value, made.headers)
