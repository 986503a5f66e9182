"""Candidate against incumbent on the same held-out rows: loss first, then success by a grader. Decides nothing about release.

The gain is paired: candidate and incumbent are resampled by the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from headrace_schemas.canonical import rounded
from headrace_schemas.derived import Comparison, Gain, GroupResult, HeadResult, Measure
from headrace_trainer.data.rows import TokenisedExample
from headrace_trainer.evaluation.generate import generate, serving
from headrace_trainer.evaluation.grader import Grader
from headrace_trainer.evaluation.groups import RowMeasures, group_results, invalid_reason
from headrace_trainer.evaluation.statistics import Interval, bootstrap, sign_test
from headrace_trainer.model.base import Base
from headrace_trainer.model.precision import Precision
from headrace_trainer.objectives.sft import row_losses
from headrace_trainer.policy import EvaluationPolicy, RequirementPolicy
from headrace_trainer.spec import EvaluationReport

CANDIDATE, INCUMBENT = "default", "incumbent"  # names of adapters in the model; no incumbent adapter: the base itself
WATCHED = "watched"  # what was served before
WORST_LOSS = 1e4  # nats a token: what counts for a loss that is no number, so that broken weights lose and every figure is one


class Incumbent(NamedTuple):
    """What candidates are compared with: the bucket's base, as rows call it, and the digest of the adapter that is served."""

    base: str
    served: str | None = None


def evaluate(
    model: Any,
    base: Base,
    tests: Sequence[TokenisedExample],
    *,
    policy: EvaluationPolicy,
    requirements: Sequence[RequirementPolicy] = (),
    grader: Grader | None = None,
    precision: Precision = "fp32",
    batch_tokens: int = 8192,
    seed: int = 0,
    heads: Mapping[str, str] | None = None,
    watched: str | None = None,
    named: Incumbent | None = None,
) -> EvaluationReport:
    """`model` is a PeftModel with the candidate as adapter `default` and, unless the base is served, `incumbent`. `heads`: names
    of adapters of earlier heads in it, by version; `watched`: that of what was served before ("" for the base), if a promotion is
    watched.

    Without tests nothing is measured: both sides are empty and the comparison counts 0 rows.
    """
    # Answers that are generated only where the loss has fallen would be counted only where they are good.
    counted: Literal["success", "loss"] = "success" if grader is not None and policy.generate == "always" else "loss"
    if not tests:
        checked = [requirement.check(None) for requirement in requirements]
        nothing = Comparison(loss_gain=Gain(value=0.0, low=0.0, high=0.0), n=0)
        unseen = tuple(HeadResult(version_id=version, groups=[]) for version in (*(heads or {}), ""))
        return EvaluationReport({}, {}, nothing, checked, counted, unseen)
    incumbent = INCUMBENT if INCUMBENT in model.peft_config else None
    rows = [test.row for test in tests]
    others, names = dict(heads or {}), named or Incumbent("")
    sides: dict[str, str | None] = {CANDIDATE: CANDIDATE, INCUMBENT: incumbent, **{name: name for name in others.values()}}
    if watched is not None:
        sides[WATCHED] = watched or None
    measured_losses: dict[str, list[float]] = {}
    for side, adapter in sides.items():
        with serving(model, adapter, merged=False):
            measured_losses[side] = row_losses(model, rows, base, batch_tokens, precision)
    losses = {side: [loss if math.isfinite(loss) else WORST_LOSS for loss in found] for side, found in measured_losses.items()}
    groups = [test.example.prompt_group for test in tests]
    measured = {side: _loss_measures(losses[side], groups, policy, seed) for side in (CANDIDATE, INCUMBENT)}
    gain = bootstrap(np.subtract(losses[INCUMBENT], losses[CANDIDATE]).tolist(), policy.resamples, seed, groups)
    comparison = Comparison(loss_gain=Gain(value=gain.value, low=gain.low, high=gain.high), n=len(rows))
    generates = policy.generate == "always" or (policy.generate == "passable" and gain.low > 0)
    grades: dict[str, list[float]] = {}
    if grader is not None and generates:
        for side, adapter in sides.items():
            if side == WATCHED:
                continue  # the alarm after a promotion hears losses only
            with serving(model, adapter):
                outputs = generate(model, rows, base, policy, precision, seed)
            grades[side] = [grader.grade(output, test.example).value for output, test in zip(outputs, tests, strict=True)]
        for side in (CANDIDATE, INCUMBENT):
            passed = [1.0 if grade >= grader.policy.pass_mark else 0.0 for grade in grades[side]]
            measured[side] |= _grade_measures(grades[side], passed, groups, policy, seed)
        comparison = _with_wins(comparison, grades[CANDIDATE], grades[INCUMBENT])
    scores = {side: RowMeasures(found, grades.get(side)) for side, found in measured_losses.items()}
    examples = [test.example for test in tests]

    def compared(one: str, other: str) -> list[GroupResult]:
        return group_results(examples, scores[one], scores[other], base=names.base, served=names.served, worst=WORST_LOSS)

    results = [
        HeadResult(version_id=version, groups=compared(side, INCUMBENT), invalid=invalid_reason(scores[side], scores[INCUMBENT]))
        for version, side in (*others.items(), ("", CANDIDATE))
    ]
    values = {name: measure.value for name, measure in measured[CANDIDATE].items()} | {"loss_gain": gain.value}
    checked = [requirement.check(values.get(requirement.metric)) for requirement in requirements]
    return EvaluationReport(
        measured[CANDIDATE], measured[INCUMBENT], comparison, checked, counted, tuple(results),
        None if watched is None else tuple(compared(INCUMBENT, WATCHED)),
    )  # fmt: skip


def _loss_measures(losses: Sequence[float], groups: Sequence[str], policy: EvaluationPolicy, seed: int) -> dict[str, Measure]:
    loss, n = bootstrap(losses, policy.resamples, seed, groups), len(losses)
    perplexity = Interval(*(rounded(math.exp(min(value, 700.0))) for value in loss))
    return {"loss": _measure(loss, n), "perplexity": _measure(perplexity, n)}


def _grade_measures(
    grades: Sequence[float], passed: Sequence[float], groups: Sequence[str], policy: EvaluationPolicy, seed: int
) -> dict[str, Measure]:
    """`success` is the share of rows that pass, 0-1; `score` the mean grade, 0-100."""
    success = bootstrap(passed, policy.resamples, seed, groups)
    return {
        "success": _measure(success, len(passed)),
        "score": _measure(bootstrap(grades, policy.resamples, seed, groups), len(grades)),
    }


def _measure(interval: Interval, n: int) -> Measure:
    return Measure(value=interval.value, low=interval.low, high=interval.high, n=n)


def _with_wins(comparison: Comparison, candidate: Sequence[float], incumbent: Sequence[float]) -> Comparison:
    pairs = list(zip(candidate, incumbent, strict=True))
    wins = sum(ours > theirs for ours, theirs in pairs)
    losses = sum(ours < theirs for ours, theirs in pairs)
    return Comparison(
        loss_gain=comparison.loss_gain, n=comparison.n, wins=wins, losses=losses, ties=len(pairs) - wins - losses,
        p_value=sign_test(wins, losses),
    )  # fmt: skip
