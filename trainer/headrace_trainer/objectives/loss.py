"""How an objective is computed: its loss in terms that add up to that of a step, however the step is cut into micro-batches.
Knows what adds up and what it is divided by; no formula, no plan of steps.

A step's gradient is that of `Σ wᵢ·termᵢₜ / D` over the terms t of all its units i, with one D for the whole plan (`plan_total`),
known before the first backward pass. What a term needs beside the model as it is now is made before that, too: once for the run
(`prepare`) or once for the step (`constant`). So accumulation changes nothing, whatever the objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from headrace_trainer.data.rows import RowTokeniser, TokenisedExample
from headrace_trainer.model.base import Base
from headrace_trainer.model.precision import Precision, autocast
from headrace_trainer.model.sharding import ALONE, Ranks
from headrace_trainer.policy import Hyperparameters


class Unit(Protocol):
    """What steps are made of and no micro-batch is cut within: a row, a pair. Units are NamedTuples."""

    @property
    def example_id(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def length(self) -> int:
        """Its tokens."""

    @property
    def padded(self) -> int:
        """Its tokens, were all its rows as long as the longest of them."""

    @property
    def size(self) -> int:
        """How much it counts, beside its weight, in what the loss is divided by."""


U = TypeVar("U", bound=Unit)

# Padded tokens that one more forward and backward pass costs as much as: on a CPU some 15 ms of Python and small operations; on a
# GPU that waits for them more. 128 rows of 10 to 350 tokens, 16 a step: 17,504 padded tokens in 8 passes, 15,435 in 19, of which
# 14,730 are real.
PASS_TOKENS = {"cpu": 64, "cuda": 2048}


class Computing(NamedTuple):
    """What all passes of a run are computed with. `budget`: padded tokens of a micro-batch; `teacher`: loads another base."""

    model: Any
    base: Base
    hyper: Hyperparameters
    precision: Precision
    budget: int
    ranks: Ranks = ALONE
    teacher: Callable[[], Base] | None = None


class Terms(NamedTuple):
    """Terms of the loss of a micro-batch, and of each the number of its unit."""

    values: Tensor
    owners: Tensor


class Units(NamedTuple):
    """What a run learns from, and ids of the examples that it would have learnt from but for a reason, by reason."""

    units: Sequence[Any]
    left_out: Mapping[str, Sequence[str]] = MappingProxyType({})


def _none(computing: Computing, units: Sequence[Any]) -> float:
    """The constant of an objective whose terms need none."""
    return 0.0


@dataclass(frozen=True)
class Loss:
    """`units`: of examples, among which those that are not `scored` are bad answers. `terms`: of a micro-batch, given the step's
    constant, which `constant` computes. `prepare`: what is computed once of the model that a run begins with, as tensors for a
    file; `with_prepared` hands them to the units."""

    units: Callable[[Sequence[TokenisedExample], RowTokeniser, Hyperparameters], Units]
    terms: Callable[[Computing, Sequence[Any], float], Terms]
    prepare: Callable[[Computing, Sequence[Any]], dict[str, Tensor]] | None = None
    with_prepared: Callable[[Sequence[Any], Mapping[str, Tensor]], list[Any]] | None = None
    constant: Callable[[Computing, Sequence[Any]], float] = _none


def replaced(unit: U, **changed: Any) -> U:
    """The same unit with other fields."""
    return unit._replace(**changed)  # type: ignore[attr-defined, no-any-return]


def split_by_tokens(units: Sequence[U], budget: int, per_pass: int = 0) -> list[list[U]]:
    """Micro-batches of neighbours in length, each at most `budget` padded tokens (a longer unit goes alone), so that there are
    fewest padded tokens, each micro-batch counted as `per_pass` more."""
    ordered = sorted(units, key=lambda unit: unit.padded)
    least, begins = [0], [0]  # of the first n units: the fewest tokens, and where their last micro-batch begins
    for end in range(1, len(ordered) + 1):
        width = ordered[end - 1].padded
        fitting = range(max(0, end - max(1, budget // width)), end)
        tokens, begin = min((least[begin] + (end - begin) * width + per_pass, begin) for begin in fitting)
        least.append(tokens)
        begins.append(begin)
    batches: list[list[U]] = []
    end = len(ordered)
    while end:
        batches.append(ordered[begins[end] : end])
        end = begins[end]
    return batches[::-1]


def passes_of(units: Sequence[U], budget: int, ranks: Ranks, device: str = "cpu") -> list[list[U]]:
    """The micro-batches of this process. Each has as many as the others: where it has no units left it goes through with the
    shortest, which counts for nothing."""
    ordered = sorted(units, key=lambda unit: unit.padded)
    per_pass = PASS_TOKENS["cpu" if device == "cpu" else "cuda"]
    shares = [split_by_tokens(ordered[rank :: ranks.size], budget, per_pass) for rank in range(ranks.size)]
    idle = [[replaced(ordered[0], weight=0.0)]] * (max(map(len, shares)) - len(shares[ranks.rank]))
    return shares[ranks.rank] + idle


def plan_total(units: Sequence[Unit], steps: int) -> float:
    """What every step's loss is divided by, the same for the whole plan: the mean over the `steps` of a pass of `Σ wᵢ·sizeᵢ`. In
    float64: weights of old rows are far below what float32 holds. ArithmeticError when they add up to nothing."""
    total = math.fsum(unit.weight * unit.size for unit in units) / steps
    if not (math.isfinite(total) and total > 0):
        raise ArithmeticError(f"the weights of {len(units)} rows add up to {total}: there is nothing to learn from")
    return total


def accumulate(loss: Loss, computing: Computing, units: Sequence[Unit], total: float) -> float:
    """Adds the gradient of one optimiser step's loss: `Σ wᵢ·termᵢₜ / total` over all terms t of all units i, with `total` of
    `plan_total` (docs/algorithms.md, Training), however many micro-batches and processes it takes. Returns the weighted mean loss
    of the step, for people."""
    base, ranks = computing.base, computing.ranks
    constant = loss.constant(computing, units)
    computing.model.train()
    added = 0.0
    for micro in passes_of(units, computing.budget, ranks, base.device):
        with autocast(base.device, computing.precision):
            terms = loss.terms(computing, micro, constant)
            weights = torch.tensor([unit.weight / total for unit in micro], dtype=torch.float32, device=base.device)
            part = (terms.values * weights[terms.owners]).sum()
        torch.autograd.backward(part * ranks.size)  # the shares of a gradient are averaged
        added += float(part.detach())
    (added,) = ranks.sums([added])
    return added * total / (math.fsum(unit.weight * unit.size for unit in units) or total)


@torch.no_grad()
def unit_losses(loss: Loss, computing: Computing, units: Sequence[Unit]) -> list[float]:
    """Loss of each unit over its size, in the order of `units`; weights play no part."""
    if not units:
        return []
    constant = loss.constant(computing, units)
    computing.model.eval()
    means = [0.0] * len(units)
    indexed = [replaced(unit, example_id=str(index), weight=1.0) for index, unit in enumerate(units)]
    for micro in passes_of(indexed, computing.budget, computing.ranks, computing.base.device):
        with autocast(computing.base.device, computing.precision):
            terms = loss.terms(computing, micro, constant)
        sums = torch.zeros(len(micro), device=terms.values.device).index_add_(0, terms.owners, terms.values)
        for at, unit in enumerate(micro):
            if unit.weight:
                means[int(unit.example_id)] = float(sums[at]) / unit.size
    return computing.ranks.sums(means)
