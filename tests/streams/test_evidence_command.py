"""`headrace evidence`, by decisions of the release stage: what waits, what is needed, what has spent it."""

from __future__ import annotations

import msgspec

from headrace_cli.evidence import lines, summary
from headrace_streams.release_log import Decision
from support.examples import BUCKET
from support.outcomes import ReleaseRun, evaluation, groups, looked, promote


def told(stage: ReleaseRun, *records: bytes) -> list[Decision]:
    decisions = []
    for record in records:
        kind, answer = stage.answer(record)
        decisions.append(Decision(kind, "", answer))  # type: ignore[arg-type]
    return decisions


def test_heads_that_wait_are_shown_with_what_they_have_and_need() -> None:
    stage = ReleaseRun(rule="evidence")
    found = summary(BUCKET, told(stage, looked("v1", v1=groups("a", [1.0, 0.0, 0.0] * 4))))
    [head] = found["heads"]
    assert (found["claim"], found["measure"], found["serving"], found["spent_by"]) == ("per_release", "success", None, None)
    assert (head["version_id"], head["waits"], head["groups"], head["h"], head["looks"]) == ("v1", True, 12, 1, 1)
    assert 0 < head["capital"] < head["needed"]
    assert head["groups_still_needed"] > 10
    [first, *_] = shown = lines(found)
    assert first == "sql/tiny: 1 of 1 heads wait for evidence; success, per_release"
    assert f"about {head['groups_still_needed']} more" in shown[1]
    assert msgspec.json.encode(found)


def test_what_changes_what_is_served_has_spent_the_evidence() -> None:
    stage = ReleaseRun(rule="evidence")
    found = summary(BUCKET, told(stage, looked("v1", v1=groups("a", [1.0] * 9)), promote("v1")))
    assert (found["serving"], found["spent_by"]["kind"], [head["waits"] for head in found["heads"]]) == (
        "v1",
        "promoted",
        [False],
    )
    assert lines(found)[-1].startswith("  spent: #2 promoted, requested")


def test_a_bucket_of_older_rules_has_no_evidence() -> None:
    found = summary(BUCKET, told(ReleaseRun(), evaluation("v1")))
    assert (found["heads"], found["serving"]) == ([], "v1")
    assert lines(found) == ["sql/tiny: nothing was counted yet: no evaluation had groups, or the policy's rule is gate"]
