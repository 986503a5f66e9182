"""Evidence for a head: what counts, once, in whatever order; in which order a verdict is found; that nothing is carried over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from headrace_processors.release.evidence import (
    GRID,
    UNIFORM,
    ZERO,
    GroupFigures,
    cut,
    frozen,
    log_capital,
    looked_at,
    noted,
    step,
)
from headrace_processors.release.evidence_policy import EvidencePolicy
from headrace_processors.release.evidence_state import EvidenceState, Head
from headrace_processors.release.judgement import (
    alpha_of,
    judge,
    judged,
    promoted,
    restarted,
    watched,
    watched_further,
)

POLICY = EvidencePolicy()


def figures(name: str, value: float, *, loss: float | None = None, **more: Any) -> GroupFigures:
    values = {"success": value, "loss": value if loss is None else loss}
    return GroupFigures(name, more.pop("side", "test"), values, **more)


def many(prefix: str, values: Sequence[float], **more: Any) -> list[GroupFigures]:
    return [figures(f"{prefix}{number}", value, **more) for number, value in enumerate(values)]


def entered(policy: EvidencePolicy = POLICY, state: EvidenceState | None = None, version: str = "v1", at: int = 0) -> Head:
    return cut(policy, state or EvidenceState(), version, at).pending[-1]


def look(head: Head, groups: Sequence[GroupFigures], *, policy: EvidencePolicy = POLICY, at: int = 1, since: int = -1) -> Head:
    seen = noted({}, (each.group for each in groups), at)
    return looked_at(policy, head, groups, measure="success", since=since, first_seen=seen)


def test_a_bet_of_each_size_gains_by_its_log_and_the_capital_is_their_mean() -> None:
    sums = step(step(ZERO, 1.0), -0.5)
    for bet, total in zip(GRID, sums, strict=True):
        assert total == round(1e9 * math.log1p(bet)) + round(1e9 * math.log1p(-bet / 2))
    mean = sum((1 + bet) * (1 - bet / 2) for bet in GRID) / len(GRID)
    assert log_capital(sums) == pytest.approx(math.log(mean), abs=1e-8)
    assert log_capital(ZERO) == pytest.approx(0, abs=1e-11)


def test_ties_leave_the_capital_as_it_is_and_count() -> None:
    head = look(entered(), many("g", [0.0] * 20))
    assert (head.up, head.n, head.discordant) == (ZERO, 20, 0)


values = st.lists(st.sampled_from([-2.0, -1.0, -0.3, 0.0, 0.2, 1.0, 3.0]), min_size=1, max_size=90)


@given(values, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_groups_in_another_order_leave_the_state_byte_equal(drawn: list[float], random: Any) -> None:
    groups = many("g", drawn, slices=("tool calls",))
    shuffled = list(groups)
    random.shuffle(shuffled)
    assert msgspec.json.encode(look(entered(), groups)) == msgspec.json.encode(look(entered(), shuffled))


@given(values, values)
@settings(max_examples=60)
def test_a_counted_group_fed_again_changes_nothing_but_the_count_of_looks(drawn: list[float], later: list[float]) -> None:
    policy = EvidencePolicy(max_groups=100)
    groups = many("g", drawn)
    seen = noted({}, (each.group for each in groups), 1)
    once = looked_at(policy, entered(), groups, measure="success", since=-1, first_seen=seen)
    again = many("g", later[: len(drawn)])  # later rows of the same groups
    twice = looked_at(policy, once, again, measure="success", since=-1, first_seen=seen)
    assert twice == replace(once, looks=2)


def test_at_most_max_groups_of_a_look_count_and_the_others_may_at_the_next() -> None:
    groups = many("g", [1.0] * 100)
    seen = noted({}, (each.group for each in groups), 1)
    head = looked_at(POLICY, entered(), groups, measure="success", since=-1, first_seen=seen)
    assert head.n == POLICY.max_groups == 64
    other = looked_at(POLICY, entered(version="v2"), groups, measure="success", since=-1, first_seen=seen)
    assert head.counted != other.counted  # by a digest of head and group
    assert looked_at(POLICY, head, groups, measure="success", since=-1, first_seen=seen).n == 100


@pytest.mark.parametrize(
    ("side", "since", "head_cut", "counts"),
    [
        ("test", 4, 9, True),
        ("test", 5, 0, False),
        ("train", 4, 4, True),
        ("train", 4, 5, False),
        ("train", 5, 0, False),
        ("validation", 0, 0, False),
    ],
)
def test_a_group_counts_only_if_neither_head_nor_decision_can_know_it(side: Any, since: int, head_cut: int, counts: bool) -> None:
    groups = [figures("g", 1.0, side=side)]
    head = looked_at(POLICY, entered(at=head_cut), groups, measure="success", since=since, first_seen={"g": 5})
    assert head.n == counts


def test_a_group_is_first_seen_once() -> None:
    assert noted({"a": 1}, ["a", "b"], 7) == {"b": 7}


def test_a_group_without_the_measure_does_not_count_and_stays_fresh() -> None:
    without = GroupFigures("g", "test", {"loss": 0.4})
    head = look(entered(), [without])
    assert (head.n, head.counted) == (0, ())
    assert look(head, [figures("g", 1.0)]).n == 1


def test_old_groups_fix_scale_and_bets_before_the_first_look_and_earn_nothing() -> None:
    old = many("old", [0.1, 0.2] * 10)
    seen = noted({}, (each.group for each in old), 1)
    head = looked_at(POLICY, entered(), old, measure="loss", since=1, first_seen=seen)
    assert (head.n, head.up) == (0, ZERO)
    assert head.frozen is not None
    deviation = math.sqrt(20 * 0.05**2 / 19)
    assert head.frozen.scales["loss"] == pytest.approx(3 * deviation)
    assert (head.frozen.scales["success"], head.frozen.groups) == (1.0, 20)
    assert head.frozen.logw.index(max(head.frozen.logw)) == len(GRID) - 1  # all won: the boldest bet gets most
    assert min(math.exp(weight) for weight in head.frozen.logw) > 0.1 / len(GRID)
    later = looked_at(
        POLICY, head, many("new", [-0.4] * 30), measure="loss", since=1, first_seen=noted(seen, [f"new{n}" for n in range(30)], 2)
    )
    assert later.frozen == head.frozen


def test_without_twenty_old_groups_scale_and_bets_are_the_default_ones() -> None:
    made = frozen(POLICY, many("old", [0.4] * 19), "loss")
    assert (made.scales["loss"], made.logw) == (POLICY.first_scale, UNIFORM)
    assert frozen(POLICY, many("old", [0.0] * 20), "loss").scales["loss"] == 0.05


@given(st.lists(st.floats(-5, 5), min_size=20, max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_what_is_fixed_does_not_depend_on_the_order_of_old_groups(drawn: list[float], random: Any) -> None:
    old = many("old", drawn)
    shuffled = list(old)
    random.shuffle(shuffled)
    assert frozen(POLICY, old, "loss") == frozen(POLICY, shuffled, "loss")


def after(values: Sequence[float], *, policy: EvidencePolicy = POLICY, **more: Any) -> Head:
    return look(entered(policy), many("g", values, **more), policy=policy)


RULES: list[tuple[str, Head, str | None, tuple[str, str]]] = [
    ("broken", after([-1.0] * 60), "its adapter did not load", ("invalid", "its adapter did not load")),
    ("worse in loss", after([1.0] * 60, loss=-1.0), None, ("declined", "harm")),
    ("few and good", after([1.0] * 9), None, ("pending", "few_groups")),
    ("few for long", replace(after([1.0] * 9), looks=20), None, ("needs_decision", "few_groups")),
    ("no gain", after([-1.0] * 20 + [0.0] * 40, loss=0.0), None, ("declined", "no_useful_gain")),
    ("good", after([1.0] * 20), None, ("promote", "evidence")),
    ("good on selected rows", after([1.0] * 20, selected=True), None, ("needs_decision", "selected_rows")),
    ("even", after([1.0, -1.0] * 6), None, ("pending", "no_evidence")),
    ("even for long", replace(after([1.0, -1.0] * 6), looks=20), None, ("needs_decision", "no_evidence")),
    ("heavy tail", after([-1.5] * 3 + [1.0] * 40, loss=0.0), None, ("needs_decision", "heavy_tail")),
]


@pytest.mark.parametrize(("head", "invalid", "said"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_the_first_rule_that_holds_is_the_verdict(head: Head, invalid: str | None, said: tuple[str, str]) -> None:
    verdict = judge(POLICY, head, 0, invalid)
    assert (verdict.kind, verdict.reason) == said
    assert verdict.needed == pytest.approx(math.log(40))


def test_harm_on_a_protected_slice_declines_although_the_rest_is_well() -> None:
    head = look(
        entered(),
        [*many("g", [0.3] * 60), *many("t", [0.3] * 30, loss=-0.6, slices=("tool calls",))],
        policy=EvidencePolicy(max_groups=90),
    )
    verdict = judge(POLICY, head, 0)
    assert (verdict.kind, verdict.reason) == ("declined", "harm: tool calls")


def test_who_accepts_selected_rows_gets_the_promotion() -> None:
    head = after([1.0] * 20, selected=True)
    assert judge(EvidencePolicy(accept_selected_rows=True), head, 0).kind == "promote"


def test_no_number_of_looks_at_few_groups_promotes_or_declines() -> None:
    head = entered()
    groups = many("g", [1.0] * POLICY.min_groups)[:-1]
    seen = noted({}, (each.group for each in groups), 1)
    for _ in range(100):
        head = looked_at(POLICY, head, groups, measure="success", since=-1, first_seen=seen)
        assert judge(POLICY, head, 0).kind in ("pending", "needs_decision")
    assert judge(POLICY, head, 0).reason == "few_groups"


def test_prices_of_heads_add_up_to_alpha_and_strict_costs_what_it_says() -> None:
    assert math.fsum(alpha_of(POLICY, h, 3) for h in range(1, 100_000)) == pytest.approx(POLICY.alpha, abs=1e-6)
    strict, plain = EvidencePolicy(claim="strict"), EvidencePolicy(claim="plain")
    cost = [math.log(alpha_of(POLICY, 1, r - 1) / alpha_of(strict, 1, r - 1)) for r in (1, 10, 50)]
    assert cost == pytest.approx([0.5, 3, 4], abs=0.05)
    assert alpha_of(plain, 7, 7) == POLICY.alpha


def test_over_keep_the_head_with_least_for_its_price_leaves_and_never_the_newest() -> None:
    state = EvidenceState()
    state = cut(POLICY, state, "v1", 1)
    good = look(state.pending[0], many("g", [1.0] * 4))
    state = replace(state, pending=(good,))
    state = cut(POLICY, state, "v2", 2)
    state = cut(POLICY, state, "v3", 3)
    assert [(head.version_id, head.h) for head in state.pending] == [("v1", 1), ("v3", 3)]
    state = replace(state, pending=(look(entered(), many("g", [-1.0] * 20)), state.pending[1]))
    state = cut(POLICY, state, "v4", 4)
    assert [head.version_id for head in state.pending] == ["v3", "v4"]
    assert [head.version_id for head in cut(EvidencePolicy(keep=1), state, "v5", 5).pending] == ["v5"]


def test_a_promotion_spends_all_that_was_seen_and_a_newer_head_begins_with_nothing() -> None:
    state = cut(POLICY, cut(POLICY, EvidenceState(), "v1", 1), "v2", 2)
    looked = [look(head, many("g", [1.0] * 20)) for head in state.pending]
    seen = noted({}, looked[0].counted, 3)
    result = judged(POLICY, replace(state, pending=tuple(looked)), looked, {})
    assert result.winner is not None
    assert result.winner.version_id == "v1"  # its price is lower
    after_it = promoted(POLICY, result.state, result.winner, position=3)
    assert (after_it.promotions, after_it.since, after_it.cuts) == (1, 3, 1)
    [head] = after_it.pending
    assert (head.version_id, head.h, head.cut, head.up, head.counted) == ("v2", 1, 2, ZERO, ())
    fed = looked_at(POLICY, head, many("g", [1.0] * 20), measure="success", since=after_it.since, first_seen=seen)
    assert (fed.n, fed.up) == (0, ZERO)  # the pool that chose pays nothing


def test_what_a_person_changes_spends_the_evidence_and_keeps_the_price() -> None:
    state = replace(cut(POLICY, EvidenceState(), "v1", 1), promotions=4)
    state = restarted(state, 9)
    assert (state.since, state.pending, state.promotions, state.cuts) == (9, (), 4, 1)
    assert cut(POLICY, state, "v2", 10).pending[0].h == 2


def test_a_promotion_is_watched_over_its_horizon_and_harm_is_said() -> None:
    policy = EvidencePolicy(horizon=3)
    watch = watched(policy, after([1.0] * 20))
    bad = many("b", [-1.0] * 30)
    seen = {**noted({}, (each.group for each in bad), 5), "old": 1}
    alarmed = watched_further(policy, watch, [*bad, figures("old", -1.0)], since=1, first_seen=seen)
    assert alarmed is not None
    assert (alarmed.proposed, alarmed.n) == (True, 30)
    assert watched_further(policy, alarmed, bad, since=1, first_seen=seen) == alarmed
    calm = watch
    for number in range(2):
        found = watched_further(
            policy, calm, many(f"c{number}", [0.1] * 5), since=1, first_seen={f"c{number}{n}": 7 for n in range(5)}
        )
        assert found is not None
        calm = found
    assert (calm.looks, calm.n, calm.proposed) == (2, 10, False)
    assert watched_further(policy, calm, [], since=1, first_seen={}) is None


@given(values)
@settings(max_examples=40)
def test_state_comes_back_from_its_bytes_as_it_was(drawn: list[float]) -> None:
    state = cut(POLICY, EvidenceState(), "v1", 1)
    state = replace(state, pending=(look(state.pending[0], many("g", drawn)),), watch=watched(POLICY, None, "v0"))
    assert msgspec.json.decode(msgspec.json.encode(state), type=EvidenceState) == state


def apart(head: Head, groups: Sequence[GroupFigures], *, policy: EvidencePolicy = POLICY) -> Head:
    seen = noted({}, (each.group for each in groups), 1)
    return looked_at(policy, head, groups, measure="success", since=-1, first_seen=seen, apart=True)


def test_groups_that_no_feedback_selected_promote_whatever_the_selected_ones_beside_them_say() -> None:
    drawn, selected = many("d", [1.0] * 20), many("s", [1.0] * 20, selected=True)
    head = apart(entered(), [*drawn, *selected])
    assert (head.n, head.selected, head.unselected is not None and head.unselected.n) == (40, 20, 20)
    assert judge(POLICY, head, 0)._replace(harm=0) == judge(POLICY, look(entered(), drawn), 0)._replace(harm=0)
    assert judge(POLICY, head, 0).kind == "promote"
    assert judge(POLICY, look(entered(), [*drawn, *selected]), 0).reason == "selected_rows"  # rule version 3


def test_selected_groups_pay_nothing_where_the_others_are_enough_to_decide() -> None:
    head = apart(entered(), [*many("d", [1.0, -1.0] * 10), *many("s", [1.0] * 60, selected=True)])
    assert (judge(POLICY, head, 0).kind, judge(POLICY, head, 0).reason) == ("pending", "no_evidence")


def test_selected_groups_alone_and_beside_few_others_go_before_a_person() -> None:
    for drawn in (0, POLICY.min_groups - 1):
        head = apart(entered(), [*many("d", [1.0] * drawn), *many("s", [1.0] * 40, selected=True)])
        assert (judge(POLICY, head, 0).kind, judge(POLICY, head, 0).reason) == ("needs_decision", "selected_rows")


def test_selected_groups_take_no_room_of_a_look_from_the_others() -> None:
    head = apart(entered(), [*many("d", [1.0] * 100), *many("s", [1.0] * 100, selected=True)])
    assert (head.n, head.selected) == (2 * POLICY.max_groups, POLICY.max_groups)


def test_bets_are_fixed_by_old_groups_that_nobody_selected_where_there_are_enough() -> None:
    old = [*many("d", [0.1] * 20), *many("s", [1.0] * 60, selected=True)]
    assert frozen(POLICY, old, "success", apart=True).logw == frozen(POLICY, old[:20], "success").logw
    assert frozen(POLICY, old[1:], "success", apart=True).logw == frozen(POLICY, old[1:], "success").logw


def test_no_difference_in_loss_is_cut_off_before_the_worst_group() -> None:
    made = frozen(POLICY, many("old", [0.07] * 20), "loss", deep=True)
    assert (made.scales["loss"], made.scales["success"]) == (POLICY.worst_group, 1.0)
    assert frozen(EvidencePolicy(worst_group=0.1), many("old", [5.0, -5.0] * 10), "loss", deep=True).scales["loss"] == 2.0


def test_what_wins_a_little_on_all_but_one_group_in_twenty_is_not_promoted() -> None:
    old, new = many("old", [0.07] * 20), many("new", [0.07] * 50)
    seen = noted(noted({}, (each.group for each in old), 0), (each.group for each in new), 1) | {each.group: 0 for each in old}
    head = looked_at(POLICY, entered(), [*old, *new], measure="loss", since=0, first_seen=seen)
    assert (
        judge(POLICY, head, 0).kind == "promote"
    )  # rule version 3: where a loss of 1.3 nats on each twentieth has not shown yet
    deep = looked_at(POLICY, entered(), [*old, *new], measure="loss", since=0, first_seen=seen, deep=True)
    assert judge(POLICY, deep, 0).kind == "pending"


@given(values, st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_groups_that_are_counted_apart_leave_the_state_byte_equal_in_another_order(drawn: list[float], random: Any) -> None:
    groups = [figures(f"g{number}", value, selected=number % 3 == 0) for number, value in enumerate(drawn)]
    shuffled = list(groups)
    random.shuffle(shuffled)
    assert msgspec.json.encode(apart(entered(), groups)) == msgspec.json.encode(apart(entered(), shuffled))
