"""Test rows as prompt groups: what evidence is counted in. Knows losses and grades of rows, no models, and decides nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from headrace_schemas.canonical import rounded
from headrace_schemas.derived import Example, GroupResult
from headrace_schemas.ids import derive_id

FAILED_SHARE = 0.05  # of rows without a loss; with more of them a head can't be judged


class RowMeasures(NamedTuple):
    """Of one model on the test rows: losses in nats a token (not a number where there is none), grades 0-100 if answers were
    graded."""

    losses: Sequence[float]
    grades: Sequence[float] | None = None


def group_results(
    tests: Sequence[Example], ours: RowMeasures, theirs: RowMeasures, *, base: str, served: str | None, worst: float
) -> list[GroupResult]:
    """`ours` against `theirs`, group by group. `base` is the bucket's, `served` the digest of the adapter that is served; `worst`
    stands for a loss that is none."""
    rows: dict[str, list[int]] = {}
    for number, example in enumerate(tests):
        rows.setdefault(example.prompt_group, []).append(number)
    graded = ours.grades is not None and theirs.grades is not None
    results = []
    for group, numbers in rows.items():
        told = [number for number in numbers if _tells_loss(tests[number], base, served)]
        gains = [_loss(theirs, number, worst) - _loss(ours, number, worst) for number in told]
        results.append(
            GroupResult(
                group=derive_id("group", tests[numbers[0]].bucket, group),
                rows=len(numbers),
                samples=1 if graded else 0,
                loss_gain=_mean(gains),
                success_gain=_mean([_grade(ours, number) - _grade(theirs, number) for number in numbers]) if graded else None,
                selected=any(_is_own(tests[number], base) for number in numbers),
            )
        )
    return sorted(results, key=lambda result: result.group)


def invalid_reason(ours: RowMeasures, theirs: RowMeasures) -> str | None:
    """Why a head can't be judged: it is broken, or it is what is served by another name. None when it can."""
    failed = sum(not math.isfinite(loss) for loss in ours.losses)
    if failed > FAILED_SHARE * len(ours.losses):
        return f"failed_rows: it has no loss on {failed} of {len(ours.losses)} rows"
    if ours.losses and list(ours.losses) == list(theirs.losses) and ours.grades == theirs.grades:
        return "identical: it has the losses of what is served on every row"
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
    return loss if math.isfinite(loss) else worst


def _grade(scores: RowMeasures, number: int) -> float:
    assert scores.grades is not None
    return scores.grades[number] / 100


def _mean(values: Sequence[float]) -> float | None:
    return rounded(math.fsum(values) / len(values)) if values else None
