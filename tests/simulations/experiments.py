"""What is tried of the gate of evidence, beside the gate before it: every experiment with its figures. Knows no
file and no command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from headrace_processors.release.evidence import Measure
from headrace_processors.release.evidence_policy import EvidencePolicy
from simulations import gate_before
from simulations.gate import Draw, Gate, Outcome
from simulations.worlds import NOISES, SD, DrawnWorld, LossWorld, SuccessWorld, flat

Figures = dict[str, Any]
CUTS, POOL_ROWS = 20, 200
SIZES = (1, 2, 3, 10, 30, 200)


def pool_of(groups: int) -> int:
    """Windows whose groups are in a test pool of 200 rows."""
    return min(CUTS, max(1, POOL_ROWS // groups))


def run(
    world: LossWorld,
    policy: EvidencePolicy,
    random: np.random.Generator,
    *,
    measure: Measure,
    selected: bool = False,
    cuts: int = CUTS,
    version: int = 4,
) -> Outcome:
    more: dict[str, Any] = {"pool": pool_of(world.groups), "selected": selected, "version": version}
    gate = Gate(policy, world.histories, measure=measure, groups=world.groups, **more)
    return gate.run(cuts, world, random)


def null_figures(outcome: Outcome) -> Figures:
    """Promotions of what is no better, their share as claimed, and its bound with 97.5 % confidence."""
    promotions = (outcome.promoted >= 0).sum(axis=1)
    mean, error = promotions.mean(), promotions.std() / np.sqrt(len(promotions))
    return {
        "promotions": float(mean),
        "share_of_histories": float((promotions > 0).mean()),
        "mfdr": float(mean / (mean + 1)),
        "mfdr_high": float((mean + 1.96 * error) / (mean + 1.96 * error + 1)),
        **outcome.counts,
    }


def null_loss(
    random: np.random.Generator, histories: int, *, noise: str, groups: int, shared: float, policy: Figures, version: int = 4
) -> Figures:
    world = LossWorld(random, histories, groups, flat(CUTS), NOISES[noise], shared)
    return null_figures(run(world, EvidencePolicy.model_validate(policy), random, measure="loss", version=version))


def null_success(random: np.random.Generator, histories: int, *, groups: int, policy: Figures, **more: Any) -> Figures:
    selected = more.pop("selected", False)
    world = SuccessWorld(random, histories, groups, flat(CUTS), **more)
    return null_figures(run(world, EvidencePolicy.model_validate(policy), random, measure="success", selected=selected))


def drawn(random: np.random.Generator, histories: int, *, drawn: int, picked: int, gain: float, version: int = 4) -> Figures:
    """So many groups a window that were drawn, beside others that are there because the served model failed on them. Every head
    is better than the base by `gain`, and than one another not at all."""
    world = DrawnWorld(random, histories, drawn + picked, flat(CUTS, gain), drawn=drawn)
    outcome = run(world, EvidencePolicy(), random, measure="success", version=version)
    was = outcome.promoted >= 0
    first = np.where(was.any(axis=1), was.argmax(axis=1) + 1, np.inf)
    windows = np.percentile(first, [50, 80], method="higher")
    return {**null_figures(outcome), "first_by_half": float(windows[0]), "first_by_eighty": float(windows[1])}


def recurring(random: np.random.Generator, histories: int, *, groups: int) -> Figures:
    """The same few groups at every cut: after the first window none of them is new."""
    world = LossWorld(random, histories, groups, flat(CUTS), NOISES["normal"], 0.5)
    gate = Gate(EvidencePolicy(), histories, measure="loss", groups=groups, pool=1)
    first = gate.run(1, world, random)
    return {**null_figures(first), "note": "windows after the first bring no new group and change nothing"}


def before_null(random: np.random.Generator, histories: int, *, groups: int) -> Figures:
    """The gate before: 200 rows of so many groups at each of 20 cuts; candidates without gain."""
    passed = np.zeros((histories, CUTS), dtype=bool)
    for number in range(CUTS):
        shape = (histories, groups, POOL_ROWS // groups)
        of_group = random.standard_normal(shape[:2])[..., None]
        rows = SD * (np.sqrt(0.5) * of_group + np.sqrt(0.5) * random.standard_normal(shape))
        passed[:, number] = gate_before.passes(rows, random)
    return {"passed": float(passed.mean()), "share_of_histories": float(passed.any(axis=1).mean())}


def good_then_useless(random: np.random.Generator, histories: int, *, groups: int, claim: str, good: float = 1.0) -> Figures:
    """A head that is better by `good` sd, then heads no better than the base."""
    gain = np.zeros(CUTS)
    gain[0] = good * SD
    world = LossWorld(random, histories, groups, gain, NOISES["heavy"], 0.5)
    promoted = run(world, EvidencePolicy.model_validate({"claim": claim}), random, measure="loss").promoted
    return {
        "good_promoted": float((promoted == 0).any(axis=1).mean()),
        "useless_promoted": float((promoted > 0).any(axis=1).mean()),
    }


def damaged(random: np.random.Generator, histories: int, *, measure: Measure) -> Figures:
    """Heads that are worse by a nat, or right half as often."""
    if measure == "loss":
        world = LossWorld(random, histories, 64, flat(CUTS, -1.0), NOISES["heavy"], 0.5)
    else:
        world = SuccessWorld(random, histories, 64, flat(CUTS, -0.3))
    return null_figures(run(world, EvidencePolicy(), random, measure=measure))


def own_answers(random: np.random.Generator, histories: int, *, accept: bool) -> Figures:
    """Trained on what is served's own answers, and judged on them: a nat is "gained", on rows that feedback selected."""
    world = LossWorld(random, histories, 64, flat(CUTS, 1.0), NOISES["heavy"], 0.5)
    policy = EvidencePolicy(accept_selected_rows=accept)
    return null_figures(run(world, policy, random, measure="loss", selected=True))


def power(random: np.random.Generator, histories: int, *, measure: Measure, gain: float) -> Figures:
    """Groups until a head is promoted, as the first since a promotion, with a look after every 8 groups (success: 16)."""
    step, most = (8, 4096) if measure == "loss" else (16, 8192)
    if gain >= 0.1:
        most //= 4
    policy = EvidencePolicy(horizon=10_000, keep=1, max_groups=step, min_useful_success=0.01)
    world: LossWorld
    if measure == "loss":
        world = LossWorld(random, histories, step, flat(most // step, gain), NOISES["heavy"], 0.5)
    else:
        world = SuccessWorld(random, histories, step, flat(most // step, gain))
    needed = single_pair(policy, world, random, measure, most // step)
    low, fixed = (
        np.percentile(np.where(needed < 0, np.inf, needed), [50, 80], method="higher"),
        bootstrap_size(random, measure, gain),
    )
    return {
        "median": float(low[0]), "eighty": float(low[1]), "never": float((needed < 0).mean()),
        "bootstrap_median": fixed[0], "bootstrap_eighty": fixed[1], "limit": most,
    }  # fmt: skip


def single_pair(policy: EvidencePolicy, world: LossWorld, random: np.random.Generator, measure: Measure, looks: int) -> Any:
    """Groups that each history's one head had when it was promoted, -1 for never."""
    gate = Gate(policy, world.histories, measure=measure, groups=world.groups, pool=1)
    needed = np.full(world.histories, -1, dtype=np.int64)
    one = np.full((world.histories, looks), -1, dtype=np.int64)
    gate.cut(0)
    for window in range(looks):
        gate.counted = np.zeros((*gate.head.shape, (window + 1) * world.groups), dtype=bool)
        gate.look(window, world, random)
        sizes = np.zeros_like(one)
        gate.judge(window, one, sizes)
        needed = np.where((needed < 0) & (one[:, window] >= 0), sizes[:, window], needed)
        if (gate.head < 0).all():
            break
    return needed


def bootstrap_size(random: np.random.Generator, measure: Measure, gain: float) -> tuple[float, float]:
    """Groups at which a paired bootstrap with one look (95 % interval above 0) passes in half, and in 80 %, of 400 trials."""
    found: list[float] = []
    for wanted in (0.5, 0.8):
        size = 8.0
        while size < 6000:
            groups = int(size)
            world = (
                LossWorld(random, 400, groups, flat(1, gain), NOISES["heavy"], 0.5)
                if measure == "loss"
                else SuccessWorld(random, 400, groups, flat(1, gain))
            )
            gate = Gate(EvidencePolicy(keep=1), 400, measure=measure, groups=groups, pool=1)
            gate.cut(0)
            drawn = world(Draw(0, gate.head, gate.served, np.zeros(groups, dtype=np.int64)))
            if (gate_before.lower_bounds(drawn.value[:, 0], random) > 0).mean() >= wanted:
                break
            size *= 1.15
        found.append(float(int(size)))
    return found[0], found[1]


def improving(random: np.random.Generator, histories: int, *, groups: int) -> Figures:
    """A learner that gains 0.1 sd a window over 43 windows: how far what is served lags behind, in sd."""
    gain = flat(43, 0.1 * SD).cumsum()
    world = LossWorld(random, histories, groups, gain, NOISES["heavy"], 0.5)
    outcome = run(world, EvidencePolicy(), random, measure="loss", cuts=43)
    lag = (gain[None, :] - np.concatenate([gain, [0.0]])[outcome.served]) / SD
    return {"lag_sd": float(lag.mean()), "promotions": float((outcome.promoted >= 0).sum(axis=1).mean())}


Experiment = tuple[str, Callable[..., Figures], dict[str, Any]]


def experiments() -> Iterator[Experiment]:
    for groups in SIZES:
        yield f"null, {groups} groups a window", null_loss, {"noise": "normal", "groups": groups, "shared": 0.5, "policy": {}}
        yield f"null, {groups} groups in all", recurring, {"groups": groups}
        yield f"null before, {groups} groups", before_null, {"groups": groups}
    for noise in NOISES:
        for shared in (0.0, 0.9):
            options = {"noise": noise, "groups": 30, "shared": shared, "policy": {}}
            yield f"null, {noise}, heads alike {shared}", null_loss, options
    for keep in (1, 3, 4):
        yield f"null, keep {keep}", null_loss, {"noise": "heavy", "groups": 30, "shared": 0.9, "policy": {"keep": keep}}
    for claim in ("strict", "plain"):
        yield f"null, {claim}", null_loss, {"noise": "normal", "groups": 30, "shared": 0.5, "policy": {"claim": claim}}
    for groups in (3, 30, 200):
        yield f"null success, {groups} groups a window", null_success, {"groups": groups, "policy": {}}
    picked = {"groups": 30, "only_failures": True, "selected": True}
    yield "picked by failure, default", null_success, {**picked, "policy": {}}
    yield "picked by failure, accepted", null_success, {**picked, "policy": {"accept_selected_rows": True}}
    for count, beside in ((10, 0), (10, 50), (40, 0), (40, 160)):
        for gain in (0.0, 0.05, 0.1, 0.2):
            options = {"drawn": count, "picked": beside, "gain": gain}
            yield f"drawn {count} beside {beside} picked, +{gain * 100:g} points", drawn, options
    yield "drawn 40 beside 160 picked, +20 points, version 3", drawn, {"drawn": 40, "picked": 160, "gain": 0.2, "version": 3}
    for groups in (10, 30, 64):
        for number in (3, 4):
            rare = {"noise": "rare_losses", "groups": groups, "shared": 0.0, "policy": {}, "version": number}
            yield f"null, losses of 1.3 nats on 5 %, {groups} groups, version {number}", null_loss, rare
    for claim in ("per_release", "plain"):
        for groups in (10, 20, 64):
            for good in (0.3, 1.0):
                options = {"groups": groups, "claim": claim, "good": good}
                yield f"good by {good} sd, then useless, {groups} groups, {claim}", good_then_useless, options
    yield "damaged, loss", damaged, {"measure": "loss"}
    yield "damaged, success", damaged, {"measure": "success"}
    yield "own answers, default", own_answers, {"accept": False}
    yield "own answers, accepted", own_answers, {"accept": True}
    for groups in (20, 64):
        yield f"improving 0.1 sd a window, {groups} groups", improving, {"groups": groups}
    for gain in (0.02, 0.05, 0.1):
        yield f"power +{gain} nats", power, {"measure": "loss", "gain": gain}
    for gain in (0.02, 0.05, 0.1):
        yield f"power +{gain * 100:g} points", power, {"measure": "success", "gain": gain}
