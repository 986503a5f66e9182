"""Candidate against incumbent on the same held-out rows: loss first, then success by a grader. Decides nothing about release.

The gain is paired: candidate and incumbent are resampled by the same rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from msgspec.structs import replace

from headrace_schemas.canonical import rounded
from headrace_schemas.derived import Comparison, Gain, GroupResult, HeadResult, Measure, SuiteResult
from headrace_streams.evaluation_samples import EvaluationSample
from headrace_trainer.data.rows import TokenisedExample
from headrace_trainer.evaluation.asked import AskedRows
from headrace_trainer.evaluation.generate import generate, serving
from headrace_trainer.evaluation.grader import Grader
from headrace_trainer.evaluation.groups import RowMeasures, group_results, invalid_reason, margins_of
from headrace_trainer.evaluation.samples import samples_of
from headrace_trainer.evaluation.statistics import Interval, bootstrap, sign_test
from headrace_trainer.model.base import Base
from headrace_trainer.model.precision import Precision
from headrace_trainer.objectives.sft import row_losses
from headrace_trainer.policy import EvaluationPolicy, RequirementPolicy
from headrace_trainer.spec import EvaluationReport

CANDIDATE, INCUMBENT = "default", "incumbent"  # names of adapters in the model; no incumbent adapter: the base itself
WATCHED = "watched"  # what was served before
WINDOW_ROWS = 128  # of the train side that are looked at: an evaluation is one record
WORST_LOSS = 1e4  # nats a token: what counts for a loss that is no number, so that broken weights lose and every figure is one


@dataclass(frozen=True)
class AskedHeads:
    """Whom a candidate is compared with. `base`: the bucket's, as rows call it; `served`: the digest of the adapter that is
    served. `earlier`: names of adapters of earlier heads in the model, by version; `watched`: that of what was served before (""
    for the base), if a promotion is watched."""

    base: str = ""
    served: str | None = None
    earlier: Mapping[str, str] = field(default_factory=dict)
    watched: str | None = None


def evaluate(
    model: Any,
    base: Base,
    pool: AskedRows,
    *,
    policy: EvaluationPolicy,
    heads: AskedHeads = AskedHeads(),
    requirements: Sequence[RequirementPolicy] = (),
    grader: Grader | None = None,
    checker: Grader | None = None,
    precision: Precision = "fp32",
    batch_tokens: int = 8192,
    seed: int = 0,
    suites: Sequence[AskedRows] = (),
    self_graded: str | None = None,
    window: Sequence[TokenisedExample] = (),
) -> EvaluationReport:
    """`model` is a PeftModel with the candidate as adapter `default` and, unless the base is served, `incumbent`, and with those
    that `heads` names. `pool`: the test rows, those that the base can't be asked, for the samples, and wrong answers to their
    prompts, for margins, where grades don't count. `suites`: asked beside the test rows, and no part of the comparison;
    `checker`: who grades those of their tasks that have checks of their own.
    `self_graded`: why grades say nothing about the candidate. `window`: rows of the train side that neither the earlier heads nor
    what is served can know: where losses count they are evidence for those heads, and for nobody else.

    Without tests and suites nothing is measured: both sides are empty and the comparison counts 0 rows.
    """
    # Answers that are generated only where the loss has fallen would be counted only where they are good.
    grades_count = grader is not None and policy.generate == "always"
    counted: Literal["success", "margin", "loss"] = "success" if grades_count else policy.without_grader
    incumbent = INCUMBENT if INCUMBENT in model.peft_config else None
    adapters = {CANDIDATE: CANDIDATE, INCUMBENT: incumbent, **{name: name for name in heads.earlier.values()}}
    before = {} if heads.watched is None else {WATCHED: heads.watched or None}
    if grades_count:
        pool = pool._replace(bad=())
    tests, asked = pool.rows, [pool, *suites]
    scores = {
        side: _losses(model, adapter, asked if side in adapters else [pool], base, batch_tokens, precision)
        for side, adapter in {**adapters, **before}.items()
    }
    groups = [test.example.prompt_group for test in tests if test.scored]
    gain = Interval(0.0, 0.0, 0.0)
    if groups:
        found = {side: [_finite(loss) for loss in scores[side][0].scored] for side in (CANDIDATE, INCUMBENT)}
        gain = bootstrap(np.subtract(found[INCUMBENT], found[CANDIDATE]).tolist(), policy.resamples, seed, groups)
    comparison = Comparison(loss_gain=Gain(value=gain.value, low=gain.low, high=gain.high), n=len(groups))
    generates = policy.generate == "always" or (policy.generate == "passable" and gain.low > 0)
    if generates and not (grader is None and checker is None):
        for side, adapter in adapters.items():  # the alarm after a promotion hears losses only
            scores[side] = _graded(model, adapter, asked, scores[side], base, policy, precision, seed, (grader, checker))
        if tests and grader is not None:
            comparison = _with_wins(comparison, scores[CANDIDATE][0].given, scores[INCUMBENT][0].given)
    pass_mark = grader.policy.pass_mark if grader is not None else 100.0
    measured = {side: _measures(asked, scores[side], pass_mark, policy, seed) for side in (CANDIDATE, INCUMBENT)}

    def results_of(each: AskedRows, ours: RowMeasures, theirs: RowMeasures) -> list[GroupResult]:
        wrong = [test.example for test in each.bad]
        return group_results(each.rows, ours, theirs, base=heads.base, served=heads.served, worst=WORST_LOSS, bad=wrong)

    def compared(number: int, one: str, other: str) -> list[GroupResult]:
        return results_of(asked[number], scores[one][number], scores[other][number])

    tested = {test.example.prompt_group for test in tests}
    later = AskedRows([row for row in window if row.example.prompt_group not in tested][:WINDOW_ROWS])
    heard = (*heads.earlier.values(), INCUMBENT) if heads.earlier and counted == "loss" and later.rows else ()
    unknown = {side: _losses(model, adapters[side], [later], base, batch_tokens, precision)[0] for side in heard}

    def learnt_later(side: str) -> list[GroupResult]:
        if side not in unknown:
            return []
        return [replace(group, side="train") for group in results_of(later, unknown[side], unknown[INCUMBENT])]

    versions = [*heads.earlier.items(), ("", CANDIDATE)]
    results = [
        HeadResult(
            version_id=version,
            groups=[*compared(0, side, INCUMBENT), *learnt_later(side)],
            invalid=(self_graded if counted == "success" and not version else None)
            or invalid_reason(scores[side][0], scores[INCUMBENT][0]),
            suites=[_suite_result(each, compared(number, side, INCUMBENT)) for number, each in enumerate(suites, 1)] or None,
        )
        for version, side in versions
    ]
    samples: list[EvaluationSample] = []
    for number, each in enumerate(asked):
        for version, side in reversed(versions):
            samples += samples_of(each, scores[side][number], scores[INCUMBENT][number], version or None)
    values = {name: measure.value for name, measure in measured[CANDIDATE].items()}
    if groups:
        values["loss_gain"] = gain.value
    checked = [requirement.check(values.get(requirement.metric)) for requirement in requirements]
    return EvaluationReport(
        measured[CANDIDATE], measured[INCUMBENT], comparison, checked, counted, tuple(results),
        None if heads.watched is None else tuple(compared(0, INCUMBENT, WATCHED)), samples=tuple(samples),
    )  # fmt: skip


def without_loss_gains(report: EvaluationReport) -> EvaluationReport:
    """For an objective that makes good answers likelier than bad ones, not likelier: whoever held their loss against it would
    take learning for harm."""

    def cleared(groups: Sequence[GroupResult]) -> list[GroupResult]:
        return [replace(group, loss_gain=None) for group in groups]

    heads = tuple(replace(head, groups=cleared(head.groups)) for head in report.heads)
    return replace(report, heads=heads, watched=None if report.watched is None else tuple(cleared(report.watched)))


def _losses(
    model: Any, adapter: str | None, asked: Sequence[AskedRows], base: Base, batch_tokens: int, precision: Precision
) -> list[RowMeasures]:
    """Of all that is asked, in the order of the rows."""
    if not any(each.rows for each in asked):
        return [RowMeasures([]) for _ in asked]
    measures = []
    with serving(model, adapter, merged=False):
        for each in asked:
            rows = [test.row for test in (*each.rows, *each.bad) if test.scored]
            found = row_losses(model, rows, base, batch_tokens, precision)
            scored = iter(found[: len(found) - len(each.bad)])
            losses = [next(scored) if test.scored else None for test in each.rows]
            measures.append(RowMeasures(losses, bad=found[len(found) - len(each.bad) :]))
    return measures


def _graded(
    model: Any,
    adapter: str | None,
    asked: Sequence[AskedRows],
    scores: Sequence[RowMeasures],
    base: Base,
    policy: EvaluationPolicy,
    precision: Precision,
    seed: int,
    graders: tuple[Grader | None, Grader | None],
) -> list[RowMeasures]:
    """The same with the answers that the model gives now, and their grades: by the first of `graders`, or by the second where a
    task has a check of its own. What nobody grades is not asked."""
    if not any(each.rows for each in asked):
        return list(scores)
    judged = [{n: who for n in each.graded if (who := _who(each, n, *graders)) is not None} for each in asked]
    with serving(model, adapter):
        made = [
            generate(model, [each.rows[n].row for n in numbers], base, policy, precision, seed) if numbers else []
            for each, numbers in zip(asked, judged, strict=True)
        ]
    graded = []
    for each, judges, given, known in zip(asked, judged, made, scores, strict=True):
        if not judges:
            graded.append(known)
            continue
        answers = dict(zip(judges, given, strict=True))
        grades = {
            number: judges[number].grade(answer, each.rows[number].example, each.check_of(number))
            for number, answer in answers.items()
        }
        numbers = range(len(each.rows))
        values = [grades[n].value if n in grades else None for n in numbers]
        reasons = [grades[n].reason if n in grades else None for n in numbers]
        graded.append(known._replace(grades=values, answers=[answers.get(n) for n in numbers], ungraded=reasons))
    return graded


def _who(asked: AskedRows, number: int, grader: Grader | None, checker: Grader | None) -> Grader | None:
    return grader if asked.check_of(number) is None else checker


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else WORST_LOSS


def _measures(
    asked: Sequence[AskedRows], scores: Sequence[RowMeasures], pass_mark: float, policy: EvaluationPolicy, seed: int
) -> dict[str, Measure]:
    """Metrics of a side; those of a suite with its name before them."""
    measured: dict[str, Measure] = {}
    for each, found in zip(asked, scores, strict=True):
        groups = [each.rows[number].example.prompt_group for number in found.answered]
        scored = [test.example.prompt_group for test in each.rows if test.scored]
        prefix = "" if each.suite is None else f"{each.suite.name}."
        if scored:
            losses = [_finite(loss) for loss in found.scored]
            measured |= {prefix + name: value for name, value in _loss_measures(losses, scored, policy, seed).items()}
        if margins := margins_of([test.example for test in each.rows], [test.example for test in each.bad], found, WORST_LOSS):
            measured |= {prefix + name: value for name, value in _margin_measures(margins, policy, seed).items()}
        if grades := found.given:
            passed = [1.0 if grade >= pass_mark else 0.0 for grade in grades]
            graded = _grade_measures(grades, passed, groups, policy, seed)
            measured |= {prefix + name: value for name, value in graded.items()}
    return measured


def _suite_result(asked: AskedRows, tasks: Sequence[GroupResult]) -> SuiteResult:
    assert asked.suite is not None
    told = [task for task in tasks if task.loss_gain is not None or task.success_gain is not None]
    out = Counter(reason for _, reason in asked.unfit)
    if len(told) < len(tasks):
        out["not_graded"] = len(tasks) - len(told)
    suite, left_out = asked.suite, dict(out) or None
    return SuiteResult(name=suite.name, sha256=suite.content_digest, protected=suite.protected, tasks=told, left_out=left_out)


def _loss_measures(losses: Sequence[float], groups: Sequence[str], policy: EvaluationPolicy, seed: int) -> dict[str, Measure]:
    loss, n = bootstrap(losses, policy.resamples, seed, groups), len(losses)
    perplexity = Interval(*(rounded(math.exp(min(value, 700.0))) for value in loss))
    return {"loss": _measure(loss, n), "perplexity": _measure(perplexity, n)}


def _margin_measures(margins: Mapping[str, float], policy: EvaluationPolicy, seed: int) -> dict[str, Measure]:
    """`margin` in nats a token; `ranked` is the share of groups whose good answers are the likelier ones, 0-1."""
    values = list(margins.values())
    ranked = bootstrap([1.0 if value > 0 else 0.0 for value in values], policy.resamples, seed)
    return {"margin": _measure(bootstrap(values, policy.resamples, seed), len(values)), "ranked": _measure(ranked, len(values))}


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
