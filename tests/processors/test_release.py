"""Each kind of evaluation and command, and its one answer."""

from __future__ import annotations

import pytest

from headrace_processors.stages import STAGES
from support.examples import BUCKET, rewarded
from support.outcomes import Released, digest, evaluation, pause, promote, resume, revoke, roll_back


def promoted(*versions: str) -> tuple[Released, list[str]]:
    """A tape on which these versions were promoted one after the other, and their release ids."""
    tape, ids = Released(), []
    for version in versions:
        kind, answer = tape.answer(evaluation(version, tape.current))
        assert kind == "promoted"
        ids.append(answer.release_id)
    return tape, ids


def test_a_version_that_is_surely_better_is_promoted() -> None:
    tape = Released()
    kind, answer = tape.answer(evaluation("v1", wins=30, losses=12))
    assert kind == "promoted"
    assert (answer.sequence, answer.bucket, answer.artifact_type, answer.base) == (1, BUCKET, "sql", "tiny")
    assert answer.adapter is not None
    assert (answer.adapter.digest, answer.version_id, answer.evaluation_id) == (digest("v1"), "v1", "evaluation-v1")
    assert (answer.batch_ids, answer.parent_release_id, answer.request_id) == (["batch-v1"], None, "evaluated-v1")
    assert answer.reason == "gate: loss gain 0.2 [0.1, 0.3] on 200 rows, 30 wins, 12 losses"
    assert answer.policy_digests == {
        "curate": digest("curate"), "trainer": digest("trainer"), "release": tape.policy.digest
    }  # fmt: skip
    assert tape.said("releases") == [answer]
    _, second = tape.answer(evaluation("v2", answer.release_id))
    assert (second.sequence, second.parent_release_id) == (2, answer.release_id)


def test_an_answer_names_the_policy_by_the_digest_of_its_body_as_recorded() -> None:
    _, answer = Released(recorded=digest("another year")).answer(evaluation("v1"))
    assert answer.policy_digests["release"] == digest("another year")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"low": 0.0}, "no_gain: loss gain 0.1 [0, 0.2] on 200 rows; the gain's lower bound must be above 0"),
        ({"low": -0.3}, "no_gain: "),
        ({"wins": 10, "losses": 10}, "no_wins: loss gain 0.2 [0.1, 0.3] on 200 rows, 10 wins, 10 losses"),
        ({"wins": 10, "losses": 11}, "no_wins: "),
        ({"n": 29}, "insufficient_evidence: 29 test rows, at least 30 are needed"),
        ({"parent": "r0"}, "stale: it was compared with r0, and base is served now"),
    ],
)
def test_a_version_that_is_not_surely_better_is_declined_with_the_figures(given: dict[str, object], reason: str) -> None:
    tape = Released()
    kind, answer = tape.answer(evaluation("v1", **given))  # type: ignore[arg-type]
    assert (kind, answer.reason.startswith(reason)) == ("declined", True), answer.reason
    assert (answer.version_id, answer.evaluation_id) == ("v1", "evaluation-v1")
    assert (tape.said("releases"), tape.said("examples")) == ([], [])


@pytest.mark.parametrize("given", [{"n": 30}, {"n": 500}, {"wins": 1, "losses": 0}, {"low": 1e-9}])
def test_just_enough_is_enough(given: dict[str, object]) -> None:
    assert Released().answer(evaluation("v1", **given))[0] == "promoted"  # type: ignore[arg-type]


def test_two_that_were_compared_with_the_same_release_are_not_both_promoted() -> None:
    tape, [first] = promoted("v1")
    assert tape.answer(evaluation("v2", first))[0] == "promoted"
    kind, answer = tape.answer(evaluation("v3", first))
    assert (kind, answer.reason.startswith(f"stale: it was compared with {first}")) == ("declined", True)


def test_an_evaluation_against_an_adapter_that_is_served_again_is_not_stale() -> None:
    tape, [first, _] = promoted("v1", "v2")
    tape.feed(roll_back())
    assert tape.answer(evaluation("v3", first))[0] == "promoted"


def test_a_person_promotes_in_manual_mode() -> None:
    tape = Released(mode="manual")
    kind, answer = tape.answer(evaluation("v1"))
    assert (kind, answer.reason.partition(":")[0]) == ("declined", "awaiting_promotion")
    kind, answer = tape.answer(promote("v1", reason="looks good"))
    assert (kind, answer.reason, answer.requested_by) == ("promoted", "requested: looks good", "ann")
    assert (answer.request_id, answer.evaluation_id, tape.serving) == ("promote", "evaluation-v1", digest("v1"))


def test_a_person_may_promote_what_the_gate_declined_and_the_answer_says_so() -> None:
    tape = Released()
    tape.feed(evaluation("v1", n=3))
    _, answer = tape.answer(promote("v1"))
    assert answer.reason == "requested although the gate said insufficient_evidence: 3 test rows, at least 30 are needed"


def test_what_was_never_evaluated_or_is_served_already_is_not_promoted() -> None:
    tape, _ = promoted("v1")
    assert tape.answer(promote("v2", id="p1"))[1].reason == "not_evaluated: version v2 has no evaluation in sql/tiny"
    kind, answer = tape.answer(promote("v1", id="p2"))
    assert (kind, answer.reason.partition(":")[0]) == ("declined", "already_served")
    assert tape.answer(evaluation("v2", bucket="sql/large"))[0] == "promoted"
    assert tape.answer(promote("v2", id="p3"))[0] == "declined"


def test_pause_stops_what_would_happen_by_itself_and_nothing_else() -> None:
    tape = Released()
    kind, answer = tape.answer(pause())
    assert (kind, answer.reason, answer.adapter) == ("paused", "paused: holiday", None)
    assert tape.answer(evaluation("v1"))[1].reason == "paused: the bucket's releases are paused"
    assert tape.answer(evaluation("v2", n=1))[1].reason.startswith("insufficient_evidence")
    assert tape.answer(promote("v1"))[0] == "promoted"
    kind, answer = tape.answer(resume())
    assert (kind, answer.reason, answer.version_id) == ("resumed", "running", "v1")
    assert tape.answer(resume(id="again"))[1].reason == "already running"
    assert tape.answer(evaluation("v3", tape.current))[0] == "promoted"


def test_roll_back_goes_to_the_release_before_and_on_to_the_base() -> None:
    tape, [first, second, _] = promoted("v1", "v2", "v3")
    steps = []
    for number in range(3):
        kind, answer = tape.answer(roll_back(id=f"r{number}", reason="worse"))
        assert kind == "rolledback"
        steps.append((tape.serving, answer.reason))
    assert steps == [
        (digest("v2"), f"requested, to {second}: worse"),
        (digest("v1"), f"requested, to {first}: worse"),
        (None, "requested, to base: worse"),
    ]
    kind, answer = tape.answer(roll_back(id="r3"))
    assert (kind, answer.reason) == ("declined", "nothing_before: the base is served")


def test_roll_back_to_any_release_and_to_the_base() -> None:
    tape, [first, *_] = promoted("v1", "v2", "v3")
    kind, answer = tape.answer(roll_back(first, id="a"))
    assert (kind, tape.serving, answer.version_id, answer.evaluation_id) == ("rolledback", digest("v1"), "v1", "evaluation-v1")
    assert answer.release_id != first
    _, answer = tape.answer(roll_back("base", id="b"))
    assert (tape.serving, answer.adapter, answer.version_id, answer.batch_ids) == (None, None, None, [])
    assert tape.answer(roll_back("base", id="c"))[1].reason == "already_served: the base is what is served"
    assert tape.answer(roll_back(first, id="d"))[0] == "rolledback"
    assert tape.answer(roll_back("r9", id="e"))[1].reason == "unknown_release: r9 was never served in sql/tiny"


def test_after_a_roll_back_the_way_back_does_not_lead_forward() -> None:
    tape, _ = promoted("v1", "v2")
    tape.feed(roll_back(id="a"), evaluation("v3", tape.current))
    assert tape.serving == digest("v1"), "v3 was compared with v2"
    tape.feed(evaluation("v4", tape.current), roll_back(id="b"), roll_back(id="c"))
    assert tape.serving is None


def test_a_revoked_adapter_that_is_served_gives_way_to_the_newest_before_that_is_not() -> None:
    tape, _ = promoted("v1", "v2", "v3")
    kind, answer = tape.answer(revoke("v2", id="a"))
    assert (kind, answer.version_id, tape.serving) == ("revoked", "v3", digest("v3"))
    assert answer.reason == f"revoked {digest('v2')}, which is not served"
    assert len(tape.said("releases")) == 3
    kind, answer = tape.answer(revoke("v3", id="b", reason="leaks"))
    assert (kind, tape.serving, answer.reason.endswith(": leaks")) == ("revoked", digest("v1"), True)
    tape.feed(revoke("v1", id="c"))
    assert tape.serving is None
    assert tape.said("releases")[-1].adapter is None


def test_what_was_revoked_never_comes_back() -> None:
    tape, [first] = promoted("v1")
    tape.feed(revoke("v1", id="a"), revoke("v2", id="b"))
    reasons = [
        tape.answer(evaluation("v2", tape.current))[1].reason,
        tape.answer(evaluation("v3", tape.current, weights="v1"))[1].reason,
        tape.answer(promote("v1", id="c"))[1].reason,
        tape.answer(roll_back(first, id="d"))[1].reason,
    ]
    assert {reason.partition(":")[0] for reason in reasons} == {"revoked"}
    assert tape.serving is None


def test_an_event_that_comes_twice_is_answered_once() -> None:
    tape, _ = promoted("v1")
    assert tape.feed(evaluation("v1")) == []
    assert tape.counts == {"answered": 2}
    assert tape.answer(evaluation("v1", id="again"))[1].reason.startswith("already_served")


def test_curate_is_told_the_requirements_of_what_is_served() -> None:
    tape = Released()
    tape.feed(evaluation("v1", satisfied=True), evaluation("v2", n=1), roll_back(id="a"))
    told = tape.said("examples")
    assert [(tracking.satisfied, len(tracking.requirements)) for tracking in told] == [(True, 1), (False, 0)]
    assert [tracking.release_id for tracking in told] == [release.release_id for release in tape.said("releases")]
    assert {output.key for output in tape.outputs} == {BUCKET}


def test_curate_is_told_when_what_is_served_is_measured_again() -> None:
    tape, [first] = promoted("v1")
    tape.feed(evaluation("v1", first, satisfied=True, id="b"), evaluation("v1", first, satisfied=True, id="c"))
    tape.feed(evaluation("v2", first), roll_back(id="d"), evaluation("v2", satisfied=True, id="e"))
    served = [release.release_id for release in tape.said("releases")]
    assert [(tracking.release_id, tracking.satisfied) for tracking in tape.said("examples")] == [
        (first, False), (first, True), (served[1], False), (served[2], True),
    ]  # fmt: skip


def test_sequences_count_the_answers_of_a_bucket() -> None:
    tape = Released()
    tape.feed(evaluation("v1", n=1), pause(), evaluation("v1", bucket="code/x"), resume(), evaluation("v2"))
    counted = [(answer.bucket, answer.sequence) for answer in tape.said("releases.history")]
    assert counted == [(BUCKET, 1), (BUCKET, 2), ("code/x", 1), (BUCKET, 3), (BUCKET, 4)]
    assert len({answer.release_id for answer in tape.said("releases.history")}) == 5


def test_another_event_is_an_error() -> None:
    with pytest.raises(ValueError, match="ExampleRewarded"):
        Released().feed(rewarded(1))


def test_the_stage_writes_where_its_row_says() -> None:
    [row] = [stage for stage in STAGES if stage.name == "release"]
    tape, _ = promoted("v1")
    assert {output.topic for output in tape.outputs} <= set(row.outputs)
    assert not tape.fold.tick_due(tape.state)
