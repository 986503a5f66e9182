"""Muon in fp32 for small matrices on a CPU: momentum, then the nearest orthogonal matrix as the direction. Knows no model.

After Jordan et al. 2024 (Newton-Schulz with the quintic 3.4445, -4.7750, 2.0315). torch's own runs in bf16, which is slow
where the CPU has no fast bf16; here matrices of one shape are orthogonalised in one batched product.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalised(matrices: Tensor, steps: int = 4) -> Tensor:
    """(n, rows, columns) -> the same shape, every singular value near 1."""
    wide = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if wide else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.mT if wide else x


class Muon:
    """Steps a set of 2-D parameters; `rate` is given per step, so that a schedule stays the caller's."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], *, momentum: float = 0.95) -> None:
        groups: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            groups[parameter.shape].append(parameter)
        self._groups = [(group, torch.zeros(len(group), *shape)) for shape, group in groups.items()]
        self._momentum = momentum

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update with Nesterov momentum; gradients are consumed (set to None)."""
        for parameters, buffer in self._groups:
            gradients = torch.stack([parameter.grad for parameter in parameters if parameter.grad is not None])
            buffer.lerp_(gradients, 1 - self._momentum)
            updates = orthogonalised(gradients.lerp(buffer, self._momentum))
            scale = rate * max(1.0, buffer.shape[-2] / buffer.shape[-1]) ** 0.5
            for parameter, update in zip(parameters, updates, strict=True):
                parameter.add_(update, alpha=-scale)
                parameter.grad = None
