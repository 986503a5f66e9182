"""Release where evidence decides: what is counted, what is promoted, and what spends the evidence."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_processors.release.evidence_policy import EvidencePolicy
from headrace_processors.release.evidence_state import EvidenceState
from headrace_processors.release.protected import harm_on
from headrace_processors.release.state import evidence_key, seen_key
from headrace_schemas.derived import GroupResult, HeadEvidence, HeadResult, ReleaseDecision, SuiteResult
from support.examples import BUCKET
from support.outcomes import ReleaseRun, digest, evaluation, groups, looked, pause, promote, revoke, roll_back

WON = [1.0] * 20


def run(**policy: Any) -> ReleaseRun:
    return ReleaseRun(rule="evidence", **policy)


def evidence(stage: ReleaseRun) -> EvidenceState:
    state: EvidenceState = stage.state[evidence_key(BUCKET)]
    return state


def only(answer: ReleaseDecision) -> HeadEvidence:
    assert answer.evidence is not None
    [head] = answer.evidence
    return head


def test_what_wins_on_enough_groups_is_promoted_with_its_figures() -> None:
    stage = run()
    kind, answer = stage.answer(looked("v1", v1=groups("g", WON)))
    assert (kind, answer.version_id, answer.evaluation_id) == ("promoted", "v1", "evaluation-v1")
    assert answer.reason == (
        "evidence: success gain 1 on 20 groups in 1 look, evidence 11.5 of 3.69 nats (per_release), "
        "loss not shown worse (-1.93 of 3 nats)"
    )
    head = only(answer)
    assert (head.verdict, head.h, head.cut, head.since, head.alpha, head.groups) == ("promote", 1, 1, -1, 0.025, 20)
    assert next((seen.group, seen.first_seen, seen.x) for seen in head.seen) == ("g0", 1, 1.0)
    assert stage.serving == digest("v1")
    assert (evidence(stage).since, evidence(stage).promotions, evidence(stage).cuts, evidence(stage).pending) == (1, 1, 0, ())


def test_too_little_evidence_is_pending_and_adds_up_over_looks() -> None:
    stage = run()
    kind, answer = stage.answer(looked("v1", v1=groups("a", [1.0] * 9)))
    assert (kind, answer.reason.partition(" ")[0], answer.reason.split(": ")[1]) == ("declined", "pending:", "few_groups")
    assert only(answer).waits
    kind, answer = stage.answer(looked("v2", v1=groups("b", [1.0] * 9), v2=groups("b", [0.0] * 9)))
    assert (kind, answer.version_id) == ("promoted", "v1")
    [newest] = evidence(stage).pending
    assert (newest.version_id, newest.h, newest.n) == ("v2", 1, 0)


def test_a_group_that_comes_again_does_not_count_again() -> None:
    stage = run()
    stage.feed(looked("v1", v1=groups("a", [1.0] * 9)))
    _, answer = stage.answer(looked("v2", v1=groups("a", [1.0] * 9), v2=groups("a", [1.0] * 9)))
    assert answer.evidence is not None
    assert [(head.version_id, head.groups, head.looks, len(head.seen)) for head in answer.evidence] == [
        ("v1", 9, 2, 0),
        ("v2", 9, 1, 9),
    ]


def test_a_pool_that_chose_what_is_served_pays_nobody_else() -> None:
    stage = run()
    _, first = stage.answer(looked("v1", v1=groups("g", WON)))
    kind, answer = stage.answer(looked("v2", first.release_id, v2=groups("g", WON)))
    assert (kind, only(answer).groups, only(answer).old_groups) == ("declined", 0, 20)
    kind, _ = stage.answer(looked("v3", first.release_id, v3=groups("n", WON)))
    assert kind == "promoted"


@pytest.mark.parametrize("what", ["promote", "roll back", "revoke"])
def test_what_a_person_changes_spends_the_evidence(what: str) -> None:
    stage = run()
    _, first = stage.answer(looked("v1", v1=groups("g", WON)))
    stage.feed(looked("v2", first.release_id, v2=groups("a", [1.0] * 9)))
    stage.feed({"promote": promote("v2"), "roll back": roll_back(), "revoke": revoke("v1")}[what])
    state = evidence(stage)
    assert (state.since, state.pending, state.promotions, state.cuts) == (3, (), 1, 1)
    _, answer = stage.answer(looked("v3", stage.current, v3=[*groups("a", [1.0] * 9), *groups("b", [1.0] * 11)]))
    assert (only(answer).groups, only(answer).h) == (11, 2)


def test_rows_that_failure_selected_go_before_a_person_unless_the_policy_accepts_them() -> None:
    chosen = groups("g", WON, selected=True)
    kind, answer = run().answer(looked("v1", v1=chosen))
    assert (kind, answer.reason.startswith("needs_decision: selected_rows: success gain 1 on 20 groups where our model")) == (
        "declined",
        True,
    )
    kind, answer = run(evidence={"accept_selected_rows": True}).answer(looked("v1", v1=chosen))
    assert (kind, "where our model was corrected" in answer.reason) == ("promoted", True)


def test_an_evaluation_without_groups_goes_before_a_person_who_may_promote_it() -> None:
    stage = run()
    kind, answer = stage.answer(evaluation("v1"))
    assert (kind, answer.reason.startswith("needs_decision: no_groups")) == ("declined", True)
    kind, answer = stage.answer(promote("v1"))
    assert (kind, answer.reason.startswith("requested although the gate said needs_decision: no_groups")) == ("promoted", True)


def test_an_invalid_head_is_declined_and_leaves() -> None:
    stage = run()
    result = HeadResult(version_id="v1", groups=groups("g", WON), invalid="identical: it answers as what is served")
    kind, answer = stage.answer(evaluation("v1", measure="success", heads=[result]))
    assert (kind, answer.reason.startswith("invalid: identical")) == ("declined", True)
    assert evidence(stage).pending == ()


@pytest.mark.parametrize("reason", ["same_answers: as what is served", "self_graded: by its only rater"])
@pytest.mark.parametrize("version", [3, 4])
def test_what_can_not_be_judged_yet_ends_no_chain_since_version_4(reason: str, version: int) -> None:
    stage = run(version=version)
    stage.feed(looked("v1", v1=groups("a", [1.0] * 5)))
    older, newest = (
        HeadResult(version_id=name, groups=groups("b", WON[:2]), invalid=why) for name, why in (("v1", None), ("v2", reason))
    )
    kind, answer = stage.answer(evaluation("v2", measure="success", heads=[older, newest]))
    assert (kind, answer.reason.partition(": success")[0]) == ("declined", f"invalid: {reason}")
    waiting = [head.version_id for head in answer.evidence or () if head.waits]
    if version == 3:
        assert (waiting, evidence(stage).pending, evidence(stage).since) == ([], (), 2)
    else:
        assert waiting == [head.version_id for head in evidence(stage).pending] == ["v1"]
        assert evidence(stage).since == -1


def test_harm_declines_and_a_useless_gain_too() -> None:
    kind, answer = run().answer(looked("v1", v1=groups("g", WON, loss=-1.0)))
    assert (kind, answer.reason.partition(":")[0]) == ("declined", "harm")
    kind, answer = run().answer(looked("v1", v1=groups("g", [-1.0] * 20 + [0.0] * 20, loss=0.0)))
    assert (kind, answer.reason.partition(":")[0]) == ("declined", "no_useful_gain")


def test_a_newest_head_that_harms_ends_the_row_as_the_learner_begins_again() -> None:
    stage = run()
    stage.feed(looked("v1", v1=groups("a", [1.0] * 5)))
    _, answer = stage.answer(looked("v2", v1=groups("b", [0.0] * 60), v2=groups("b", [1.0] * 60, loss=-1.0)))
    assert answer.reason.startswith("harm: success gain")
    assert [(head.version_id, head.waits) for head in answer.evidence or ()] == [("v1", False), ("v2", False)]
    state = evidence(stage)
    assert (state.pending, state.since, state.cuts) == ((), 2, 2)
    _, answer = stage.answer(looked("v3", v3=[*groups("b", [1.0] * 30), *groups("c", [1.0] * 12)]))
    assert (only(answer).groups, only(answer).h) == (12, 3)


def test_manual_mode_and_pause_leave_a_head_that_passes_to_a_person() -> None:
    stage = run(mode="manual")
    kind, answer = stage.answer(looked("v1", v1=groups("g", WON)))
    assert (kind, answer.reason.partition(":")[0], only(answer).verdict) == ("declined", "awaiting_promotion", "promote")
    assert stage.answer(promote("v1"))[1].reason == "requested"
    stage = run()
    stage.feed(pause())
    kind, answer = stage.answer(looked("v1", v1=groups("g", WON)))
    assert (kind, answer.reason.startswith("paused: ")) == ("declined", True)
    assert evidence(stage).pending[0].version_id == "v1"


def test_another_policy_of_those_who_made_it_begins_the_count_anew() -> None:
    stage = run()
    stage.feed(looked("v1", v1=groups("a", [1.0] * 9)))
    results = [HeadResult(version_id=name, groups=groups("b", [1.0] * 9)) for name in ("v1", "v2")]
    _, answer = stage.answer(evaluation("v2", measure="loss", heads=results))
    assert only(answer).version_id == "v2"
    assert (only(answer).groups, only(answer).h, evidence(stage).since) == (9, 2, 1)


def test_a_promotion_that_turns_out_to_harm_is_said_and_not_undone() -> None:
    stage = run()
    _, first = stage.answer(looked("v1", v1=groups("g", WON)))
    watched = groups("w", [0.0] * 30, loss=-1.0)
    heads = [HeadResult(version_id="v2", groups=groups("w", [0.0] * 30))]
    _, answer = stage.answer(evaluation("v2", first.release_id, measure="success", heads=heads, watched=watched))
    assert answer.watch is not None
    assert (answer.watch.version_id, answer.watch.proposed, answer.watch.groups) == ("v1", True, 30)
    assert answer.reason.endswith("; roll back: what is served loses more than what was served before it, on 30 groups")
    assert stage.serving == digest("v1")


def test_a_group_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="stands twice"):
        run().feed(looked("v1", v1=[*groups("g", [1.0]), *groups("g", [1.0])]))


def test_where_older_rules_served_something_nothing_seen_with_the_first_look_counts() -> None:
    stage = ReleaseRun()
    _, first = stage.answer(evaluation("v1"))
    newer = run()
    newer.state.update(stage.state)
    kind, answer = newer.answer(looked("v2", first.release_id, v2=groups("g", WON)))
    assert (kind, only(answer).groups) == ("declined", 0)


outcomes = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d", "e"]), st.lists(st.sampled_from([-1.0, 0.0, 1.0, 1.0]), min_size=1, max_size=30)
    ),
    min_size=1,
    max_size=8,
)


@given(outcomes, st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_groups_in_another_order_leave_state_and_answers_equal(drawn: list[tuple[str, list[float]]], random: Any) -> None:
    stages = run(), run(through_dump=True)
    for number, (prefix, gains) in enumerate(drawn):
        found = groups(prefix, gains)
        shuffled = list(found)
        random.shuffle(shuffled)
        for stage, given_groups in zip(stages, (found, shuffled), strict=True):
            pending = stage.state.get(evidence_key(BUCKET), EvidenceState()).pending
            results = {head.version_id: given_groups for head in pending} | {f"v{number}": given_groups}
            heads = [HeadResult(version_id=name, groups=list(found)) for name, found in results.items()]
            stage.feed(evaluation(f"v{number}", stage.current, measure="success", heads=heads))
    assert stages[0].state == stages[1].state
    assert stages[0].written("releases.history") == stages[1].written("releases.history")


def test_groups_that_were_drawn_promote_beside_those_that_feedback_selected() -> None:
    stage = run()
    found = [*groups("d", [1.0] * 12), *groups("s", [0.5] * 30, selected=True)]
    kind, answer = stage.answer(looked("v1", v1=found))
    assert (kind, answer.reason.startswith("evidence: success gain 1 on 12 groups in 1 look")) == ("promoted", True)
    head = only(answer)
    assert (head.groups, head.selected, head.apart, len(head.seen), sum(seen.selected for seen in head.seen)) == (
        12,
        0,
        30,
        42,
        30,
    )


def test_by_rule_version_3_one_selected_group_keeps_a_head_from_being_promoted() -> None:
    found = [*groups("d", [1.0] * 30), *groups("s", [1.0], selected=True)]
    kind, answer = run(version=3).answer(looked("v1", v1=found))
    assert (kind, answer.reason.startswith("needs_decision: selected_rows")) == ("declined", True)
    assert run().answer(looked("v1", v1=found))[0] == "promoted"
    assert only(answer).apart is None


def suite(name: str, gains: list[float], *, loss: bool = False, protected: bool = True) -> SuiteResult:
    tasks = [
        GroupResult(group=f"{name}{n}", rows=1, loss_gain=gain if loss else None, success_gain=None if loss else gain)
        for n, gain in enumerate(gains)
    ]
    return SuiteResult(name=name, sha256=digest(name), protected=protected, tasks=tasks)


def asked(version: str, gains: list[float], *suites: SuiteResult, id: str | None = None) -> bytes:
    """An evaluation with these gains on its groups, and these suites."""
    head = HeadResult(version_id=version, groups=groups("g", gains), suites=list(suites))
    return evaluation(version, id=id, measure="success", heads=[head])


def test_a_head_that_is_shown_worse_on_a_protected_suite_is_declined_whatever_it_gains() -> None:
    stage = run()
    kind, answer = stage.answer(asked("v1", WON, suite("refunds", [-1.0] * 8 + [0.0] * 12)))
    assert (kind, answer.reason.split(" ")[:3]) == ("declined", ["harm:", "suite", "refunds:"])
    assert (only(answer).verdict, only(answer).waits) == ("declined", False)
    assert (evidence(stage).pending, evidence(stage).since) == ((), 1), "the learner begins again from what is served"


def test_a_head_that_looks_worse_on_few_tasks_of_a_protected_suite_goes_before_a_person() -> None:
    stage = run()
    kind, answer = stage.answer(asked("v1", WON, suite("refunds", [-1.0] * 5)))
    assert kind == "declined"
    assert answer.reason.startswith("needs_decision: protected: suite refunds: success gain 1 on 20 groups")
    assert only(answer).waits
    kind, answer = stage.answer(promote("v1"))
    assert kind == "promoted"


@pytest.mark.parametrize(
    "harmless",
    [
        suite("refunds", [-1.0] * 9, protected=False),
        suite("refunds", [-1.0] * 9 + [1.0] * 9),
        suite("refunds", [-0.005] * 40),
        suite("refunds", [-0.01] * 40, loss=True),
        suite("refunds", [-1.0] * 4),
        suite("refunds", [], protected=False),
    ],
)  # fmt: skip
def test_a_suite_that_tells_nothing_keeps_nobody_from_being_served(harmless: SuiteResult) -> None:
    assert run().answer(asked("v1", WON, harmless))[0] == "promoted"


def test_a_protected_suite_of_which_no_task_could_be_asked_sends_a_head_to_a_person() -> None:
    unasked = (suite("docs", [0.0] * 9), suite("refunds", []))
    kind, answer = run().answer(asked("v1", WON, *unasked))
    assert kind == "declined"
    assert answer.reason.startswith("needs_decision: protected: suite refunds, of which no task could be asked: success gain 1")
    assert only(answer).waits
    assert run(version=4).answer(asked("v1", WON, *unasked))[0] == "promoted"
    harmed = run().answer(asked("v1", WON, suite("refunds", []), suite("docs", [-1.0] * 20)))[1]
    assert harmed.reason.startswith("harm: suite docs"), "what is shown goes before what is not known"


def test_losses_speak_of_a_suite_that_nobody_graded() -> None:
    kind, answer = run().answer(asked("v1", WON, suite("docs", [0.1] * 40), suite("refunds", [-0.4] * 20, loss=True)))
    assert (kind, answer.reason.split(":")[:2]) == ("declined", ["harm", " suite refunds"])
    kind, answer = run().answer(asked("v1", WON, suite("refunds", [-0.04] * 6, loss=True)))
    assert answer.reason.startswith("needs_decision: protected: suite refunds")


def test_the_same_tasks_asked_again_add_nothing_up() -> None:
    """A suite is the same at every look: what is lost on it once is not lost twice."""
    stage = run()
    for number in range(6):
        kind, answer = stage.answer(asked("v1", [], suite("refunds", [-1.0] * 4 + [0.0] * 4), id=f"look-{number}"))
        assert (kind, only(answer).reason) == ("declined", "few_groups")


def test_chance_seldom_harms_a_head_on_a_suite_of_tasks_that_go_either_way() -> None:
    draw, policy = random.Random(7), EvidencePolicy()
    looks = [[suite(name, [draw.choice([-1.0, 0.0, 1.0]) for _ in range(40)]) for name in "abc"] for _ in range(2000)]
    harms = [harm for suites in looks if (harm := harm_on(policy, suites)) is not None]
    assert sum(harm.shown for harm in harms) <= policy.beta * 2000
    assert len(harms) <= policy.beta * 2000 * 1.3, "three standard deviations above"


def test_margins_are_counted_where_they_are_the_measure_and_selected_ones_go_before_a_person() -> None:
    def told(selected: bool) -> bytes:
        found = [
            GroupResult(group=f"g{number}", rows=1, margin_gain=0.5, loss_gain=0.0, selected=selected) for number in range(20)
        ]
        return evaluation("v1", measure="margin", heads=[HeadResult(version_id="v1", groups=found)])

    kind, answer = run().answer(told(selected=False))
    assert (kind, only(answer).measure, only(answer).groups) == ("promoted", "margin", 20)
    kind, answer = run().answer(told(selected=True))
    assert (kind, answer.reason.split(":")[:2]) == ("declined", ["needs_decision", " selected_rows"])


def remembered(stage: ReleaseRun) -> set[str]:
    return {key.split(":")[1] for key in stage.state if key.startswith("seen:")}


def test_groups_that_were_looked_at_longest_ago_are_forgotten_and_the_state_is_bounded() -> None:
    stage = run(remembered_groups=40)
    for number in range(30):
        stage.answer(looked(f"v{number}", **{f"v{number}": [*groups("always", [0.1] * 2), *groups(f"of-{number}-", [0.1] * 5)]}))  # type: ignore[arg-type]
        assert len(remembered(stage)) <= 44
        assert stage.state[f"bucket:{BUCKET}"].groups == len(remembered(stage)), "it knows how many there are"
    found = remembered(stage)
    assert {"always0", "always1"} <= found, "they are in every look"
    assert {f"of-29-{number}" for number in range(5)} <= found
    assert not any(group.startswith("of-0-") for group in found)
    assert stage.state[seen_key("always0", BUCKET)].position == 1


def test_until_rule_version_5_no_group_is_forgotten() -> None:
    stage = run(version=4, remembered_groups=10)
    for number in range(30):
        stage.answer(looked(f"v{number}", **{f"v{number}": groups(f"of-{number}-", [0.1] * 5)}))  # type: ignore[arg-type]
    assert len(remembered(stage)) == 150
    assert stage.state[f"bucket:{BUCKET}"].groups == 0


def test_groups_of_another_bucket_are_not_forgotten() -> None:
    stage = run(remembered_groups=10)
    other = "docs:" + BUCKET  # ends like the first
    stage.feed(
        evaluation("o1", bucket=other, measure="success", heads=[HeadResult(version_id="o1", groups=groups("o", [0.1] * 9))])
    )
    for number in range(9):
        stage.answer(looked(f"v{number}", **{f"v{number}": groups(f"of-{number}-", [0.1] * 5)}))  # type: ignore[arg-type]
    assert {f"o{number}" for number in range(9)} <= remembered(stage)
    assert len(remembered(stage)) <= 9 + 11
