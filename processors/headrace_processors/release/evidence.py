"""Evidence that a head is better than what is served: bets on groups of rows, each counted once. Knows figures of groups, no
events and not what is served.

The capital of a bet that a head is no better grows by more than 1/a with probability of at most a, however often one looks (test
martingales: Ville 1939; betting on bounded means: Waudby-Smith & Ramdas 2024). Eight bets of different size run beside each
other, and their mean, weighted by `logw`, is the capital. Sums are integers of nano-nats: the order of groups does not matter,
and a replay on another machine has the same bytes. Everything here is a function; state is in `evidence_state`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec.structs import replace

from headrace_processors.release.evidence_policy import EvidencePolicy
from headrace_processors.release.evidence_state import EvidenceState, Head, HeadFrozen, Sums, Tally
from headrace_schemas.canonical import digest, rounded
from headrace_schemas.ids import derive_id

GRID = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
UNIFORM = tuple(rounded(-math.log(len(GRID))) for _ in GRID)
ZERO: Sums = (0,) * len(GRID)
OLD_GROUPS = 20  # groups from before, without which scale and bets are the default ones
SCALE_BOUNDS = 0.05, 2.0  # nats a token
OLD_SHARE = 0.9  # of the weights of the bets; the rest is spread evenly, so that no bet is ever without capital
NANO, MICRO = 1e9, 1e6

Measure = Literal["success", "margin", "loss"]
SCREEN: Measure = "loss"  # what the harm alarm watches


class GroupFigures(NamedTuple):
    """One group of rows at one look. `values`: by measure, candidate minus what is served, better is positive (success in 0-1,
    loss and margin in nats a token), mean over the group's rows. `selected`: its rows are there because the model that is served
    was wrong on them, or may be. `slices`: the protected kinds of rows that it belongs to."""

    group: str
    side: Literal["test", "train", "validation"]
    values: Mapping[str, float]
    selected: bool = False
    slices: tuple[str, ...] = ()


def noted(first_seen: Mapping[str, int], groups: Iterable[str], position: int) -> dict[str, int]:
    """The groups that were never seen before, each with this position."""
    return {group: position for group in groups if group not in first_seen}


def is_fresh(head: Head, since: int, figures: GroupFigures, first_seen: Mapping[str, int]) -> bool:
    """Whether neither the head nor the last decision can know the group."""
    if figures.side == "validation":
        return False
    bound = since if figures.side == "test" else max(since, head.cut)
    return first_seen[figures.group] > bound


def step(sums: Sums, y: float) -> Sums:
    """Each bet's log capital, in nano-nats, after an outcome `y` in [-1, 1]."""
    return tuple(total + round(NANO * math.log1p(bet * y)) for total, bet in zip(sums, GRID, strict=True))


def log_capital(sums: Sums, logw: Sequence[float] = UNIFORM) -> float:
    """Log of the weighted mean of the capitals, in nats, to nano-nats."""
    terms = [weight + total / NANO for weight, total in zip(logw, sums, strict=True)]
    top = max(terms)
    return round(top + math.log(math.fsum(math.exp(term - top) for term in terms)), 9) + 0.0


def cut(policy: EvidencePolicy, state: EvidenceState, version_id: str, position: int) -> EvidenceState:
    """A new head enters. Over `keep`, of all but the newest the one with the least capital for its price leaves."""
    number = state.cuts + 1
    head = Head(version_id=version_id, h=number, cut=position, up=ZERO, down=ZERO, harm=ZERO)
    pending = [*state.pending, head]
    while len(pending) > policy.keep:
        pending.remove(min(pending[:-1], key=_worth))
    return replace(state, cuts=number, pending=tuple(pending))


def _worth(head: Head) -> float:
    """What it has towards its threshold; a head that was never looked at has nothing."""
    logw = head.frozen.logw if head.frozen else UNIFORM
    return log_capital(head.up, logw) - math.log(head.h * (head.h + 1))


def looked_at(
    policy: EvidencePolicy,
    head: Head,
    groups: Sequence[GroupFigures],
    *,
    measure: Measure,
    since: int,
    first_seen: Mapping[str, int],
    apart: bool = False,
    deep: bool = False,
) -> Head:
    """A head after a look: of the groups that are fresh, have the measure and were not counted before, at most `max_groups`
    count, each once; the first look fixes scale and bets before it counts any. `first_seen` knows every group of the look.
    `apart`: groups that feedback selected are counted apart, of each sort at most `max_groups`. `deep`: no difference in
    loss is cut off before `worst_group`.

    One group must not come twice in a look: a group is one unit, its rows are averaged before."""
    fresh = [figures for figures in groups if is_fresh(head, since, figures, first_seen)]
    if head.frozen is None:
        old = [each for each in groups if each.side != "validation" and not is_fresh(head, since, each, first_seen)]
        head = replace(head, frozen=frozen(policy, old, measure, apart, deep))
    assert head.frozen is not None
    known = frozenset(head.counted)
    countable = [figures for figures in fresh if figures.group not in known and measure in figures.values]
    countable.sort(key=lambda figures: derive_id("look", head.version_id, figures.group))
    chosen = countable[: policy.max_groups]
    if apart:
        sorts = [[each for each in countable if each.selected is selected] for selected in (False, True)]
        chosen = [figures for sort in sorts for figures in sort[: policy.max_groups]]
    for figures in chosen:
        head = counted(policy, head, figures, measure, apart)
    return replace(head, looks=head.looks + 1, counted=tuple(sorted(head.counted)))


def frozen(
    policy: EvidencePolicy, old: Sequence[GroupFigures], measure: Measure, apart: bool = False, deep: bool = False
) -> HeadFrozen:
    """Scale of each measure and weights of the bets from groups that can earn nothing; where selected ones are counted `apart`,
    without those, if there are enough others: on what the served model failed at, gains are larger."""
    unselected = [each for each in old if not each.selected]
    if apart and sum(measure in each.values for each in unselected) >= OLD_GROUPS:
        old = unselected
    scales: dict[str, float] = {
        name: scale(policy, name, [each.values[name] for each in old if name in each.values]) for name in _MEASURES
    }
    if deep:
        scales = {name: c if name == "success" else max(c, policy.worst_group) for name, c in scales.items()}
    values = [each.values[measure] for each in old if measure in each.values]
    logw = UNIFORM
    if len(values) >= OLD_GROUPS:
        sums = ZERO
        for value in values:
            sums = step(sums, scaled(value, scales[measure]))
        logw = bets_from(sums)
    return HeadFrozen(scales=scales, logw=logw, groups=len(old), digest=digest(sorted(each.group for each in old)))


_MEASURES: tuple[Measure, ...] = ("success", "margin", "loss")


def scale(policy: EvidencePolicy, measure: Measure, old: Sequence[float]) -> float:
    """What a difference is divided by before it is cut off at ±1: 1 for success; else so many standard deviations of old
    groups, as both tails are cut and a tight cut hides gains."""
    if measure == "success":
        return 1.0
    if len(old) < OLD_GROUPS:
        return policy.first_scale
    mean = math.fsum(old) / len(old)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in old) / (len(old) - 1))
    low, high = SCALE_BOUNDS
    return rounded(min(max(policy.clip_sd * deviation, low), high))


def bets_from(sums: Sums) -> tuple[float, ...]:
    """Log weights of the bets: mostly by what each would have won on old groups."""
    top = max(sums)
    won = [math.exp((total - top) / NANO) for total in sums]
    whole = math.fsum(won)
    return tuple(rounded(math.log(OLD_SHARE * each / whole + (1 - OLD_SHARE) / len(GRID))) for each in won)


def scaled(value: float, c: float) -> float:
    """A difference as the outcome of a bet, in [-1, 1], to six digits."""
    return round(min(max(value / c, -1.0), 1.0), 6) + 0.0


def counted(policy: EvidencePolicy, head: Head, figures: GroupFigures, measure: Measure, apart: bool = False) -> Head:
    """A head after one more group."""
    assert head.frozen is not None
    scales, value = head.frozen.scales, figures.values[measure]
    useful = policy.useful(measure) / scales[measure]
    changes: dict[str, object] = {
        "counted": (*head.counted, figures.group),
        "selected": head.selected + figures.selected,
        **_added(head, value, scales[measure], useful),
    }
    if apart and not figures.selected:
        tally = head.unselected or Tally(up=ZERO, down=ZERO)
        changes["unselected"] = replace(tally, **_added(tally, value, scales[measure], useful))
    if SCREEN in figures.values:
        z = scaled(figures.values[SCREEN], scales[SCREEN])
        changes["harm"] = alarmed(policy, head.harm, z, scales[SCREEN])
        slices = dict(head.slices)
        for name in figures.slices:
            slices[name] = alarmed(policy, slices.get(name, ZERO), z, scales[SCREEN])
        changes["slices"] = dict(sorted(slices.items()))
    return replace(head, **changes)


def _added(tally: Head | Tally, value: float, scale: float, useful: float) -> dict[str, object]:
    """What changes by a difference of a group; `useful` in scales."""
    x = scaled(value, scale)
    return {
        "up": step(tally.up, x),
        "down": step(tally.down, (useful - x) / (1 + useful)),
        "n": tally.n + 1,
        "discordant": tally.discordant + (x != 0),
        "clipped_low": tally.clipped_low + (value < -scale),
        "clipped_high": tally.clipped_high + (value > scale),
        "sum_x": tally.sum_x + round(MICRO * x),
    }


def alarmed(policy: EvidencePolicy, sums: Sums, z: float, c: float) -> Sums:
    """The bet that the loss is worse by more than `harm_margin`, after one more group."""
    margin = policy.harm_margin / c
    return step(sums, (-z - margin) / (1 + margin))
