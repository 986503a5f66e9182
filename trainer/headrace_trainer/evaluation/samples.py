"""Samples of an evaluation, out of what was measured. Knows examples and figures of rows; no files, no models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from headrace_schemas.canonical import digest, rounded
from headrace_schemas.derived import Example
from headrace_streams.evaluation_samples import EvaluationSample
from headrace_trainer.evaluation.asked import AskedRows
from headrace_trainer.evaluation.groups import RowMeasures, group_digest
from headrace_trainer.suites import Suite


def samples_of(asked: AskedRows, ours: RowMeasures, theirs: RowMeasures, head: str | None = None) -> Iterator[EvaluationSample]:
    """Each row under `head` (None: the version itself) beside what is served, in the order of the rows; once, with the version's
    own, what could not be asked."""
    for number, test in enumerate(asked.rows):
        answer, grade, ungraded = _answer(ours, number)
        served_answer, served_grade, served_ungraded = _answer(theirs, number)
        yield EvaluationSample(
            **_named(test.example, asked.suite), head=head, answer=answer, grade=grade, loss=_loss(ours, number),
            ungraded=ungraded, served_answer=served_answer, served_grade=served_grade, served_loss=_loss(theirs, number),
            served_ungraded=served_ungraded,
        )  # fmt: skip
    for unfit in asked.unfit if head is None else ():
        yield EvaluationSample(**_named(unfit.example, asked.suite), left_out=unfit.reason)


def _named(example: Example, suite: Suite | None) -> dict[str, Any]:
    """Which row it is."""
    return {
        "example_id": example.example_id, "revision": example.revision, "group": group_digest(example),
        "prompt_sha256": digest(msgspec.to_builtins(example.content.prompt)), "suite": None if suite is None else suite.name,
    }  # fmt: skip


def _answer(scores: RowMeasures, number: int) -> tuple[str | None, float | None, str | None]:
    if scores.answers is None or scores.grades is None:
        return None, None, None
    return scores.answers[number], scores.grades[number], scores.ungraded[number] if scores.ungraded else None


def _loss(scores: RowMeasures, number: int) -> float | None:
    loss = scores.losses[number]
    return rounded(loss) if loss is not None and math.isfinite(loss) else None
