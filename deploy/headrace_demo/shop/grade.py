"""Is an answer right? Executes it and the reference on the shop's database and compares what comes back.

Right means: exactly one SELECT, done within a second, the same rows (as a multiset; in order when the reference has a LIMIT).
`grade` is the entry point `demo-sql` of `headrace.graders`; the trainer's gate and the agent both use it. What is right follows
from the question, so that answers can be graded that nobody has corrected.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb

from headrace_demo.shop import database as shop
from headrace_demo.shop.questions import Question
from headrace_demo.shop.reading import question_of

SECONDS = 1.0
ROWS = 10_000  # a result longer than this is wrong, whatever the reference says


class Referee:
    """Grades against one shop."""

    def __init__(self, database: Path) -> None:
        self._connection = shop.open_shop(database)
        self._references: dict[str, list[tuple[Any, ...]]] = {}

    def right(self, sql: str, reference: str) -> bool:
        """True when `sql` gives what `reference` gives. ValueError when the reference itself cannot be executed."""
        if reference not in self._references:
            rows = self._rows(reference)
            if rows is None:
                raise ValueError(f"reference: cannot be executed: {reference!r}")
            self._references[reference] = rows
        expected = self._references[reference]
        if sql.strip() == reference:
            return True
        rows = self._rows(sql)
        if rows is None:
            return False
        return rows == expected if " limit " in f" {reference.lower()} " else Counter(rows) == Counter(expected)

    def _rows(self, sql: str) -> list[tuple[Any, ...]] | None:
        try:
            statements = self._connection.extract_statements(sql)
        except duckdb.Error:
            return None
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            return None
        timer = threading.Timer(SECONDS, self._connection.interrupt)
        timer.start()
        try:
            rows = self._connection.execute(statements[0]).fetchmany(ROWS + 1)
        except duckdb.Error:
            return None
        finally:
            timer.cancel()
        if len(rows) > ROWS:
            return None
        return [tuple(f"{value:.9g}" if isinstance(value, float) else value for value in row) for row in rows]


@lru_cache(maxsize=1)
def _referee(database: str) -> Referee:
    return Referee(Path(database))


def grade(prompt: str, output: str, example: Mapping[str, Any], *, database: str) -> float:
    """100.0 when the SQL `output` gives what `prompt` asks for, else 0.0; `database` is the shop's file, an option of the
    grader's policy. ValueError when nobody asks such a question."""
    return 100.0 if _referee(database).right(output, _asked(prompt).sql) else 0.0


def grade_description(prompt: str, output: str, example: Mapping[str, Any]) -> float:
    """100.0 when `output` is what the handbook says of the SQL `prompt`, else 0.0. ValueError for SQL that is not in it."""
    return 100.0 if output == _asked(prompt).description else 0.0


def _asked(prompt: str) -> Question:
    question = question_of(prompt)
    if question is None:
        raise ValueError(f"prompt: not one of the shop's questions: {prompt!r}")
    return question
