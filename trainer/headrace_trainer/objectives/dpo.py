"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290) with an offset (Amini et al. 2024, arXiv 2402.10571).
Knows pairs and what they were worth to the model that the run begins with.

    termᵢ = -log σ(β·(log π(y⁺)/ref(y⁺) - log π(y⁻)/ref(y⁻)) - margin·gapᵢ/100) + chosen_loss·nll(y⁺)/|y⁺|

The wider the gap between two answers, the further they are pushed apart; `gap` is in points. The last part (RPO, Pang et al.
2024, arXiv 2404.19733) keeps the better answer likely.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from headrace_trainer.data.pairs import Pair, pairs_of
from headrace_trainer.data.rows import RowTokeniser, TokenisedExample
from headrace_trainer.objectives import reference
from headrace_trainer.objectives.loss import Computing, Loss, Terms, Units
from headrace_trainer.objectives.sft import summed_losses
from headrace_trainer.policy import Hyperparameters


def units(examples: Sequence[TokenisedExample], tokeniser: RowTokeniser, hyper: Hyperparameters) -> Units:
    return Units(*pairs_of(examples, tokeniser, hyper.least_gap, hyper.pairs_per_group))


def terms(computing: Computing, pairs: Sequence[Pair], constant: float) -> Terms:
    hyper, device = computing.hyper, computing.base.device
    losses = summed_losses(computing, [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])
    good, bad = losses.chunk(2)
    before = torch.tensor([pair.reference[0] - pair.reference[1] for pair in pairs], device=device)
    offset = torch.tensor([hyper.margin * pair.gap / 100 for pair in pairs], device=device)
    values = -functional.logsigmoid(hyper.beta * (bad - good - before) - offset)
    if hyper.chosen_loss:
        lengths = torch.tensor([len(pair.chosen.completion) for pair in pairs], device=device)
        values = values + hyper.chosen_loss * good / lengths
    return Terms(values, torch.arange(len(pairs), device=device))


LOSS = Loss(units=units, terms=terms, prepare=reference.prepare, with_prepared=reference.with_prepared)
