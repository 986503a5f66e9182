"""What an evaluation asks: the rows of the test pool, and the tasks of suites as rows. Knows a tokenizer, no model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from headrace_trainer.data.pairs import as_answered, is_corrected
from headrace_trainer.data.rows import RowTokeniser, RowUnfit, TokenisedExample, UnfitExample
from headrace_trainer.suites import Suite
from headrace_trainer.suites.check import Check


class AskedRows(NamedTuple):
    """Rows that are measured together, and what the base could not be asked. `suite`: None for the test pool; `bad`: answers to
    the same prompts that were wrong."""

    rows: Sequence[TokenisedExample]
    unfit: Sequence[UnfitExample] = ()
    suite: Suite | None = None
    bad: Sequence[TokenisedExample] = ()

    @property
    def graded(self) -> list[int]:
        """Numbers of the rows whose answers are graded: of a group that was drawn only those that were. The others of it are
        there because of what was said of an answer, and would weigh where the served model failed."""
        drawn = {row.example.prompt_group for row in self.rows if row.drawn}
        return [number for number, row in enumerate(self.rows) if row.drawn or row.example.prompt_group not in drawn]

    def check_of(self, number: int) -> Check | None:
        """How the answer to a row is checked, if it is a task that says so itself."""
        return None if self.suite is None else self.suite.task_of(self.rows[number].example).check


def suite_rows(suite: Suite, bucket: str, tokeniser: RowTokeniser, *, needs_reference: bool = False) -> AskedRows:
    """The tasks of a suite for the base of `bucket`; one without a reference is asked, and has no loss, unless who grades
    `needs_reference`: one that compares would take nothing but an empty answer for right."""
    rows: list[TokenisedExample] = []
    unfit: list[UnfitExample] = []
    for task, example in zip(suite.tasks, suite.examples(bucket), strict=True):
        if task.reference is None and task.check is None and needs_reference:
            unfit.append(UnfitExample(example, "needs_reference"))
            continue
        try:
            rows.append(tokeniser.question(example) if task.reference is None else tokeniser.example(example, 1.0))
        except RowUnfit as error:
            unfit.append(UnfitExample(example, error.reason))
    return AskedRows(rows, unfit, suite)


def bad_answers(rows: Sequence[TokenisedExample], tokeniser: RowTokeniser) -> list[TokenisedExample]:
    """What was answered to the prompts of `rows` and was corrected, or is no answer that should be given; without what makes no
    row."""
    found: list[TokenisedExample] = []
    for row in rows:
        if not row.scored or is_corrected(row.example):
            with suppress(RowUnfit):
                found.append(tokeniser.example(as_answered(row.example), 1.0))
    return found
