"""Supervised fine-tuning: the weighted loss over the completion tokens of good answers. Knows rows and a model, no steps.

Rows are right-padded and go through without an attention mask: attention is causal, so nothing real sees the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headrace_trainer.data.rows import RowTokeniser, TokenisedExample, TokenRow
from headrace_trainer.model import head
from headrace_trainer.model.base import Base
from headrace_trainer.model.precision import Precision
from headrace_trainer.model.sharding import ALONE, Ranks
from headrace_trainer.objectives.loss import Computing, Loss, Terms, Units, unit_losses
from headrace_trainer.policy import Hyperparameters


class CollatedBatch(NamedTuple):
    """A micro-batch: `inputs` [rows, tokens]; for each completion token its `positions` in the flattened inputs that predict it,
    its id in `targets`, and its row in `rows`."""

    inputs: Tensor
    positions: Tensor
    targets: Tensor
    rows: Tensor


def collate(rows: Sequence[TokenRow], pad: int, device: str = "cpu") -> CollatedBatch:
    """ValueError for a row without a prompt or completion: its first token would have nothing to be predicted from."""
    width = max(row.length for row in rows) - 1  # the last token predicts nothing
    inputs: list[list[int]] = []
    positions: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for index, row in enumerate(rows):
        if not row.prompt or not row.completion:
            raise ValueError(f"row {row.example_id} has no prompt or no completion tokens")
        tokens = [*row.prompt, *row.completion]
        inputs.append(tokens[:-1] + [pad] * (width - len(tokens) + 1))
        first = index * width + len(row.prompt) - 1
        positions.extend(range(first, first + len(row.completion)))
        targets.extend(row.completion)
        owners.extend([index] * len(row.completion))
    tensors = (torch.tensor(values, dtype=torch.long) for values in (inputs, positions, targets, owners))
    return CollatedBatch(*(tensor.to(device, non_blocking=True) for tensor in tensors))


def token_losses(model: Any, batch: CollatedBatch) -> Tensor:
    """Negative log-likelihood in nats of each completion token, fp32, in the order of `batch.targets`."""
    return head.token_losses(model, batch.inputs, batch.positions, batch.targets)


def units(examples: Sequence[TokenisedExample], tokeniser: RowTokeniser, hyper: Hyperparameters) -> Units:
    """The rows of good answers."""
    return Units([example.row for example in examples if example.scored])


def terms(computing: Computing, rows: Sequence[TokenRow], constant: float) -> Terms:
    """`nllᵢₜ` of each completion token t of each row i; a row's size is its completion tokens."""
    batch = collate(rows, computing.base.pad, computing.base.device)
    return Terms(token_losses(computing.model, batch), batch.rows)


LOSS = Loss(units=units, terms=terms)


def summed_losses(computing: Computing, rows: Sequence[TokenRow]) -> Tensor:
    """Negative log-likelihood in nats of each whole completion, fp32."""
    values, owners = terms(computing, rows, 0.0)
    return torch.zeros(len(rows), device=values.device).index_add(0, owners, values)


def log_likelihoods(computing: Computing, rows: Sequence[TokenRow]) -> list[float]:
    """Log-likelihood in nats of each whole completion, without gradients and with nothing dropped out."""
    return [-mean * row.size for row, mean in zip(rows, unit_losses(LOSS, computing, rows), strict=True)]


def row_losses(
    model: Any, rows: Sequence[TokenRow], base: Base, budget: int, precision: Precision, ranks: Ranks = ALONE
) -> list[float]:
    """Mean loss per completion token of each row, in nats, in the order of `rows`; weights play no part."""
    return unit_losses(LOSS, Computing(model, base, _PLAIN, precision, budget, ranks), rows)


_PLAIN = Hyperparameters()
