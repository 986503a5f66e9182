"""Candidate against incumbent on the same held-out rows: loss first, then success by a grader. Decides nothing about release.

The gain is paired: candidate and incumbent are resampled by the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace_schemas.canonical import rounded
from headrace_schemas.derived import Comparison, Gain, Measure
from headrace_trainer.data.rows import TokenisedExample
from headrace_trainer.evaluation.generate import generate, serving
from headrace_trainer.evaluation.grader import Grader
from headrace_trainer.evaluation.statistics import Interval, bootstrap, sign_test
from headrace_trainer.model.base import Base
from headrace_trainer.model.precision import Precision
from headrace_trainer.objectives.sft import row_losses
from headrace_trainer.policy import EvaluationPolicy, RequirementPolicy
from headrace_trainer.spec import EvaluationReport

CANDIDATE, INCUMBENT = "default", "incumbent"  # names of adapters in the model; no incumbent adapter: the base itself
WORST_LOSS = 1e4  # nats a token: what counts for a loss that is no number, so that broken weights lose and every figure is one


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
) -> EvaluationReport:
    """`model` is a PeftModel with the candidate as adapter `default` and, unless the base is served, `incumbent`.

    Without tests nothing is measured: both sides are empty and the comparison counts 0 rows.
    """
    if not tests:
        checked = [requirement.check(None) for requirement in requirements]
        return EvaluationReport({}, {}, Comparison(loss_gain=Gain(value=0.0, low=0.0, high=0.0), n=0), checked)
    incumbent = INCUMBENT if INCUMBENT in model.peft_config else None
    rows = [test.row for test in tests]
    losses: dict[str, list[float]] = {}
    for side, adapter in (("candidate", CANDIDATE), ("incumbent", incumbent)):
        with serving(model, adapter, merged=False):
            measured_losses = row_losses(model, rows, base, batch_tokens, precision)
        losses[side] = [loss if math.isfinite(loss) else WORST_LOSS for loss in measured_losses]
    groups = [test.example.prompt_group for test in tests]
    measured = {side: _loss_measures(values, groups, policy, seed) for side, values in losses.items()}
    gain = bootstrap(np.subtract(losses["incumbent"], losses["candidate"]).tolist(), policy.resamples, seed, groups)
    comparison = Comparison(loss_gain=Gain(value=gain.value, low=gain.low, high=gain.high), n=len(rows))
    generates = policy.generate == "always" or (policy.generate == "passable" and gain.low > 0)
    if grader is not None and generates:
        grades: dict[str, list[float]] = {}
        for side, adapter in (("candidate", CANDIDATE), ("incumbent", incumbent)):
            with serving(model, adapter):
                outputs = generate(model, rows, base, policy, precision, seed)
            grades[side] = [grader.grade(output, test.example).value for output, test in zip(outputs, tests, strict=True)]
            passed = [1.0 if grade >= grader.policy.pass_mark else 0.0 for grade in grades[side]]
            measured[side] |= _grade_measures(grades[side], passed, groups, policy, seed)
        comparison = _with_wins(comparison, grades["candidate"], grades["incumbent"])
    values = {name: measure.value for name, measure in measured["candidate"].items()} | {"loss_gain": gain.value}
    checked = [requirement.check(values.get(requirement.metric)) for requirement in requirements]
    return EvaluationReport(measured["candidate"], measured["incumbent"], comparison, checked)


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
