"""Worlds that the gate is tried in: what differences between heads and what is served look like. Knows no rule of the gate.

Losses are in nats a token; a group's difference has a standard deviation of 0.3, as the project's own measurements suggest.
Successes are 0 or 1 for both sides, alike on most tasks (a Gaussian copula of 0.8), 60 % right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from simulations.gate import Draw, Drawn, Floats, Ints

SD = 0.3
Noise = Callable[[np.random.Generator, tuple[int, ...]], Floats]

NOISES: dict[str, Noise] = {  # mean 0, sd 1
    "normal": lambda random, shape: random.standard_normal(shape),
    "heavy": lambda random, shape: random.standard_t(3, shape) / math.sqrt(3),
    "right_skewed": lambda random, shape: random.standard_exponential(shape) - 1,
    "left_skewed": lambda random, shape: 1 - random.standard_exponential(shape),
    "rows": lambda random, shape: _rows(random, shape),
    "rare_losses": lambda random, shape: (0.05 - (random.random(shape) < 0.05)) / math.sqrt(0.05 * 0.95),
}


def _rows(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Means over 1, 2, 3 … rows that share half their variance."""
    rows = random.geometric(0.3, shape)
    noise: Floats = np.sqrt(0.5) * random.standard_normal(shape) + np.sqrt(0.5 / rows) * random.standard_normal(shape)
    return noise


class LossWorld:
    """Losses. `gain`: nats by which each head (by the window at which it came) is better than the base. `shared`: the part of the
    variance of a group that all heads have in common, because it is the served model's."""

    def __init__(
        self, random: np.random.Generator, histories: int, groups: int, gain: Floats, noise: Noise, shared: float = 0.5
    ) -> None:
        self.random, self.histories, self.groups, self.noise, self.shared = random, histories, groups, noise, shared
        self.gain = np.concatenate([gain, [0.0]])  # index -1: the base
        self._common: dict[int, Floats] = {}

    def __call__(self, draw: Draw) -> Drawn:
        common = np.concatenate([self._of(window) for window in dict.fromkeys(draw.windows.tolist())], axis=1)
        shape = (*draw.heads.shape, len(draw.windows))
        noise = math.sqrt(self.shared) * common[:, None, :] + math.sqrt(1 - self.shared) * self.noise(self.random, shape)
        loss = self._difference(draw.heads, draw.served)[..., None] + SD * noise
        return Drawn(loss, loss)

    def _of(self, window: int) -> Floats:
        if window not in self._common:
            self._common[window] = self.noise(self.random, (self.histories, self.groups))
        return self._common[window]

    def _difference(self, heads: Ints, served: Ints) -> Floats:
        difference: Floats = self.gain[heads] - self.gain[served][:, None]
        return difference


class SuccessWorld(LossWorld):
    """Successes; `gain` is in shares of tasks, and the loss has the sign of the gain. `only_failures`: groups are seen only where
    the served model failed."""

    def __init__(
        self,
        random: np.random.Generator,
        histories: int,
        groups: int,
        gain: Floats,
        *,
        rate: float = 0.6,
        copula: float = 0.8,
        only_failures: bool = False,
    ) -> None:
        super().__init__(random, histories, groups, gain, NOISES["normal"], copula)
        self.rate, self.only_failures = rate, only_failures

    def __call__(self, draw: Draw) -> Drawn:
        common = np.concatenate([self._of(window) for window in dict.fromkeys(draw.windows.tolist())], axis=1)
        shape = (*draw.heads.shape, len(draw.windows))
        part, own = math.sqrt(self.shared) * common[:, None, :], math.sqrt(1 - self.shared)
        right = [part + own * self.random.standard_normal(size) for size in (shape, (shape[0], 1, shape[2]))]
        candidate, served = (
            answer < _quantile(np.clip(self.rate + self.gain[of], 0.01, 0.99))
            for answer, of in zip(right, (draw.heads[..., None], draw.served[:, None, None]), strict=True)
        )
        if self.only_failures:
            served = np.zeros_like(served)
        value = candidate.astype(float) - served
        return Drawn(value, SD * (self._difference(draw.heads, draw.served)[..., None] + self.random.standard_normal(shape)))


class DrawnWorld(SuccessWorld):
    """Of each window's groups the first `drawn` were drawn from interactions, whatever came of them; the others are there because
    the served model failed on them, and feedback said so."""

    def __init__(self, random: np.random.Generator, histories: int, groups: int, gain: Floats, *, drawn: int) -> None:
        super().__init__(random, histories, groups, gain)
        self.drawn = drawn

    def __call__(self, draw: Draw) -> Drawn:
        whole = super().__call__(draw)
        self.only_failures = True
        picked = super().__call__(draw)
        self.only_failures = False
        selected = np.arange(len(draw.windows)) % self.groups >= self.drawn
        return Drawn(np.where(selected, picked.value, whole.value), whole.loss, selected)


_quantile = np.vectorize(NormalDist().inv_cdf)


def flat(windows: int, gain: float = 0.0) -> Floats:
    """Every head is better than the base by the same."""
    return np.full(windows, gain)
