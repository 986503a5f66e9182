"""The gate of evidence over many histories at once: the rules of `release/evidence.py` and `release/judgement.py` in numpy.

Knows figures of groups and nothing of their making: a `World` draws them. `tests/simulations/test_gate.py` holds that it decides
as the rules do. A window is what one cut adds: a head, and `groups` new groups of the test side; a look is over the newest `pool`
windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace_processors.release.evidence import GRID, NANO, OLD_GROUPS, OLD_SHARE, SCALE_BOUNDS, UNIFORM, Measure
from headrace_processors.release.evidence_policy import EvidencePolicy
from headrace_processors.release.judgement import HEAVY_TAIL, alpha_of

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Draw(NamedTuple):
    """Asked of a world: which heads (by the window at which they came, -1: none) and which served one (-1: the base) each history
    has, and of which windows groups are looked at."""

    window: int
    heads: Ints  # histories x slots
    served: Ints  # histories
    windows: Ints  # columns


class Drawn(NamedTuple):
    """Candidate minus served, histories x slots x columns. `selected`: by column, which groups feedback selected; None: the
    gate's own word holds for all."""

    value: Floats
    loss: Floats
    selected: Bools | None = None


World = Callable[[Draw], Drawn]


class Outcome(NamedTuple):
    """`promoted`: histories x windows, window of the head that was promoted at each, -1 for none; `served`: by window, before
    its decision; `counts`: how often each verdict was given."""

    promoted: Ints
    served: Ints
    counts: dict[str, int]
    groups: Ints  # of the winner, histories x windows


def log_capital(sums: Ints, logw: Floats) -> Floats:
    terms = logw + sums / NANO
    top = terms.max(axis=-1)
    whole: Floats = top + np.log(np.exp(terms - top[..., None]).sum(axis=-1))
    return whole


def earned(y: Floats, counts: Bools) -> Ints:
    """Nano-nats of each bet over the columns that count."""
    gains = np.zeros((*y.shape[:-1], len(GRID)), dtype=np.int64)
    for number, bet in enumerate(GRID):
        gains[..., number] = np.where(counts, np.rint(NANO * np.log1p(bet * y)), 0).sum(axis=-1).astype(np.int64)
    return gains


def _deviation(values: Floats, where: Bools) -> Floats:
    """Sample standard deviation over the columns of `where`; 0 where there are fewer than two."""
    number = where.sum(axis=2)
    mean = np.where(where, values, 0).sum(axis=2) / np.maximum(number, 1)
    squares = np.where(where, (values - mean[..., None]) ** 2, 0).sum(axis=2)
    deviation: Floats = np.sqrt(squares / np.maximum(number - 1, 1))
    return deviation


class Gate:
    """`histories` buckets that live beside each other under one policy."""

    def __init__(
        self,
        policy: EvidencePolicy,
        histories: int,
        *,
        measure: Measure,
        groups: int,
        pool: int,
        selected: bool = False,
        version: int = 4,
    ) -> None:
        """`selected`: all groups are; `version` of the rules, 3 or 4."""
        self.policy, self.measure, self.groups, self.pool, self.selected = policy, measure, groups, pool, selected
        self.version = version
        self.apart = version > 3 and not policy.accept_selected_rows
        shape = (histories, policy.keep)
        self.head = np.full(shape, -1, dtype=np.int64)
        self.h, self.n, self.looks, self.low, self.high = (np.zeros(shape, dtype=np.int64) for _ in range(5))
        self.up, self.down, self.harm = (np.zeros((*shape, len(GRID)), dtype=np.int64) for _ in range(3))
        self.logw = np.tile(np.asarray(UNIFORM), (*shape, 1))
        # Of groups that no feedback selected, where they are counted apart.
        self.own_n, self.own_low, self.own_high, self.picked = (np.zeros(shape, dtype=np.int64) for _ in range(4))
        self.own_up, self.own_down = (np.zeros((*shape, len(GRID)), dtype=np.int64) for _ in range(2))
        self.c = {"value": np.ones(shape), "loss": np.ones(shape)}
        self.since, self.served = np.full(histories, -1, dtype=np.int64), np.full(histories, -1, dtype=np.int64)
        self.cuts, self.promotions = np.zeros(histories, dtype=np.int64), np.zeros(histories, dtype=np.int64)
        self.counted = np.zeros((*shape, 0), dtype=bool)  # by column of all windows so far

    def run(self, windows: int, world: World, random: np.random.Generator) -> Outcome:
        histories = len(self.since)
        promoted = np.full((histories, windows), -1, dtype=np.int64)
        served, sizes, counts = (
            promoted.copy(),
            np.zeros_like(promoted),
            dict.fromkeys(("promote", "declined", "needs_decision"), 0),
        )
        for window in range(windows):
            self.cut(window)
            self.counted = np.concatenate([self.counted, np.zeros((*self.head.shape, self.groups), dtype=bool)], axis=2)
            self.look(window, world, random)
            served[:, window] = self.served
            for name, number in self.judge(window, promoted, sizes).items():
                counts[name] += number
        return Outcome(promoted, served, counts, sizes)

    def cut(self, window: int) -> None:
        self.cuts += 1
        worth = log_capital(self.up, self.logw) - np.log(np.maximum(self.h * (self.h + 1), 1))
        slot = np.where(self.head < 0, -np.inf, worth).argmin(axis=1)
        self._enter(np.arange(len(slot)), slot, window, self.cuts)

    def _enter(self, rows: Ints, slot: Ints, window: int | Ints, h: Ints) -> None:
        """A head begins in a slot, with nothing."""
        self.head[rows, slot], self.h[rows, slot] = window, h
        own = self.own_n, self.own_low, self.own_high, self.own_up, self.own_down, self.picked
        for array in (self.n, self.looks, self.low, self.high, self.up, self.down, self.harm, *own):
            array[rows, slot] = 0
        self.logw[rows, slot] = UNIFORM
        self.counted[rows, slot] = False

    def look(self, window: int, world: World, random: np.random.Generator) -> None:
        first = max(0, window - self.pool + 1)
        columns = np.arange(first * self.groups, (window + 1) * self.groups)
        of_window = columns // self.groups
        drawn = world(Draw(window, self.head, self.served, of_window))
        fresh = of_window[None, :] > self.since[:, None]
        selected = np.full(len(columns), self.selected) if drawn.selected is None else drawn.selected
        self._freeze(drawn, ~fresh, selected)
        active = (self.head >= 0)[..., None]
        open_ = fresh[:, None, :] & ~self.counted[:, :, columns] & active
        if self.apart:
            open_ = self._chosen(open_ & ~selected, random) | self._chosen(open_ & selected, random)
        else:
            open_ = self._chosen(open_, random)
        self.counted[:, :, columns] |= open_
        c = self.c["value"][..., None]
        x = np.round(np.clip(drawn.value / c, -1, 1), 6)
        useful = self.policy.useful(self.measure) / c
        self.up += earned(x, open_)
        self.down += earned((useful - x) / (1 + useful), open_)
        self.picked += (open_ & selected).sum(axis=2)
        if self.apart and not selected.all():
            own = open_ & ~selected
            self.own_up += earned(x, own)
            self.own_down += earned((useful - x) / (1 + useful), own)
            self.own_n += own.sum(axis=2)
            self.own_low += (own & (drawn.value < -c)).sum(axis=2)
            self.own_high += (own & (drawn.value > c)).sum(axis=2)
        z = np.round(np.clip(drawn.loss / self.c["loss"][..., None], -1, 1), 6)
        margin = self.policy.harm_margin / self.c["loss"][..., None]
        self.harm += earned((-z - margin) / (1 + margin), open_)
        self.n += open_.sum(axis=2)
        self.low += (open_ & (drawn.value < -c)).sum(axis=2)
        self.high += (open_ & (drawn.value > c)).sum(axis=2)
        self.looks += active[..., 0]

    def _chosen(self, open_: Bools, random: np.random.Generator) -> Bools:
        """Of groups that could count, those that do at this look."""
        most = self.policy.max_groups
        if open_.shape[2] <= most:
            return open_
        keys = np.where(open_, random.random(open_.shape), 2.0)
        return open_ & (keys <= np.partition(keys, most - 1, axis=2)[..., most - 1][..., None])

    def _freeze(self, drawn: Drawn, old: Bools, selected: Bools) -> None:
        new = (self.looks == 0) & (self.head >= 0)
        if self.apart:
            enough_own = (old & ~selected).sum(axis=1) >= OLD_GROUPS
            old = np.where(enough_own[:, None], old & ~selected, old)
        enough = new & (old.sum(axis=1) >= OLD_GROUPS)[:, None]
        for name, values in (("value", drawn.value), ("loss", drawn.loss)):
            scale = np.full(new.shape, self.policy.first_scale)
            if enough.any():
                deviation = _deviation(values, np.broadcast_to(old[:, None, :], values.shape))
                scale = np.where(enough, np.clip(self.policy.clip_sd * deviation, *SCALE_BOUNDS), scale)
            if name == "value" and self.measure == "success":
                scale = np.ones(new.shape)
            if self.version > 3 and not (name == "value" and self.measure == "success"):
                scale = np.maximum(scale, self.policy.worst_group)
            self.c[name] = np.where(new, scale, self.c[name])
        if enough.any():
            x = np.round(np.clip(drawn.value / self.c["value"][..., None], -1, 1), 6)
            sums = earned(x, np.broadcast_to(old[:, None, :], x.shape)) / NANO
            won = np.exp(sums - sums.max(axis=2, keepdims=True))
            logw = np.log(OLD_SHARE * won / won.sum(axis=2, keepdims=True) + (1 - OLD_SHARE) / len(GRID))
            self.logw = np.where(enough[..., None], logw, self.logw)

    def judge(self, window: int, promoted: Ints, sizes: Ints) -> dict[str, int]:
        policy, uniform = self.policy, np.asarray(UNIFORM)
        against = -math.log(policy.beta)
        needed = -np.log(self._alpha())
        own = self.own_n >= policy.min_groups if self.apart else np.zeros(self.n.shape, dtype=bool)
        n, low, high = (
            np.where(own, *both) for both in ((self.own_n, self.n), (self.own_low, self.low), (self.own_high, self.high))
        )
        up = log_capital(np.where(own[..., None], self.own_up, self.up), self.logw)
        down = log_capital(np.where(own[..., None], self.own_down, self.down), uniform)
        over = self.looks >= policy.horizon
        few, active = n < policy.min_groups, self.head >= 0
        harm = active & (log_capital(self.harm, uniform) >= against)
        rest = active & ~harm
        person, rest = rest & few & over, rest & ~few
        useless = rest & (down >= against)
        rest &= ~useless
        heavy = rest & (low > high) & (low >= HEAVY_TAIL)
        rest &= ~heavy
        passed = rest & (up >= needed)
        manual = passed & ~own & (self.picked > 0) & (not policy.accept_selected_rows)
        passed &= ~manual
        person |= over & (heavy | (rest & ~passed) | manual)
        for_person = person | heavy | manual
        self.head[harm | useless | person] = -1
        best = np.where(passed, up - needed, -np.inf).argmax(axis=1)
        rows = np.flatnonzero(passed.any(axis=1))
        winner = best[rows]
        if len(rows):
            heads = self.head[rows, winner]
            promoted[rows, window], sizes[rows, window] = heads, n[rows, winner]
            newest = self.head[rows].max(axis=1)
            self.head[rows] = -1
            self.served[rows], self.since[rows], self.cuts[rows] = heads, window, 0
            self.promotions[rows] += 1
            again = newest > heads
            self.cuts[rows[again]] = 1
            self._enter(rows[again], np.zeros(int(again.sum()), dtype=np.int64), newest[again], self.cuts[rows[again]])
        return {"promote": len(rows), "declined": int((harm | useless).sum()), "needs_decision": int(for_person.sum())}

    def _alpha(self) -> Floats:
        prices = np.ones(self.h.shape)
        for h, promotions in np.unique(
            np.stack([self.h, np.broadcast_to(self.promotions[:, None], self.h.shape)], 2).reshape(-1, 2), axis=0
        ):
            if h > 0:
                prices[(self.h == h) & (self.promotions[:, None] == promotions)] = alpha_of(self.policy, int(h), int(promotions))
        return prices
