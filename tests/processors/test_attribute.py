"""What is said of a session is credited to its interactions: which, how much, and that nothing is left when it is taken back."""

from __future__ import annotations

from collections import Counter
from math import fsum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_processors.attribute.policy import AttributePolicy
from headrace_processors.attribute.state import WORDS_BYTES
from headrace_processors.intake.policy import IntakePolicy
from headrace_processors.policy_file import PolicyError, load
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode
from headrace_schemas.events import FeedbackRecorded, FeedbackRetracted, RecordRejected
from headrace_streams.runtime.step import Processed
from headrace_streams.testing import START_MS, MemoryTask
from support.examples import examples_of
from support.signals import at, event, feedback, interaction

DAY = 86_400_000
STAGE = {stage.name: stage for stage in STAGES}
Credits = dict[str, float]


def task(credit: str = "all", **policy: Any) -> MemoryTask:
    return MemoryTask(STAGE["attribute"], "sessions", AttributePolicy.model_validate({"credit": credit, **policy}))


def joined(name: str, minute: float = 0, session: str = "s1") -> bytes:
    return event("session.joined", {"session_id": session, "interaction_id": name}, id=f"j{session}{name}", minute=minute)


def said(name: str = "f1", /, minute: float = 9, session: str = "s1", kind: str = "success", **data: Any) -> bytes:
    fields = {"session_id": session, "feedback_id": name, "kind": kind, **data}
    return event("session_feedback.recorded", fields, id=f"e{name}", source="people:test", minute=minute)


def unsaid(name: str = "f1", session: str = "s1", minute: float = 10) -> bytes:
    fields = {"session_id": session, "feedback_id": name}
    return event("session_feedback.retracted", fields, id=f"u{name}", source="people:test", minute=minute)


class Signals:
    """What the derived feedback comes to, as reward would hear it."""

    def __init__(self) -> None:
        self.standing: dict[tuple[str, str], FeedbackRecorded] = {}
        self.seen: set[str] = set()

    def take(self, *processed: Processed) -> None:
        for produced in (each for one in processed for each in one.produced):
            found = decode(produced.value, produced.headers)
            assert produced.topic == "signals"
            assert isinstance(found, FeedbackRecorded | FeedbackRetracted)
            assert found.id not in self.seen
            self.seen.add(found.id)
            key = produced.key.decode(), found.data.feedback_id or ""
            assert found.data.interaction_id == key[0]
            if isinstance(found, FeedbackRecorded):
                assert key not in self.standing
                self.standing[key] = found
            else:
                assert self.standing.pop(key).source == found.source

    def credits(self, name: str = "f1") -> Credits:
        found = [each.data for each in self.standing.values()]
        return {
            data.interaction_id or "": data.attributed_from.share
            for data in found
            if data.attributed_from is not None and data.attributed_from.feedback_id == name
        }


def run(stage: MemoryTask, *values: bytes) -> Signals:
    signals = Signals()
    for value in values:
        signals.take(stage.feed(value))
    return signals


@pytest.mark.parametrize(
    ("policy", "shares"),
    [
        ({"credit": "last"}, {"i3": 1.0}),
        ({"credit": "all"}, {"i1": 1 / 3, "i2": 1 / 3, "i3": 1 / 3}),
        ({"credit": "all", "window": 2}, {"i2": 0.5, "i3": 0.5}),
        ({"credit": "decay"}, {"i3": 4 / 7, "i2": 2 / 7, "i1": 1 / 7}),
        ({"credit": "decay", "decay": 0.25, "window": 2}, {"i3": 0.8, "i2": 0.2}),
    ],
)
def test_policy_says_which_interactions_are_credited_and_how_much(policy: dict[str, Any], shares: Credits) -> None:
    found = run(task(**policy), joined("i1", 1), joined("i3", 3), joined("i2", 2), joined("i4", 10), said())
    assert found.credits() == pytest.approx(shares)


def test_feedback_is_derived_with_all_that_it_says_under_an_id_and_a_name_of_its_own() -> None:
    who = {"id": "ada", "kind": "human"}
    found = run(task(), joined("i1"), joined("i2"), said(score=80, name="goal", comment="done", principal=who, mystery=[1]))
    assert len(found.standing) == 2
    assert len({key[1] for key in found.standing}) == 2
    for derived in found.standing.values():
        assert derived.source == "people:test"
        assert derived.time == at(9)
        assert (derived.data.score, derived.data.comment, derived.data.name) == (80, "done", "session:goal")
        assert derived.data.principal is not None
        assert derived.data.attributed_from is not None
        assert derived.data.attributed_from.session_id == "s1"


def test_what_a_field_says_that_nobody_knows_is_passed_on() -> None:
    [produced] = [*task_fed(joined("i1"), said(mystery=[1]))]
    data = msgspec.json.decode(produced.value)["data"]
    assert data["mystery"] == [1]
    assert "session_id" not in data


def task_fed(*values: bytes) -> list[Any]:
    stage = task()
    return [produced for value in values for produced in stage.feed(value).produced]


def test_an_outcome_that_names_an_interaction_credits_that_one_and_those_before_it() -> None:
    found = run(task(), joined("i1", 1), joined("i2", 2), joined("i3", 3), said(interaction_id="i2"))
    assert found.credits() == {"i1": 0.5, "i2": 0.5}
    stage = task()
    assert run(stage, said(interaction_id="i9"), joined("i1", 1)).credits() == {}
    assert stage.counters["waiting"] == 1


def test_a_corrected_output_is_that_of_the_last_interaction_alone() -> None:
    found = run(task(), joined("i1", 1), joined("i2", 2), said(kind="user_correction", corrected_output="select 2"))
    assert found.credits() == {"i2": 1.0}


def test_what_had_not_happened_yet_is_not_credited() -> None:
    assert run(task(), joined("i1", 1), joined("late", 20), said(minute=9)).credits() == {"i1": 1.0}


def test_who_turns_up_later_is_credited_and_the_others_less() -> None:
    stage = task()
    found = run(stage, said(), joined("i1", 1))
    assert found.credits() == {"i1": 1.0}
    found.take(stage.feed(joined("i2", 2)))
    assert found.credits() == {"i1": 0.5, "i2": 0.5}
    assert dict(stage.counters) == {"in": 3, "waiting": 0, "joined": 2, "credited": 1}


@pytest.mark.parametrize("order", [("f", "u"), ("u", "f")])
def test_a_retraction_takes_back_all_that_was_derived_whichever_came_first(order: tuple[str, str]) -> None:
    stage = task("decay")
    found = run(stage, joined("i1", 1), joined("i2", 2), *({"f": said(), "u": unsaid()}[name] for name in order))
    assert found.standing == {}
    assert (stage.counters.get("retracted", 0) + stage.counters.get("credited", 0), stage.counters.get("waiting", 0)) == (2, 0)
    assert [key for key in stage.dumped() if "f1" in key] == []
    found.take(stage.feed(said()), stage.feed(unsaid()), stage.feed(joined("i3", 3)))
    assert found.standing == {}
    assert stage.counters["duplicate"] == 2


def test_repeated_and_contradicted_words_are_told_apart() -> None:
    stage = task()
    run(stage, joined("i1"), joined("i1"), said(), said(), said(kind="rating"))
    assert dict(stage.counters) == {"in": 5, "joined": 1, "credited": 1, "duplicate": 2, "conflict": 1}


def test_two_sessions_know_nothing_of_each_other() -> None:
    found = run(task(), joined("i1"), joined("o1", session="s2"), said())
    assert found.credits() == {"i1": 1.0}


def test_what_is_known_of_a_session_is_bounded() -> None:
    stage = task("decay", window=64)
    found = run(stage, *(joined(f"i{number}", number / 100) for number in range(200)), said())
    assert len(found.credits()) == 64
    assert fsum(found.credits().values()) == pytest.approx(1)
    letters = [stage.feed(said(f"g{number}")).produced for number in range(70)]
    rejected = [decode(found.value) for produced in letters for found in produced if found.topic == "dead-letters"]
    assert len(rejected) == 7
    assert {letter.data.error.code for letter in rejected if isinstance(letter, RecordRejected)} == {"waiting_limit"}
    assert max(len(value) for value in stage.dumped().values()) < 1_000_000


def test_what_is_said_of_a_session_has_room_for_so_many_bytes() -> None:
    """Another order of its interactions derives all of it anew, for each of them: 64 words of a megabyte would be gigabytes."""
    stage = task("all", window=64)
    run(stage, *(joined(f"i{number}", number / 100) for number in range(64)))
    letters = [each for number in range(9) for each in stage.feed(said(f"f{number}", mystery="x" * 300_000)).produced]
    assert [each.topic for each in letters].count("dead-letters") == 9 - WORDS_BYTES // 300_000
    assert sum(len(each.value) for each in stage.feed(joined("first", -1)).produced) < 70 * WORDS_BYTES
    stage.feed(unsaid("f0"))
    assert [each.topic for each in stage.feed(said("again", mystery="x" * 300_000)).produced] == ["signals"] * 64


def test_an_outcome_keeps_its_credits_when_the_session_goes_on_beyond_what_is_known_of_it() -> None:
    stage = task("all")
    found = run(stage, joined("a", 1), joined("b", 2), said(), said("f2", interaction_id="b"))
    found.take(*(stage.feed(joined(f"i{number}", 20 + number)) for number in range(100)))
    assert found.credits() == {"a": 0.5, "b": 0.5}
    assert found.credits("f2") == {"a": 0.5, "b": 0.5}
    found.take(stage.feed(unsaid()), stage.feed(unsaid("f2")))
    assert found.standing == {}


def test_a_session_of_which_nothing_is_heard_expires_with_what_waits_and_what_was_derived_stands() -> None:
    stage = task(expire_after_days=2)
    found = run(stage, joined("i1"), said(), said("f2", session="s2"), unsaid("f9", session="s3"))
    assert stage.let_pass(START_MS + DAY) == []
    ends = stage.let_pass(START_MS + 3 * DAY)
    assert [one.produced for one in ends] == [[], [], []]
    assert stage.dumped() == {}
    assert dict(stage.counters) == {"in": 7, "joined": 1, "credited": 1, "waiting": 0, "ticks": 3, "expired": 2}
    assert found.credits() == {"i1": 1.0}


def test_an_expiry_that_is_not_true_any_more_changes_nothing() -> None:
    stage = task(expire_after_days=2)
    run(stage, joined("i1"))
    [due] = stage.overdue(START_MS + 3 * DAY)
    stage.feed(joined("i2"), at_ms=START_MS + 2 * DAY)
    before = stage.dumped()
    stage.feed(msgspec.json.encode(due.value), at_ms=START_MS + 3 * DAY)
    assert stage.dumped() == before


RECORDS = [
    *(joined(f"i{number}", minute) for number, minute in ((1, 1), (2, 2), (3, 3), (4, 20))),
    *(said("f1"), said("f2", 2.5), said("f3", interaction_id="i2"), said("f4"), unsaid("f4")),
]


@given(st.permutations(RECORDS), st.sampled_from(["last", "all", "decay"]), st.integers(0, 9))
def test_the_order_of_arrival_does_not_matter_for_what_stands(records: list[bytes], credit: str, restarts: int) -> None:
    stage, signals = task(credit), Signals()
    for number, value in enumerate(records):
        signals.take(stage.feed(value))
        if number == restarts:
            stage.restart()
        counted = Counter(stage.counters)
        assert counted["in"] == sum(count for name, count in counted.items() if name != "in")
        for name in ("f1", "f2", "f3", "f4"):
            shares = list(signals.credits(name).values())
            assert not shares or fsum(shares) == pytest.approx(1, abs=1e-9)
    expected = run(task(credit), *RECORDS)
    assert [signals.credits(name) for name in ("f1", "f2", "f3", "f4")] == [
        expected.credits(name) for name in ("f1", "f2", "f3", "f4")
    ]
    assert signals.credits("f4") == {}
    assert stage.counters["waiting"] == 0 if "waiting" in stage.counters else True


@given(st.lists(st.sampled_from(RECORDS), max_size=25))
def test_repetitions_change_nothing_and_everything_is_counted_once(records: list[bytes]) -> None:
    stage, signals = task("decay"), Signals()
    for value in records:
        signals.take(stage.feed(value))
    once = Signals()
    other = task("decay")
    for value in dict.fromkeys(records):
        once.take(other.feed(value))
    assert {name: signals.credits(name) for name in ("f1", "f2", "f3", "f4")} == {
        name: once.credits(name) for name in ("f1", "f2", "f3", "f4")
    }
    assert stage.counters.get("in", 0) == sum(count for name, count in stage.counters.items() if name != "in")


# intake


def intake(topic: str, sessions: bool | None = True) -> MemoryTask:
    return MemoryTask(STAGE["intake"], topic, IntakePolicy(sessions=sessions))


def written(stage: MemoryTask, value: bytes) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (each.topic, each.key.decode(), msgspec.json.decode(each.value))
        for each in stage.feed(value, at_ms=START_MS + DAY).produced
    ]


def test_intake_tells_a_session_of_its_interactions_where_somebody_credits() -> None:
    value = interaction(session_id="s1")
    [signal, (topic, key, tree)] = written(intake("interactions"), value)
    assert (signal[0], topic, key) == ("signals", "sessions", "s1")
    assert (tree["type"], tree["data"]) == ("headrace.session.joined.v1", {"session_id": "s1", "interaction_id": "i1"})
    assert [topic for topic, _, _ in written(intake("interactions", None), value)] == ["signals"]
    assert [topic for topic, _, _ in written(intake("interactions"), interaction())] == ["signals"]


def test_a_session_is_called_alike_by_its_interactions_and_by_what_is_said_of_it() -> None:
    """An address in it is scrubbed, and sessions stay apart."""
    name = "ada@example.org/7"
    [_, (_, one, _)] = written(intake("interactions"), interaction(session_id=name))
    [(topic, other, tree)] = written(intake("feedback"), feedback("f1", None, session_id=name))
    assert (topic, one, tree["data"]["session_id"]) == ("sessions", other, one)
    assert "ada" not in one


def test_feedback_on_a_session_is_checked_scrubbed_and_goes_to_sessions() -> None:
    value = feedback("f1", None, session_id="s1", comment="write to ada@example.org", mystery=1)
    [(topic, key, tree)] = written(intake("feedback"), value)
    assert (topic, key, tree["type"]) == ("sessions", "s1", "headrace.session_feedback.recorded.v1")
    assert tree["data"]["comment"] == "write to [EMAIL_1]"
    assert tree["data"]["mystery"] == 1
    assert "interaction_id" not in tree["data"]
    [(_, _, tree)] = written(intake("feedback"), feedback(session_id="s1"))
    assert tree["data"]["interaction_id"] == "i1"
    fields = {"session_id": "s1", "feedback_id": "f1"}
    [(topic, key, tree)] = written(intake("feedback"), event("feedback.retracted", fields))
    assert (topic, key, tree["type"]) == ("sessions", "s1", "headrace.session_feedback.retracted.v1")


@pytest.mark.parametrize(
    ("value", "code", "field"),
    [
        (feedback("f1", None, session_id="s" * 201), "over_limit", "data.interaction_id"),
        (feedback("f1", None, session_id=""), "missing", None),
        (feedback("f1", None, session_id=7), "missing", "data.interaction_id"),
        (feedback("f1", None, session_id="s1", score=7, scale=[0, 5]), "out_of_range", "data.score"),
        (feedback("f1", None, "preference", session_id="s1", over=["i2"]), "bad_value", "data.session_id"),
    ],
)
def test_what_is_wrong_with_it_is_a_dead_letter(value: bytes, code: str, field: str | None) -> None:
    [(topic, _, tree)] = written(intake("feedback"), value)
    assert topic == "dead-letters"
    error = tree["data"]["error"]
    assert field is None or (error["code"], error.get("field")) == (code, field)


def test_without_a_policy_that_credits_nothing_about_sessions_changes() -> None:
    [(topic, _, tree)] = written(intake("feedback", None), feedback("f1", None, session_id="s1"))
    assert (topic, tree["data"]["error"]["code"]) == ("dead-letters", "missing")
    [(topic, key, tree)] = written(intake("feedback", None), feedback(session_id="s1"))
    assert (topic, key, tree["data"]["session_id"]) == ("signals", "i1", "s1")


def test_intake_hears_of_it_by_the_same_file(tmp_path: Any) -> None:
    file = tmp_path / "policy.toml"
    for text, sessions in (("", None), ('[attribute]\ncredit = "all"\n', True)):
        file.write_text(text)
        assert load(file).intake.sessions is sessions


def test_what_is_said_of_sessions_is_not_sealed_and_a_policy_that_wants_both_is_refused(tmp_path: Any) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('[attribute]\ncredit = "all"\n[intake]\nseal = "subjects"\n')
    with pytest.raises(PolicyError, match=r"attribute.credit: .*; with intake.seal = 'subjects' it must be off$"):
        load(file)
    file.write_text('[intake]\nseal = "subjects"\nsessions = true\n')
    with pytest.raises(PolicyError, match=r"several people, .* and seal is 'subjects': leave one off"):
        load(file)


# reward


def attributed(share: float, name: str = "d1", kind: str = "explicit_positive", **data: Any) -> bytes:
    source = {"session_id": "s1", "feedback_id": "f1", "share": share}
    return feedback(name, "i1", kind, name="session", attributed_from=source, **data)


def test_what_an_interaction_is_credited_with_counts_by_its_share() -> None:
    [whole] = examples_of(interaction(), feedback("f1", "i1", "explicit_positive", score=90))
    [half] = examples_of(interaction(), attributed(0.5, score=90))
    assert half["components"]["validation"] == pytest.approx(whole["components"]["validation"] / 2)
    assert half["components"]["feedback"] == pytest.approx(whole["components"]["feedback"] / 2)
    assert half["score"] == 90
    [first] = examples_of(attributed(0.5, score=90), interaction())
    assert first["reward"] == half["reward"]


def test_a_word_on_the_interaction_itself_stands_beside_the_same_persons_word_on_the_session() -> None:
    who: dict[str, Any] = {"principal": {"id": "ada", "kind": "human"}}
    found = examples_of(interaction(), feedback("f1", "i1", "explicit_negative", **who), attributed(0.25, minute=5, **who))
    assert found[-1]["voices"] == 2
    assert found[-1]["components"]["feedback"] == pytest.approx((-1.0 + 0.25 * 0.4) / 1.25)


def test_shares_of_feedback_that_falls_out_go_with_it() -> None:
    stage = MemoryTask(STAGE["reward"], "signals")
    stage.feed(interaction())
    for number in range(80):
        stage.feed(attributed(0.5, f"d{number}"))
    case = msgspec.json.decode(stage.dumped()["interaction/i1"])
    assert len(case["attributed"]) == len(case["feedback"]) == 64


def test_what_is_taken_back_leaves_the_example_as_it_was() -> None:
    [before] = examples_of(interaction(), feedback(score=90))
    retraction = event("feedback.retracted", {"feedback_id": "d1", "interaction_id": "i1"}, id="r", source="people:test")
    after = examples_of(interaction(), feedback(score=90), attributed(0.5, kind="explicit_negative"), retraction)
    assert [example["revision"] for example in after] == [1, 2, 3]
    assert after[-1]["reward"] == before["reward"]
    assert after[1]["reward"] < before["reward"]
