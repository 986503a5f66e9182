"""What a query comes to: rows, or why there are none. Knows no DuckDB, so that who only asks need not load it."""

from __future__ import annotations

from typing import Any, NamedTuple

from headrace_schemas.root_error import NO, USAGE, HeadraceError


class QueryRefused(HeadraceError):
    """What was asked is no question of the lake: not one SELECT, or one that DuckDB does not understand."""

    exit_code = USAGE


class QueryStopped(HeadraceError):
    """A query went over its time or its memory."""

    exit_code = NO


class QueryResult(NamedTuple):
    """Names of the columns, and rows; `more`: there were others, beyond the bound of rows or of BYTES in them."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    more: bool

    def dicts(self) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]
