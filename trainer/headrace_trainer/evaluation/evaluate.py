"""Candidate against incumbent on the same held-out rows: loss first, then success by a grader. Decides nothing about release.

Intervals are 95 % percentile bootstraps (Efron 1979) over prompt groups: rows of one task rise and fall together, and counted one
by one ten tasks of twenty rows would pass the gate by chance every third time. The gain is paired: candidate and incumbent are
resampled by the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from headrace_schemas.canonical import rounded
from headrace_schemas.derived import Comparison, Gain, Measure
from headrace_trainer.data.rows import Lesson
from headrace_trainer.evaluation.grader import Grader
from headrace_trainer.learning.loop import row_losses
from headrace_trainer.model.base import Base, Precision, autocast
from headrace_trainer.policy import EvaluationPolicy, RequirementPolicy
from headrace_trainer.spec import Report, Row

CANDIDATE, INCUMBENT = "default", "incumbent"  # names of adapters in the model; no incumbent adapter: the base itself
WORST = 1e4  # nats a token: what counts for a loss that is no number, so that broken weights lose and every figure is one
Floats = NDArray[np.float64]


class Interval(NamedTuple):
    value: float
    low: float
    high: float


def bootstrap(values: Sequence[float], resamples: int, seed: int, groups: Sequence[str] | None = None) -> Interval:
    """Mean and its 95 % interval; `groups` names what each value belongs to, by default each to itself. ValueError without
    values."""
    if not len(values):
        raise ValueError("no rows to measure on")
    data: Floats = np.asarray(values, dtype=np.float64)
    low, high = _resampled(data, np.ones(len(data)), resamples, seed)
    places = {name: place for place, name in enumerate(dict.fromkeys(groups or ()))}
    if groups is not None and len(places) < len(data):
        owners = [places[name] for name in groups]
        sums, sizes = np.bincount(owners, weights=data).astype(np.float64), np.bincount(owners).astype(np.float64)
        ends = _resampled(sums, sizes, resamples, seed)
        low, high = min(low, ends[0]), max(high, ends[1])  # of one group alone the interval would be a point
    return Interval(rounded(float(data.mean())), rounded(low), rounded(high))


def _resampled(sums: Floats, sizes: Floats, resamples: int, seed: int) -> tuple[float, float]:
    """The 95 % interval of the mean over units of so many values each, with these sums."""
    picks = np.random.default_rng(seed).integers(0, len(sums), size=(resamples, len(sums)))
    low, high = np.percentile(sums[picks].sum(axis=1) / sizes[picks].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def sign_test(wins: int, losses: int) -> float:
    """One-sided exact p-value: the chance of at least so many wins if wins and losses were equally likely. Ties say nothing."""
    played = wins + losses
    return rounded(sum(math.comb(played, k) for k in range(wins, played + 1)) / 2**played)


def evaluate(
    model: Any,
    base: Base,
    tests: Sequence[Lesson],
    *,
    policy: EvaluationPolicy,
    requirements: Sequence[RequirementPolicy] = (),
    grader: Grader | None = None,
    precision: Precision = "fp32",
    batch_tokens: int = 8192,
    seed: int = 0,
) -> Report:
    """`model` is a PeftModel with the candidate as adapter `default` and, unless the base is served, `incumbent`.

    Without tests nothing is measured: both sides are empty and the comparison counts 0 rows.
    """
    if not tests:
        met = [requirement.check(None) for requirement in requirements]
        return Report({}, {}, Comparison(loss_gain=Gain(value=0.0, low=0.0, high=0.0), n=0), met)
    incumbent = INCUMBENT if INCUMBENT in model.peft_config else None
    rows = [test.row for test in tests]
    losses: dict[str, list[float]] = {}
    for side, adapter in (("candidate", CANDIDATE), ("incumbent", incumbent)):
        with serving(model, adapter, merged=False):
            found = row_losses(model, rows, base, batch_tokens, precision)
        losses[side] = [value if math.isfinite(value) else WORST for value in found]
    groups = [test.example.prompt_group for test in tests]
    measured = {side: _loss_measures(values, groups, policy, seed) for side, values in losses.items()}
    gain = bootstrap(np.subtract(losses["incumbent"], losses["candidate"]).tolist(), policy.resamples, seed, groups)
    comparison = Comparison(loss_gain=Gain(value=gain.value, low=gain.low, high=gain.high), n=len(rows))
    wanted = policy.generate == "always" or (policy.generate == "passable" and gain.low > 0)
    if grader is not None and wanted:
        grades: dict[str, list[float]] = {}
        for side, adapter in (("candidate", CANDIDATE), ("incumbent", incumbent)):
            with serving(model, adapter):
                outputs = generate(model, rows, base, policy, precision)
            grades[side] = [grader.grade(output, test.example).value for output, test in zip(outputs, tests, strict=True)]
            passed = [100.0 if grade >= grader.policy.pass_mark else 0.0 for grade in grades[side]]
            measured[side] |= _grade_measures(grades[side], passed, groups, policy, seed)
        comparison = _with_wins(comparison, grades["candidate"], grades["incumbent"])
    values = {name: measure.value for name, measure in measured["candidate"].items()} | {"loss_gain": gain.value}
    met = [requirement.check(values.get(requirement.metric)) for requirement in requirements]
    return Report(measured["candidate"], measured["incumbent"], comparison, met)


def _loss_measures(losses: Sequence[float], groups: Sequence[str], policy: EvaluationPolicy, seed: int) -> dict[str, Measure]:
    loss, n = bootstrap(losses, policy.resamples, seed, groups), len(losses)
    perplexity = Interval(*(rounded(math.exp(min(value, 700.0))) for value in loss))
    return {"loss": _measure(loss, n), "perplexity": _measure(perplexity, n)}


def _grade_measures(
    grades: Sequence[float], passed: Sequence[float], groups: Sequence[str], policy: EvaluationPolicy, seed: int
) -> dict[str, Measure]:
    """`success` is the share of rows that pass, 0-1; `score` the mean grade, 0-100."""
    success = bootstrap([value / 100 for value in passed], policy.resamples, seed, groups)
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


@contextmanager
def serving(model: Any, adapter: str | None, *, merged: bool = True) -> Iterator[None]:
    """The model answers with `adapter` (None: as the base). Merged into the weights it generates 1.5x as fast; weights in
    bf16 are left alone, as merging and unmerging would not give them back exactly enough."""
    if adapter is None:
        with model.disable_adapter():
            yield
        return
    model.set_adapter(adapter)
    if not merged or model.dtype != torch.float32:
        yield
        return
    model.merge_adapter([adapter])
    try:
        yield
    finally:
        model.unmerge_adapter()


@torch.no_grad()
def generate(model: Any, rows: Sequence[Row], base: Base, policy: EvaluationPolicy, precision: Precision) -> list[str]:
    """Greedy answers to the prompts of `rows`, in their order, without special tokens. Each may be up to twice as long as the
    longest reference of `rows` and 16 tokens more, as far as the model reaches."""
    model.eval()
    causal = model.get_base_model()
    room = min(policy.max_new_tokens, 2 * max(len(row.completion) for row in rows) + 16)
    if base.positions is not None:
        room = max(1, min(room, base.positions - max(len(row.prompt) for row in rows)))
    stops = {base.tokenizer.eos_token_id, *_listed(getattr(causal.generation_config, "eos_token_id", None))}
    settings: Any = GenerationConfig
    config = settings(do_sample=False, max_new_tokens=room, eos_token_id=sorted(stops), pad_token_id=base.pad)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].prompt))
    found: dict[int, str] = {}
    for start in range(0, len(order), policy.batch_rows):
        chosen = order[start : start + policy.batch_rows]
        width = max(len(rows[index].prompt) for index in chosen)
        padded = [[base.pad] * (width - len(rows[index].prompt)) + list(rows[index].prompt) for index in chosen]
        mask = [[0] * (width - len(rows[index].prompt)) + [1] * len(rows[index].prompt) for index in chosen]
        inputs = {"input_ids": torch.tensor(padded, device=base.device), "attention_mask": torch.tensor(mask, device=base.device)}
        with autocast(base.device, precision):
            outputs = causal.generate(**inputs, generation_config=config)
        texts = base.tokenizer.batch_decode(outputs[:, width:], skip_special_tokens=True)
        found.update(zip(chosen, texts, strict=True))
    return [found[index] for index in range(len(rows))]


def _listed(value: int | list[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else value
