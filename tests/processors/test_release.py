"""Each kind of evaluation and command, and its one answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_processors.release.policy import ReleasePolicy
from headrace_processors.stages import STAGES
from headrace_schemas.derived import HeadResult
from headrace_streams.testing import START_MS, MemoryTask
from support.examples import BUCKET, rewarded
from support.outcomes import ReleaseRun, digest, evaluation, pause, promote, resume, revoke, roll_back


def promoted(*versions: str) -> tuple[ReleaseRun, list[str]]:
    """A stage on which these versions were promoted one after the other, and their release ids."""
    stage, ids = ReleaseRun(), []
    for version in versions:
        kind, answer = stage.answer(evaluation(version, stage.current))
        assert kind == "promoted"
        ids.append(answer.release_id)
    return stage, ids


def test_a_version_that_is_surely_better_is_promoted() -> None:
    stage = ReleaseRun()
    kind, answer = stage.answer(evaluation("v1", wins=30, losses=12))
    assert kind == "promoted"
    assert (answer.sequence, answer.bucket, answer.artifact_type, answer.base) == (1, BUCKET, "sql", "tiny")
    assert answer.adapter is not None
    assert (answer.adapter.digest, answer.version_id, answer.evaluation_id) == (digest("v1"), "v1", "evaluation-v1")
    assert (answer.batch_ids, answer.parent_release_id, answer.request_id) == (["batch-v1"], None, "evaluated-v1")
    assert answer.reason == "gate: loss gain 0.2 [0.1, 0.3] on 200 rows, 30 wins, 12 losses"
    assert answer.policy_digests == {
        "curate": digest("curate"), "trainer": digest("trainer"), "release": stage.policy.digest
    }  # fmt: skip
    assert stage.written("releases") == [answer]
    _, second = stage.answer(evaluation("v2", answer.release_id))
    assert (second.sequence, second.parent_release_id) == (2, answer.release_id)


def test_an_answer_names_the_policy_by_the_digest_of_its_body_as_recorded() -> None:
    _, answer = ReleaseRun(recorded=digest("another year")).answer(evaluation("v1"))
    assert answer.policy_digests["release"] == digest("another year")


def test_a_version_that_is_none_passes_no_gate_however_good_it_looks() -> None:
    """One that has learnt what was taken back meanwhile, say. Older rules of the gate did not look at heads."""
    heads = [HeadResult(version_id="v0", groups=[], invalid="not its own"), HeadResult(version_id="v1", groups=[], invalid="why")]
    stage, older = ReleaseRun(), ReleaseRun(version=4)
    kind, answer = stage.answer(evaluation("v1", heads=heads))
    assert (kind, answer.reason) == ("declined", "invalid: why")
    assert stage.answer(promote("v1"))[1].reason == "requested although the gate said invalid: why"
    assert older.answer(evaluation("v1", heads=heads))[0] == "promoted"
    assert ReleaseRun().answer(evaluation("v1", heads=heads[:1]))[0] == "promoted"


@pytest.mark.parametrize("rule", ["gate", "evidence"])
def test_an_answer_names_what_its_version_was_taught_by(rule: str) -> None:
    """Whatever decides, and again when it is served a second time; older rules say nothing of it."""
    named, older = ReleaseRun(rule=rule), ReleaseRun(rule=rule, version=4)
    for stage, taught in ((named, digest("rows")), (older, None)):
        stage.answer(evaluation("v1", dataset_digest=digest("rows")))
        answers = [stage.answer(promote("v1"))[1] if rule == "evidence" else stage.written("releases")[-1]]
        answers.append(stage.answer(evaluation("v2", stage.current, dataset_digest=None))[1])
        if rule == "gate":
            answers.append(stage.answer(roll_back())[1])
        assert [answer.dataset_digest for answer in answers] == [taught, None, taught][: len(answers)]
        assert stage.answer(roll_back("base", id="to-base"))[1].dataset_digest is None


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
    stage = ReleaseRun()
    kind, answer = stage.answer(evaluation("v1", **given))  # type: ignore[arg-type]
    assert (kind, answer.reason.startswith(reason)) == ("declined", True), answer.reason
    assert (answer.version_id, answer.evaluation_id) == ("v1", "evaluation-v1")
    assert (stage.written("releases"), stage.written("examples")) == ([], [])


@pytest.mark.parametrize("given", [{"n": 30}, {"n": 500}, {"wins": 1, "losses": 0}, {"low": 1e-9}])
def test_just_enough_is_enough(given: dict[str, object]) -> None:
    assert ReleaseRun().answer(evaluation("v1", **given))[0] == "promoted"  # type: ignore[arg-type]


def test_two_that_were_compared_with_the_same_release_are_not_both_promoted() -> None:
    stage, [first] = promoted("v1")
    assert stage.answer(evaluation("v2", first))[0] == "promoted"
    kind, answer = stage.answer(evaluation("v3", first))
    assert (kind, answer.reason.startswith(f"stale: it was compared with {first}")) == ("declined", True)


def test_an_evaluation_against_an_adapter_that_is_served_again_is_not_stale() -> None:
    stage, [first, _] = promoted("v1", "v2")
    stage.feed(roll_back())
    assert stage.answer(evaluation("v3", first))[0] == "promoted"


def test_a_person_promotes_in_manual_mode() -> None:
    stage = ReleaseRun(mode="manual")
    kind, answer = stage.answer(evaluation("v1"))
    assert (kind, answer.reason.partition(":")[0]) == ("declined", "awaiting_promotion")
    kind, answer = stage.answer(promote("v1", reason="looks good"))
    assert (kind, answer.reason, answer.requested_by) == ("promoted", "requested: looks good", "ann")
    assert (answer.request_id, answer.evaluation_id, stage.serving) == ("promote", "evaluation-v1", digest("v1"))


def test_a_person_may_promote_what_the_gate_declined_and_the_answer_says_so() -> None:
    stage = ReleaseRun()
    stage.feed(evaluation("v1", n=3))
    _, answer = stage.answer(promote("v1"))
    assert answer.reason == "requested although the gate said insufficient_evidence: 3 test rows, at least 30 are needed"


def test_what_was_never_evaluated_or_is_served_already_is_not_promoted() -> None:
    stage, _ = promoted("v1")
    assert stage.answer(promote("v2", id="p1"))[1].reason == "not_evaluated: version v2 has no evaluation in sql/tiny"
    kind, answer = stage.answer(promote("v1", id="p2"))
    assert (kind, answer.reason.partition(":")[0]) == ("declined", "already_served")
    assert stage.answer(evaluation("v2", bucket="sql/large"))[0] == "promoted"
    assert stage.answer(promote("v2", id="p3"))[0] == "declined"


def test_pause_stops_what_would_happen_by_itself_and_nothing_else() -> None:
    stage = ReleaseRun()
    kind, answer = stage.answer(pause())
    assert (kind, answer.reason, answer.adapter) == ("paused", "paused: holiday", None)
    assert stage.answer(evaluation("v1"))[1].reason == "paused: the bucket's releases are paused"
    assert stage.answer(evaluation("v2", n=1))[1].reason.startswith("insufficient_evidence")
    assert stage.answer(promote("v1"))[0] == "promoted"
    kind, answer = stage.answer(resume())
    assert (kind, answer.reason, answer.version_id) == ("resumed", "running", "v1")
    assert stage.answer(resume(id="again"))[1].reason == "already running"
    assert stage.answer(evaluation("v3", stage.current))[0] == "promoted"


def test_roll_back_goes_to_the_release_before_and_on_to_the_base() -> None:
    stage, [first, second, _] = promoted("v1", "v2", "v3")
    steps = []
    for number in range(3):
        kind, answer = stage.answer(roll_back(id=f"r{number}", reason="worse"))
        assert kind == "rolledback"
        steps.append((stage.serving, answer.reason))
    assert steps == [
        (digest("v2"), f"requested, to {second}: worse"),
        (digest("v1"), f"requested, to {first}: worse"),
        (None, "requested, to base: worse"),
    ]
    kind, answer = stage.answer(roll_back(id="r3"))
    assert (kind, answer.reason) == ("declined", "nothing_before: the base is served")


def test_roll_back_to_any_release_and_to_the_base() -> None:
    stage, [first, *_] = promoted("v1", "v2", "v3")
    kind, answer = stage.answer(roll_back(first, id="a"))
    assert (kind, stage.serving, answer.version_id, answer.evaluation_id) == ("rolledback", digest("v1"), "v1", "evaluation-v1")
    assert answer.release_id != first
    _, answer = stage.answer(roll_back("base", id="b"))
    assert (stage.serving, answer.adapter, answer.version_id, answer.batch_ids) == (None, None, None, [])
    assert stage.answer(roll_back("base", id="c"))[1].reason == "already_served: the base is what is served"
    assert stage.answer(roll_back(first, id="d"))[0] == "rolledback"
    assert stage.answer(roll_back("r9", id="e"))[1].reason == "unknown_release: r9 was never served in sql/tiny"


def test_after_a_roll_back_the_way_back_does_not_lead_forward() -> None:
    stage, _ = promoted("v1", "v2")
    stage.feed(roll_back(id="a"), evaluation("v3", stage.current))
    assert stage.serving == digest("v1"), "v3 was compared with v2"
    stage.feed(evaluation("v4", stage.current), roll_back(id="b"), roll_back(id="c"))
    assert stage.serving is None


def test_a_revoked_adapter_that_is_served_gives_way_to_the_newest_before_that_is_not() -> None:
    stage, _ = promoted("v1", "v2", "v3")
    kind, answer = stage.answer(revoke("v2", id="a"))
    assert (kind, answer.version_id, stage.serving) == ("revoked", "v3", digest("v3"))
    assert answer.reason == f"revoked {digest('v2')}, which is not served"
    assert len(stage.written("releases")) == 3
    kind, answer = stage.answer(revoke("v3", id="b", reason="leaks"))
    assert (kind, stage.serving, answer.reason.endswith(": leaks")) == ("revoked", digest("v1"), True)
    stage.feed(revoke("v1", id="c"))
    assert stage.serving is None
    assert stage.written("releases")[-1].adapter is None


def test_what_was_revoked_never_comes_back() -> None:
    stage, [first] = promoted("v1")
    stage.feed(revoke("v1", id="a"), revoke("v2", id="b"))
    reasons = [
        stage.answer(evaluation("v2", stage.current))[1].reason,
        stage.answer(evaluation("v3", stage.current, weights="v1"))[1].reason,
        stage.answer(promote("v1", id="c"))[1].reason,
        stage.answer(roll_back(first, id="d"))[1].reason,
    ]
    assert {reason.partition(":")[0] for reason in reasons} == {"revoked"}
    assert stage.serving is None


def test_an_event_that_comes_twice_is_answered_once() -> None:
    stage, _ = promoted("v1")
    assert stage.feed(evaluation("v1")) == []
    assert stage.counters == {"answered": 2}
    assert stage.answer(evaluation("v1", id="again"))[1].reason.startswith("already_served")


def test_curate_is_told_the_requirements_of_what_is_served() -> None:
    stage = ReleaseRun()
    stage.feed(evaluation("v1", satisfied=True), evaluation("v2", n=1), roll_back(id="a"))
    told = stage.written("examples")
    assert [(tracking.satisfied, len(tracking.requirements)) for tracking in told] == [(True, 1), (False, 0)]
    assert [tracking.release_id for tracking in told] == [release.release_id for release in stage.written("releases")]
    assert {output.key for output in stage.outputs} == {BUCKET}


def test_curate_is_told_when_what_is_served_is_measured_again() -> None:
    stage, [first] = promoted("v1")
    stage.feed(evaluation("v1", first, satisfied=True, id="b"), evaluation("v1", first, satisfied=True, id="c"))
    stage.feed(evaluation("v2", first), roll_back(id="d"), evaluation("v2", satisfied=True, id="e"))
    served = [release.release_id for release in stage.written("releases")]
    assert [(tracking.release_id, tracking.satisfied) for tracking in stage.written("examples")] == [
        (first, False), (first, True), (served[1], False), (served[2], True),
    ]  # fmt: skip


def test_sequences_count_the_answers_of_a_bucket() -> None:
    stage = ReleaseRun()
    stage.feed(evaluation("v1", n=1), pause(), evaluation("v1", bucket="code/x"), resume(), evaluation("v2"))
    counted = [(answer.bucket, answer.sequence) for answer in stage.written("releases.history")]
    assert counted == [(BUCKET, 1), (BUCKET, 2), ("code/x", 1), (BUCKET, 3), (BUCKET, 4)]
    assert len({answer.release_id for answer in stage.written("releases.history")}) == 5


def test_another_event_is_an_error() -> None:
    with pytest.raises(ValueError, match="ExampleRewarded"):
        ReleaseRun().feed(rewarded(1))


def test_the_stage_writes_where_its_row_says() -> None:
    [row] = [stage for stage in STAGES if stage.name == "release"]
    stage, _ = promoted("v1")
    assert {output.topic for output in stage.outputs} <= set(row.outputs)
    assert not stage.deadlines


DAY_MS = 86_400_000


def answers_to(task: MemoryTask, value: bytes, day: float) -> int:
    processed = task.feed(value, key=BUCKET.encode(), at_ms=START_MS + int(day * DAY_MS))
    return sum(output.topic == "releases.history" for output in processed.produced)


def test_a_request_that_comes_again_is_answered_once_until_the_policy_forgets_it() -> None:
    [stage] = [stage for stage in STAGES if stage.name == "release"]
    task = MemoryTask(stage, "outcomes", ReleasePolicy(expire_after_days=90))
    assert [answers_to(task, pause(), day) for day in (0, 1, 89)] == [1, 0, 0]
    assert answers_to(task, resume(), 91) == 1
    assert [answers_to(task, pause(), day) for day in (92, 93)] == [1, 0]
    assert [answers_to(task, resume(), day) for day in (92, 93)] == [0, 0]


@pytest.mark.parametrize(("days", "most"), [(90.0, 9), (0.0, 60)])
def test_what_is_known_of_answered_requests_is_bounded_by_the_policys_days(days: float, most: int) -> None:
    [stage] = [stage for stage in STAGES if stage.name == "release"]
    task = MemoryTask(stage, "outcomes", ReleasePolicy(expire_after_days=days))
    for number in range(60):
        assert answers_to(task, pause(id=f"p{number}"), number * 10) == 1
        task.restart()
    answered = [key for key in task.dumped() if key.startswith("answered:")]
    assert len(answered) == most
    assert answers_to(task, pause(id="p59"), 600) == 0
    assert answers_to(task, pause(id="p0"), 600) == (1 if days else 0)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9), st.sampled_from([BUCKET, "code/x"])), max_size=40))
def test_requests_of_each_bucket_are_forgotten_in_their_order_and_never_too_soon(requests: list[tuple[int, int, str]]) -> None:
    [stage] = [stage for stage in STAGES if stage.name == "release"]
    task = MemoryTask(stage, "outcomes", ReleasePolicy(expire_after_days=90))
    day = 0
    answered: dict[tuple[str, int], int] = {}
    for days, number, bucket in requests:
        day += days
        again = answers_to(task, evaluation(f"v{number}", bucket=bucket), day)
        if (bucket, number) not in answered or again:
            assert again
            assert day - answered.get((bucket, number), -90) >= 90
            answered[bucket, number] = day
    task.restart()
