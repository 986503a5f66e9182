"""Pages of records, newest first: where one goes on is a record's own place, so that nothing shifts while the log grows."""

from __future__ import annotations

from typing import NamedTuple

from headrace_lake.query import QueryRefused

PAGE = 50  # rows


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
