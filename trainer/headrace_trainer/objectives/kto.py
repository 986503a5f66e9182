"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306): good answers become likelier, bad ones less likely,
each by itself, seen from how far the model has moved in all. Knows rows of both kinds and their worth as the run begins.

    termᵢ = 1 - σ(±β·(log π(yᵢ)/ref(yᵢ) - z)),  + for a good answer;  z = max(0, mean over the step of log π(y')/ref(y'))

y' is another row's answer to the same question. A step's z is computed before its gradients, over the whole step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from headrace_trainer.data.pairs import is_corrected, wrong_row
from headrace_trainer.data.rows import RowTokeniser, RowUnfit, TokenisedExample, TokenRow
from headrace_trainer.objectives import reference
from headrace_trainer.objectives.loss import Computing, Loss, Terms, Units
from headrace_trainer.objectives.sft import log_likelihoods, summed_losses
from headrace_trainer.policy import Hyperparameters

_MOST = 4.0  # by so much bad answers may be weighed up or down so that both kinds weigh the same


class Opinion(NamedTuple):
    """A row that is `good` or bad, and `other`: its question with another row's answer. `reference`: log-probabilities in nats of
    both when the run began."""

    example_id: str
    row: TokenRow
    good: bool
    other: TokenRow
    weight: float = 1.0
    reference: tuple[float, float] = (0.0, 0.0)

    @property
    def rows(self) -> tuple[TokenRow, TokenRow]:
        return self.row, self.other

    @property
    def length(self) -> int:
        return self.row.length

    @property
    def padded(self) -> int:
        return self.row.length

    @property
    def size(self) -> int:
        """An opinion counts once, however long the answer is."""
        return 1


def units(examples: Sequence[TokenisedExample], tokeniser: RowTokeniser, hyper: Hyperparameters) -> Units:
    """Good and bad answers, among the bad those that were corrected; both kinds of the same weight unless policy says it. Nothing
    where there is one kind only: there is nothing then that keeps the model from moving as a whole."""
    good = [each.row for each in examples if each.scored]
    bad = [each.row for each in examples if not each.scored]
    for each in examples:
        if each.scored and is_corrected(each.example):
            try:
                wrong = wrong_row(each, tokeniser)
            except RowUnfit:  # its correction is there
                continue
            if wrong.completion != each.row.completion:
                bad.append(wrong)
    if not good or not bad:
        return Units([], {"one_kind": [row.example_id for row in (*good, *bad)]} if good or bad else {})
    heavier = hyper.undesirable_weight
    if heavier is None:
        sums = [math.fsum(row.weight for row in rows) for rows in (good, bad)]
        heavier = min(_MOST, max(1 / _MOST, sums[0] / sums[1])) if all(sums) else 1.0
    rows = [*good, *bad]
    longest = max(row.length for row in rows)
    made = []
    for number, row in enumerate(rows):
        is_good, answer = number < len(good), rows[(number + 1) % len(rows)].completion[: longest - 1]
        other = TokenRow(row.example_id, row.prompt[-(longest - len(answer)) :], answer)
        made.append(Opinion(row.example_id, row, is_good, other, row.weight * (1.0 if is_good else heavier)))
    return Units(made)


def constant(computing: Computing, opinions: Sequence[Opinion]) -> float:
    """z of a step."""
    now = log_likelihoods(computing, [each.other for each in opinions])
    moved = [value - each.reference[1] for value, each in zip(now, opinions, strict=True)]
    return max(0.0, math.fsum(moved) / len(moved))


def terms(computing: Computing, opinions: Sequence[Opinion], constant: float) -> Terms:
    device = computing.base.device
    losses = summed_losses(computing, [each.row for each in opinions])
    before = torch.tensor([each.reference[0] + constant for each in opinions], device=device)
    sign = torch.tensor([1.0 if each.good else -1.0 for each in opinions], device=device)
    values = 1 - torch.sigmoid(sign * computing.hyper.beta * (-losses - before))
    return Terms(values, torch.arange(len(opinions), device=device))


LOSS = Loss(units=units, terms=terms, prepare=reference.prepare, with_prepared=reference.with_prepared, constant=constant)
