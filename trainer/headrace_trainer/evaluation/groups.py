"""Test rows as prompt groups: what evidence is counted in. Knows losses and grades of rows, no models, and decides nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from headrace_schemas.canonical import rounded
from headrace_schemas.derived import Example, GroupResult
from headrace_schemas.ids import derive_id
from headrace_trainer.data.rows import TokenisedExample

FAILED_SHARE = 0.05  # of rows without a loss; with more of them a head can't be judged


class RowMeasures(NamedTuple):
    """Of one model on test rows: losses in nats a token (not a number where it has none, None where a loss would say nothing);
    if answers were graded, the answers, their grades 0-100 (None where none was asked for), and why a grade is 0 that the grader
    did not give. `bad`: losses of bad answers to the same prompts."""

    losses: Sequence[float | None]
    grades: Sequence[float | None] | None = None
    answers: Sequence[str | None] | None = None
    ungraded: Sequence[str | None] | None = None
    bad: Sequence[float] = ()

    @property
    def scored(self) -> list[float]:
        """The losses that say something."""
        return [loss for loss in self.losses if loss is not None]

    @property
    def answered(self) -> list[int]:
        """Numbers of the rows whose answers were graded."""
        return [number for number, grade in enumerate(self.grades or ()) if grade is not None]

    @property
    def given(self) -> list[float]:
        """The grades of the answers that were asked for."""
        return [grade for grade in self.grades or () if grade is not None]


def group_results(
    asked: Sequence[TokenisedExample],
    ours: RowMeasures,
    theirs: RowMeasures,
    *,
    base: str,
    served: str | None,
    worst: float,
    bad: Sequence[Example] = (),
) -> list[GroupResult]:
    """`ours` against `theirs`, group by group. `base` is the bucket's, `served` the digest of the adapter that is served; `worst`
    stands for a loss that is none; `bad`: whose bad answers were measured. A group whose drawn rows were graded is there whatever
    was said of the answers to it."""
    tests = [row.example for row in asked]
    telling = [_tells_loss(test, base, served) for test in tests]
    our_margins, their_margins = (_margins(tests, bad, scores, telling, worst) for scores in (ours, theirs))
    rows: dict[str, list[int]] = {}
    for number, example in enumerate(tests):
        rows.setdefault(example.prompt_group, []).append(number)
    graded = ours.grades is not None and theirs.grades is not None
    results = []
    for group, numbers in rows.items():
        drawn = sum(asked[number].drawn for number in numbers) if graded else 0
        grade_gains = [gain for number in numbers if (gain := _grade_gain(ours, theirs, number)) is not None]
        told = [number for number in numbers if ours.losses[number] is not None and telling[number]]
        gains = [_loss(theirs, number, worst) - _loss(ours, number, worst) for number in told]
        results.append(
            GroupResult(
                group=group_digest(tests[numbers[0]]),
                rows=len(numbers),
                samples=1 if graded else 0,
                loss_gain=_mean(gains),
                success_gain=_mean(grade_gains),
                margin_gain=rounded(our_margins[group] - their_margins[group]) if group in our_margins else None,
                selected=not drawn and any(_is_own(tests[number], base) for number in numbers),
                drawn=drawn or None,
            )
        )
    return sorted(results, key=lambda result: result.group)


def margins_of(tests: Sequence[Example], bad: Sequence[Example], scores: RowMeasures, worst: float) -> dict[str, float]:
    """By prompt group that has both: by how much more likely its good answers are than its bad ones, in nats a token."""
    return _margins(tests, bad, scores, [True] * len(tests), worst)


def _margins(
    tests: Sequence[Example], bad: Sequence[Example], scores: RowMeasures, telling: Sequence[bool], worst: float
) -> dict[str, float]:
    good: dict[str, list[float]] = {}
    poor: dict[str, list[float]] = {}
    for number, example in enumerate(tests):
        if telling[number] and scores.losses[number] is not None:
            good.setdefault(example.prompt_group, []).append(_loss(scores, number, worst))
    for example, loss in zip(bad, scores.bad, strict=True):
        poor.setdefault(example.prompt_group, []).append(loss if math.isfinite(loss) else worst)
    return {
        group: math.fsum(poor[group]) / len(poor[group]) - math.fsum(losses) / len(losses)
        for group, losses in good.items()
        if group in poor
    }


def group_digest(example: Example) -> str:
    """How an evaluation calls the group of an example: its name may be somebody's text."""
    return derive_id("group", example.bucket, example.prompt_group)


def invalid_reason(ours: RowMeasures, theirs: RowMeasures) -> str | None:
    """Why a head can't be judged: it is broken, or it is what is served by another name. None when it can."""
    scored = ours.scored
    failed = sum(not math.isfinite(loss) for loss in scored)
    if failed > FAILED_SHARE * len(scored):
        return f"failed_rows: it has no loss on {failed} of {len(scored)} rows"
    if scored and scored == theirs.scored and ours.grades == theirs.grades:
        return "identical: it has the losses of what is served on every row"
    if not scored and ours.answers and ours.answers == theirs.answers:
        return "same_answers: it gives the answer of what is served on every row"
    return None


def _is_own(example: Example, base: str) -> bool:
    """Whether the bucket's own base answered, with or without an adapter: feedback may then be there because it failed."""
    return example.model == base or example.adapter is not None


def _tells_loss(example: Example, base: str, served: str | None) -> bool:
    """A target that is the answer of what is served says nothing: whoever learns to repeat it loses less."""
    own = _is_own(example, base) and example.adapter == served
    return not (own and example.content.target == example.content.output)


def _loss(scores: RowMeasures, number: int, worst: float) -> float:
    loss = scores.losses[number]
    return loss if loss is not None and math.isfinite(loss) else worst


def _grade_gain(ours: RowMeasures, theirs: RowMeasures, number: int) -> float | None:
    """As a share of 1; None where no answer was graded."""
    if ours.grades is None or theirs.grades is None:
        return None
    one, other = ours.grades[number], theirs.grades[number]
    return None if one is None or other is None else one / 100 - other / 100


def _mean(values: Sequence[float]) -> float | None:
    return rounded(math.fsum(values) / len(values)) if values else None
