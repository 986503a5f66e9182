"""Where a learner stands after what release has answered."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_schemas.derived import HarmEvidence, HeadReference, HeadResult, ReleaseDecision, ServedReference
from headrace_streams.release_log import Decision, Kind
from headrace_trainer.stage.standing import LearnerStanding, after
from support.outcomes import ReleaseRun, digest, evaluation, groups, looked, promote, roll_back

WON = [1.0] * 20


def told(stage: ReleaseRun, *records: bytes) -> list[Decision]:
    decisions = []
    for record in records:
        kind, answer = stage.answer(record)
        decisions.append(Decision("rolled_back" if kind == "rolledback" else kind, "", answer))  # type: ignore[arg-type]
    return decisions


def standing(decisions: list[Decision]) -> LearnerStanding:
    found = LearnerStanding()
    for decision in decisions:
        found = after(found, decision)
    return found


def head(version: str) -> HeadReference:
    return HeadReference(version_id=version, adapter=digest(version))


def test_the_learner_goes_on_from_its_newest_head_whatever_is_served() -> None:
    stage = ReleaseRun(rule="evidence")
    found = standing(told(stage, looked("v1", v1=groups("a", WON[:3]))))
    assert (found.adapter, found.heads, found.served, found.watched) == (digest("v1"), (head("v1"),), None, None)
    useless = told(stage, looked("v2", v1=groups("b", [0.0] * 5), v2=groups("b", [-1.0] * 60, loss=0.0)))
    assert useless[0].data.reason.startswith("no_useful_gain")
    found = after(found, useless[0])
    assert (found.adapter, found.heads, found.restarted) == (digest("v2"), (head("v1"),), False)


def test_after_a_promotion_by_evidence_a_newer_head_goes_on_and_what_was_served_is_watched() -> None:
    stage = ReleaseRun(rule="evidence")
    decisions = told(
        stage, looked("v1", v1=groups("a", WON[:9])), looked("v2", v1=groups("b", WON[:9]), v2=groups("b", [0.0] * 9))
    )
    found = standing(decisions)
    assert (found.served, found.adapter, found.heads) == (digest("v1"), digest("v2"), (head("v2"),))
    assert (found.watched, found.batches) == (ServedReference(), ("batch-v1",))
    [last] = told(stage, looked("v3", stage.current, v3=groups("c", WON)))
    found = after(found, last)
    assert (found.served, found.adapter, found.heads, found.watched) == (
        digest("v3"),
        None,
        (),
        ServedReference(adapter=digest("v1")),
    )


def test_a_head_that_harms_or_is_none_sends_the_learner_back_to_what_is_served() -> None:
    for result in (groups("a", WON * 2, loss=-1.0),):
        [decision] = told(ReleaseRun(rule="evidence"), looked("v1", v1=result))
        found = after(LearnerStanding(adapter=digest("v0")), decision)
        assert (found.adapter, found.heads, found.restarted) == (None, (), True)


@pytest.mark.parametrize(
    ("reason", "ends"), [("same_answers: yet", False), ("self_graded: by its judge", False), ("failed_rows: 9", True)]
)
def test_a_head_that_can_not_be_judged_yet_is_gone_on_from_and_a_broken_one_is_not(reason: str, ends: bool) -> None:
    result = HeadResult(version_id="v1", groups=groups("a", WON), invalid=reason)
    [decision] = told(ReleaseRun(rule="evidence"), evaluation("v1", measure="success", heads=[result]))
    found = after(LearnerStanding(adapter=digest("v0")), decision)
    assert (found.adapter, found.heads, found.restarted) == (None if ends else digest("v1"), (), ends)


def test_what_a_person_changes_sends_the_learner_back_and_all_since_is_learnt_again() -> None:
    stage = ReleaseRun(rule="evidence")
    decisions = told(stage, looked("v1", v1=groups("a", WON)), looked("v2", None, v2=groups("b", [0.0] * 9)))
    parent = stage.current
    decisions += told(stage, looked("v3", parent, v3=groups("c", [0.5] * 9)), roll_back())
    found = standing(decisions)
    assert (found.served, found.adapter, found.heads, found.watched, found.restarted) == (None, None, (), None, True)
    decisions += told(stage, promote("v3"))
    found = standing(decisions)
    assert (found.served, found.adapter, found.watched) == (digest("v3"), None, ServedReference())


def test_decisions_of_older_rules_leave_the_learner_at_what_is_served() -> None:
    stage = ReleaseRun()
    found = standing(told(stage, evaluation("v1"), evaluation("v2", "elsewhere")))
    assert found == LearnerStanding(served=digest("v1"), batches=("batch-v1",))


def test_the_watch_ends_when_release_says_no_more_of_it_or_proposes_a_roll_back() -> None:
    stage = ReleaseRun(rule="evidence")
    [decision] = told(stage, looked("v1", v1=groups("a", [0.0] * 9)))
    before = LearnerStanding(watched=ServedReference(adapter=digest("v0")))

    def watch(**more: Any) -> ReleaseDecision:
        told = HarmEvidence(version_id="v1", looks=1, groups=1, harm=0.0, alarm=3.0, **more)
        return ReleaseDecision(
            **{**{name: getattr(decision.data, name) for name in decision.data.__struct_fields__}, "watch": told}
        )

    kind: Kind = "declined"
    assert after(before, Decision(kind, "", watch())).watched == ServedReference(adapter=digest("v0"))
    assert after(before, Decision(kind, "", watch(proposed=True))).watched is None
    assert after(before, decision).watched is None
