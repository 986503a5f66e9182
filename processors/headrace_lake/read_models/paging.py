"""Pages of records, newest first: where one goes on is a record's own place, so that nothing shifts while the log grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from headrace_lake.query import QueryRefused

PAGE = 50  # rows
NEWEST_FIRST = "ORDER BY appended_at DESC, partition DESC, log_offset DESC"


class CursorRefused(QueryRefused):
    """A cursor in an address that no page has written."""


class PageCursor(NamedTuple):
    """A record's place in the order of all partitions: append time in ms, then partition and offset. A page goes on below it."""

    appended_ms: int
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.appended_ms}-{self.partition}-{self.offset}"

    @classmethod
    def read(cls, text: str) -> PageCursor | None:
        """The cursor in an address; None for none. CursorRefused."""
        if not text:
            return None
        parts = text.split("-")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
            raise CursorRefused(f"below={text!r}: no place in a list; go back to its first page")
        return cls(*map(int, parts))

    def condition(self) -> str:
        """The records below it, in SQL over columns of segments."""
        return f"(epoch_ms(appended_at), partition, log_offset) < ({self.appended_ms}, {self.partition}, {self.offset})"


class ListRow(Protocol):
    """A row of a list, which stands for a record."""

    @property
    def appended_ms(self) -> int: ...

    @property
    def place(self) -> str: ...


def page_of(records: str, bucket: str | None, below: PageCursor | None) -> tuple[str, dict[str, str]]:
    """The condition for those of `records` that a page is of, in SQL: of one bucket or of all, below a place; its parameters."""
    conditions = [records]
    conditions += ["bucket = $bucket"] if bucket is not None else []
    conditions += [below.condition()] if below is not None else []
    return " AND ".join(conditions), {"bucket": bucket} if bucket is not None else {}


def next_page(rows: Sequence[ListRow], *, more: bool) -> str | None:
    """Where the page behind `rows` goes on, if there are `more`."""
    if not more:
        return None
    _, partition, offset = rows[-1].place.split("/")
    return str(PageCursor(rows[-1].appended_ms, int(partition), int(offset)))
