"""Supervised fine-tuning: the weighted loss over completion tokens, in micro-batches of like length. Knows a model, no steps.

Rows are right-padded and go through without an attention mask: attention is causal, so nothing real sees the padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headrace_trainer.data.rows import TokenRow
from headrace_trainer.model import head
from headrace_trainer.model.base import Base
from headrace_trainer.model.precision import Precision, autocast
from headrace_trainer.model.sharding import ALONE, Ranks


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


def split_by_tokens(rows: Sequence[TokenRow], budget: int) -> list[list[TokenRow]]:
    """Micro-batches of neighbours in length, each at most `budget` padded tokens (a longer row goes alone)."""
    batches: list[list[TokenRow]] = []
    for row in sorted(rows, key=lambda row: row.length):
        if batches and (len(batches[-1]) + 1) * row.length <= budget:  # the newest is the longest
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def passes_of(rows: Sequence[TokenRow], budget: int, ranks: Ranks) -> list[list[TokenRow]]:
    """The micro-batches of this process. Each has as many as the others: where it has no rows left it goes through with the
    shortest, which counts for nothing."""
    ordered = sorted(rows, key=lambda row: row.length)
    shares = [split_by_tokens(ordered[rank :: ranks.size], budget) for rank in range(ranks.size)]
    idle = [[ordered[0]._replace(weight=0.0)]] * (max(map(len, shares)) - len(shares[ranks.rank]))
    return shares[ranks.rank] + idle


def plan_total(rows: Sequence[TokenRow], steps: int) -> float:
    """What every step's loss is divided by, the same for the whole plan: the mean over the `steps` of a pass of `Σ wᵢ·nᵢ`, nᵢ
    completion tokens of row i. In float64: weights of old rows are far below what float32 holds. ArithmeticError when they add
    up to nothing."""
    total = math.fsum(row.weight * len(row.completion) for row in rows) / steps
    if not (math.isfinite(total) and total > 0):
        raise ArithmeticError(f"the weights of {len(rows)} rows add up to {total}: there is nothing to learn from")
    return total


def accumulate(
    model: Any, rows: Sequence[TokenRow], base: Base, budget: int, precision: Precision, total: float, ranks: Ranks = ALONE
) -> float:
    """Adds the gradient of one optimiser step's loss: `Σ wᵢ·nllᵢₜ / total` over all completion tokens t of all rows i, with
    `total` of `plan_total` (docs/algorithms.md, Training), however many micro-batches and processes it takes. Returns the
    weighted mean loss of the step in nats per completion token, for people."""
    loss = 0.0
    for micro in passes_of(rows, budget, ranks):
        batch = collate(micro, base.pad, base.device)
        weights = torch.tensor([row.weight / total for row in micro], dtype=torch.float32, device=base.device)[batch.rows]
        with autocast(base.device, precision):
            part = (token_losses(model, batch) * weights).sum()
        torch.autograd.backward(part * ranks.size)  # the shares of a gradient are averaged
        loss += float(part.detach())
    (loss,) = ranks.sums([loss])
    return loss * total / (math.fsum(row.weight * len(row.completion) for row in rows) or total)


@torch.no_grad()
def row_losses(
    model: Any, rows: Sequence[TokenRow], base: Base, budget: int, precision: Precision, ranks: Ranks = ALONE
) -> list[float]:
    """Mean loss per completion token of each row, in nats, in the order of `rows`; weights play no part."""
    if not rows:
        return []
    model.eval()
    means = [0.0] * len(rows)
    indexed = [row._replace(example_id=str(index), weight=1.0) for index, row in enumerate(rows)]
    for micro in passes_of(indexed, budget, ranks):
        batch = collate(micro, base.pad, base.device)
        with autocast(base.device, precision):
            losses = token_losses(model, batch)
        sums = torch.zeros(len(micro), device=losses.device).index_add_(0, batch.rows, losses)
        for at, row in enumerate(micro):
            if row.weight:
                means[int(row.example_id)] = float(sums[at]) / len(row.completion)
    return ranks.sums(means)
