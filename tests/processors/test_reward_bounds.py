"""What one record may cost the reward stage, and for how long it is kept: texts apart, whole statements, portions, expiry."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_processors.reward import erasure, keys, scoring, similarity
from headrace_processors.reward.policy import RewardPolicy
from headrace_processors.reward.state import REPEAT_LIMIT, STATEMENTS_LIMIT, InteractionState
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode
from headrace_schemas.derived import Example, Withdrawal
from headrace_schemas.events import ExampleRewarded, ExampleWithdrawn, SignalRejected
from headrace_schemas.inputs import VOICE_LIMIT
from headrace_streams.runtime.step import Processed
from headrace_streams.testing import MemoryTask
from support.signals import (
    START_MS,
    accounted,
    feedback,
    feedback_retracted,
    interaction,
    interaction_retracted,
    subject_erased,
    without_figures,
)

[REWARD] = [stage for stage in STAGES if stage.name == "reward"]
DAY_MS = 86_400_000
USER: dict[str, Any] = {"principal": {"id": "u", "kind": "human"}}


def task(**policy: Any) -> MemoryTask:
    return MemoryTask(REWARD, "signals", RewardPolicy(**policy))


def fed(run: MemoryTask, *records: bytes, at_ms: int = START_MS) -> list[Processed]:
    return [run.feed(value, at_ms=at_ms) for value in records]


def examples(*steps: Processed) -> list[Example | Withdrawal]:
    found = [decode(produced.value) for done in steps for produced in done.produced if produced.topic == "examples"]
    assert all(isinstance(event, ExampleRewarded | ExampleWithdrawn) for event in found)
    return [event.data for event in found]  # type: ignore[misc]


def rejections(*steps: Processed) -> list[tuple[str, str, str]]:
    found = [decode(produced.value) for done in steps for produced in done.produced if produced.topic == "rejections"]
    return [
        (event.data.interaction_id, event.data.event_id, event.data.reason)
        for event in found
        if isinstance(event, SignalRejected)
    ]


def case_of(run: MemoryTask, interaction_id: str = "i1") -> InteractionState:
    return msgspec.json.decode(run.dumped()[keys.INTERACTION + interaction_id], type=InteractionState)


def kinds(run: MemoryTask) -> set[str]:
    return {key.partition("/")[0] for key in run.dumped()}


def written(done: Processed) -> int:
    """Bytes that a record adds to the changelog."""
    return sum(len(key) + len(value or b"") for key, value in done.dumped.items())


# texts out of the case


def test_a_feedback_rewrites_no_text() -> None:
    run = task()
    fed(run, interaction(prompt="p" * 300_000, output="o" * 300_000, context="c" * 300_000))
    for number in range(6):
        fed(run, feedback(f"c{number}", kind="user_correction", corrected_output=f"{number}" * 300_000, minute=number))
    (done,) = fed(run, feedback("f1", kind="explicit_negative", minute=20))
    assert len(examples(done)) == 1
    assert written(done) < 3_000
    assert len(run.dumped()[keys.INTERACTION + "i1"]) < 3_000


def test_an_ordinary_case_is_under_1_kb() -> None:
    run = task()
    fed(run, interaction("0198c0de-0000-7000-8000-000000000001", data_subject="bob"))
    for number in range(3):
        fed(
            run,
            feedback(f"0198c0de-0000-7000-8000-00000000001{number}", "0198c0de-0000-7000-8000-000000000001", score=70 + number),
        )
    assert len(run.dumped()[keys.INTERACTION + "0198c0de-0000-7000-8000-000000000001"]) < 1024


def test_an_event_of_many_tiny_objects_costs_its_bytes() -> None:
    """As objects 1 MiB of them took 31 MB."""
    run = task()
    (done,) = fed(run, interaction(tools=[{"name": "t", "parameters": [{}] * 300_000}]))
    assert all(isinstance(value, bytes) for value in done.changes.values())
    assert written(done) < 1024 * 1024


def test_texts_go_when_nothing_names_them() -> None:
    run = task()
    fed(run, interaction(), feedback("f1", kind="preference", over=["i2"], corrected_output="secret"))
    assert kinds(run) == {"interaction", "content", "correction", "over", "shares"}
    fed(run, feedback_retracted("f1"))
    assert kinds(run) == {"interaction", "content", "shares"}
    fed(run, feedback("f2", kind="user_correction", corrected_output="secret"), interaction_retracted())
    assert kinds(run) == {"interaction", "shares"}


def test_two_corrections_with_one_text_share_it_until_both_are_gone() -> None:
    run = task()
    fed(run, interaction(), *(feedback(name, kind="user_correction", corrected_output="select 2") for name in ("f1", "f2")))
    assert sum(key.startswith(keys.CORRECTION) for key in run.dumped()) == 1
    (done,) = fed(run, feedback_retracted("f1"))
    [example] = examples(done)
    assert isinstance(example, Example)
    assert example.content.target == "select 2"
    fed(run, feedback_retracted("f2"))
    assert not any(key.startswith(keys.CORRECTION) for key in run.dumped())


def test_a_similarity_is_computed_once_for_a_pair_of_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    real = similarity.similarity

    def counted(output: str, corrected: str, **how: Any) -> float:
        asked.append((output, corrected))
        return real(output, corrected, **how)

    monkeypatch.setattr(scoring, "similarity", counted)
    run = task()
    fed(run, interaction(), feedback("f1", kind="user_correction", corrected_output="select 2"))
    run.restart()
    for number in range(5):
        fed(run, feedback(f"g{number}", score=number * 10, minute=3))
    assert asked == [("select 1", "select 2")]
    (done,) = fed(run, feedback("f2", kind="user_correction", corrected_output="select 3", minute=9))
    assert asked == [("select 1", "select 2"), ("select 1", "select 3")]
    assert len(examples(done)) == 1


# whole statements


def test_the_newest_correction_is_taken_whatever_others_wrote() -> None:
    """A thousand statements that each name a thousand interactions were 100 MB of state, and the honest one was a dead letter."""
    run = task()
    fed(run, interaction())
    names = [f"{number:03}" + "x" * 197 for number in range(900)]
    for number in range(40):
        over = [f"{number}-{name[:190]}" for name in names]
        (done,) = fed(run, feedback(f"p{number:02}", kind="preference", over=over, minute=number))
        assert done.counters.get("dead") is None
    (done,) = fed(run, feedback("honest", kind="user_correction", corrected_output="select 2", minute=50))
    [example] = examples(done)
    assert isinstance(example, Example)
    assert example.content.target == "select 2"
    state = run.dumped()
    assert sum(map(len, state.values())) < STATEMENTS_LIMIT + 64 * 1024
    assert max(map(len, state.values())) < 256 * 1024


TEXTS = st.sampled_from([0, 10, 400_000, 900_000])
STATEMENTS = st.tuples(TEXTS, TEXTS, st.integers(0, 9), st.sampled_from([None, "u", "v"]), st.booleans())


@settings(max_examples=40, deadline=None)
@given(st.lists(STATEMENTS, max_size=14))
def test_what_is_kept_of_one_interaction_is_bounded_and_counted_whole(
    statements: list[tuple[int, int, int, str | None, bool]],
) -> None:
    run = task()
    fed(run, interaction())
    for number, (text, over, minute, who, retracted) in enumerate(statements):
        fields: dict[str, Any] = {"principal": {"id": who, "kind": "human"}} if who else {}
        if text:
            fields["corrected_output"] = str(number) * text
        if over:
            fields["over"] = [f"{number}-{index}-{'y' * 180}" for index in range(min(1000, over // 190 + 1))]
        fed(run, feedback(f"f{number}", kind="preference" if over else "rating", minute=minute, **fields))
        if retracted:
            fed(run, feedback_retracted(f"f{number}"))
        case, state = case_of(run), run.dumped()
        texts = {key: len(value) for key, value in state.items() if key.startswith((keys.CORRECTION, keys.OVER))}
        assert sum(texts.values()) <= STATEMENTS_LIMIT
        assert sum(said.size for said in case.feedback) <= STATEMENTS_LIMIT
        assert len(case.feedback) <= VOICE_LIMIT * REPEAT_LIMIT
        named = {keys.correction_key("i1", said.corrected) for said in case.feedback if said.corrected is not None}
        assert texts.keys() == named | {keys.over_key("i1", said.over) for said in case.feedback if said.over is not None}
    assert accounted(run.counters)


def test_a_change_below_rounding_is_no_revision() -> None:
    run = task()
    fed(run, interaction(), feedback("f1", score=70, **USER))
    assert examples(*fed(run, feedback("f2", score=70.0000000001, minute=2, **USER))) == []
    assert len(examples(*fed(run, feedback("f3", score=70.001, minute=3, **USER)))) == 1


@given(
    st.tuples(st.floats(-1.7e308, 1.7e308), st.floats(-1.7e308, 1.7e308)).filter(lambda scale: scale[0] < scale[1]),
    st.floats(0, 1),
)
def test_a_score_is_finite_whatever_its_scale(scale: tuple[float, float], share: float) -> None:
    low, high = scale
    score = min(high, max(low, low * (1 - share) + high * share))
    run = task()
    (*_, done) = fed(run, interaction(), feedback("f1", kind="rating", score=score, scale=[low, high]))
    [example] = examples(done)
    assert isinstance(example, Example)
    assert example.score is not None
    assert -1e-9 <= example.score <= 100 + 1e-9
    outcome = case_of(run).outcome
    assert outcome is not None
    assert None not in (outcome.quality, outcome.reward, outcome.validation, outcome.score)
    run.restart()


# erasure


def subjects(run: MemoryTask, count: int, *, subject: str = "bob", prefix: str = "i") -> None:
    for number in range(count):
        fed(run, interaction(f"{prefix}{number}", data_subject=subject, prompt="secret text"))


def test_an_erasure_goes_by_ids_and_not_by_what_a_restart_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "PORTION", 2)
    run, other = task(), task()
    for each, order in ((run, (3, 1, 2)), (other, (2, 3, 1))):
        for number in order:
            fed(each, interaction(f"i{number}", data_subject="bob"), feedback(f"f{number}", f"i{number}"))
    done, same = fed(run, subject_erased("bob"))[0], fed(other, subject_erased("bob"))[0]
    assert [example.interaction_id for example in examples(done)] == ["i1", "i2"]
    assert [produced[:4] for produced in done.produced] == [produced[:4] for produced in same.produced]
    assert done.dumped == same.dumped


def test_a_large_erasure_is_ended_by_records_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "PORTION", 10)
    run = task(expire_after_days=0)
    subjects(run, 35)
    subjects(run, 3, subject="eve", prefix="e")
    fed(run, subject_erased("bob"))
    assert sum(b"secret" in value for value in run.dumped().values()) == 25 + 3
    assert len(run.deadlines) == 3
    before = run.dumped()
    fed(run, subject_erased("bob"))  # delivered again: what is under way goes on, nothing else
    assert run.dumped() == before
    for done in run.let_pass(START_MS + 1):
        assert len(done.changes) <= 2 * 10 + 2
    assert not run.deadlines
    assert sum(b"secret" in value for value in run.dumped().values()) == 3
    assert kinds(run) == {"interaction", "content", "subject"}
    assert accounted(run.counters)


def test_what_an_erasure_has_still_to_come_to_is_as_good_as_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "PORTION", 1)
    run = task()
    for number in (1, 2, 3):
        fed(run, interaction(f"i{number}", data_subject="bob", prompt="secret text"), feedback(f"f{number}", f"i{number}"))
    fed(run, subject_erased("bob"))
    late = feedback("late", "i3", kind="user_correction", corrected_output="secret text")
    (done,) = fed(run, late)
    [withdrawal] = examples(done)
    assert isinstance(withdrawal, Withdrawal)
    assert (withdrawal.interaction_id, withdrawal.reason) == ("i3", "erased")
    assert rejections(*fed(run, interaction("i2", data_subject="bob", prompt="secret text"))) == [
        ("i2", "interaction-i2", "erased")
    ]
    new = interaction("i9", data_subject="bob", minute=99)
    fed(run, new, feedback("f9", "i9"))
    assert [example.interaction_id for example in examples(*run.let_pass(START_MS + 1))] == ["i2"]
    assert b"secret" not in b"".join(run.dumped().values())
    assert case_of(run, "i9").outcome is not None  # said after the erasure, so a new fact


WORDS = [
    *(interaction(f"i{number}", data_subject="bob", prompt="secret text") for number in range(4)),
    *(feedback(f"f{number}", f"i{number}", kind="user_correction", corrected_output="secret text") for number in range(4)),
    feedback_retracted("f1", "i1"),
    interaction_retracted("i2"),
    subject_erased("bob"),
]
LET_PASS = b"let pass"


@settings(max_examples=100)
@given(st.lists(st.sampled_from([*WORDS, LET_PASS]), max_size=25))
def test_an_erasure_in_portions_leaves_what_one_in_a_single_step_does(records: list[bytes]) -> None:
    outcomes: list[tuple[set[str], set[Any], int]] = []
    for portion in (1, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(erasure, "PORTION", portion)
            run = task(expire_after_days=0)
            steps: list[Processed] = []
            for value in records:
                steps += run.let_pass(START_MS) if value is LET_PASS else fed(run, value)
            while run.deadlines:
                steps += run.let_pass(START_MS)
            standing = {example.interaction_id: example for example in examples(*steps)}
            left = {name for name, example in standing.items() if isinstance(example, Example)}
            if subject_erased("bob") in records:
                assert b"secret" not in b"".join(run.dumped().values()) or records[-1] is not subject_erased("bob")
            outcomes.append((set(run.dumped()), left, run.counters.get("waiting", 0)))
            assert accounted(run.counters)
    assert outcomes[0] == outcomes[1]


# expiry


def test_what_nothing_is_heard_of_expires_by_fold_time() -> None:
    run = task(expire_after_days=10)
    fed(run, interaction("never said"))
    fed(run, feedback("f1", "never came", kind="user_correction", corrected_output="text", comment="c"))
    fed(run, feedback("f1", "never came").replace(b"people:test", b"people:else"), feedback_retracted("f2", "never came"))
    assert without_figures(run.counters) == {"in": 4, "applied": 1, "waiting": 3}
    assert run.let_pass(START_MS + 10 * DAY_MS - 1) == []
    done = run.let_pass(START_MS + 10 * DAY_MS)
    assert rejections(*done) == [("never came", "f1", "expired")] * 2
    assert without_figures(run.counters) == {"in": 6, "applied": 3, "waiting": 0, "expired": 3}
    assert run.dumped() == {}


def test_each_record_about_it_puts_expiry_off() -> None:
    run = task(expire_after_days=10)
    fed(run, interaction())
    fed(run, feedback("f1"), at_ms=START_MS + 9 * DAY_MS)
    assert run.overdue(START_MS + 18 * DAY_MS) == ()
    fed(run, feedback("f1"), at_ms=START_MS + 18 * DAY_MS)  # a repetition is no news
    assert len(run.overdue(START_MS + 19 * DAY_MS)) == 1


def test_an_expiry_that_is_not_true_any_more_changes_nothing() -> None:
    run = task(expire_after_days=10)
    fed(run, interaction())
    [early] = run.overdue(START_MS + 10 * DAY_MS)
    fed(run, feedback("f1"), at_ms=START_MS + 10 * DAY_MS)
    before = run.dumped()
    value = msgspec.json.encode(early.value)
    assert fed(run, value, at_ms=START_MS + 11 * DAY_MS)[0].produced == []
    assert run.dumped() == before
    fed(run, value.replace(b'"i1"', b'"nobody"'))
    assert run.dumped() == before
    assert accounted(run.counters)


def test_of_an_expired_example_there_is_left_what_withdraws_it_and_names_what_comes_too_late() -> None:
    run = task(expire_after_days=10)
    correction = feedback("f1", kind="user_correction", corrected_output="secret text")
    fed(run, interaction(prompt="secret text", data_subject="bob"), correction)
    run.let_pass(START_MS + 10 * DAY_MS)
    state = run.dumped()
    assert kinds(run) == {"interaction", "shares"}
    assert len(state[keys.INTERACTION + "i1"]) < 200
    assert not run.deadlines
    done = fed(run, interaction(), feedback("f9"), feedback_retracted("f1"))
    assert rejections(*done) == [("i1", "interaction-i1", "expired"), ("i1", "f9", "expired"), ("i1", "f1", "expired")]
    assert run.dumped() == state
    assert without_figures(run.counters) == {"in": 6, "applied": 3, "expired": 3}
    assert examples(*done) == []
    retracted, again = fed(run, interaction_retracted(), interaction_retracted())
    [withdrawal] = examples(retracted)
    assert isinstance(withdrawal, Withdrawal)
    assert (withdrawal.reason, withdrawal.revision, withdrawal.bucket) == ("retracted", 2, "sql/tiny")
    assert rejections(again) == [("i1", "retracted-i1", "duplicate")]


def test_an_expired_example_is_withdrawn_when_its_subject_is_erased() -> None:
    run = task(expire_after_days=10)
    fed(run, interaction(data_subject="bob"), feedback("f1"))
    run.let_pass(START_MS + 10 * DAY_MS)
    first, second = fed(run, subject_erased("bob"), subject_erased("bob", minute=5))
    [withdrawal] = examples(first)
    assert isinstance(withdrawal, Withdrawal)
    assert (withdrawal.reason, withdrawal.revision) == ("erased", 2)
    assert examples(second) == []


def test_even_that_goes_when_the_policy_says_so() -> None:
    run = task(expire_after_days=10, forget_after_days=30)
    fed(run, interaction(data_subject="bob"), feedback("f1"))
    run.let_pass(START_MS + 10 * DAY_MS)
    assert run.let_pass(START_MS + 39 * DAY_MS) == []
    assert len(run.let_pass(START_MS + 40 * DAY_MS)) == 1
    assert kinds(run) == {"shares"}


def test_a_retracted_interaction_does_not_come_back_after_it_expired() -> None:
    run = task(expire_after_days=10)
    fed(run, interaction(), interaction_retracted())
    run.let_pass(START_MS + 10 * DAY_MS)
    assert rejections(*fed(run, interaction(), feedback("f1"))) == [("i1", "interaction-i1", "expired"), ("i1", "f1", "expired")]


def test_a_preference_over_a_thousand_invented_ids_leaves_nothing_for_ever() -> None:
    run = task(expire_after_days=10)
    for number in range(1000):
        fed(run, feedback("f1", f"invented-{number}", "preference", under="i1"))
    assert without_figures(run.counters) == {"in": 1000, "waiting": 1000}
    assert sum(len(key) + len(value) for key, value in run.dumped().items()) < 300 * 1000
    run.let_pass(START_MS + 10 * DAY_MS)
    assert run.dumped() == {}
    assert without_figures(run.counters) == {"in": 2000, "applied": 1000, "waiting": 0, "expired": 1000}


def test_without_a_period_nothing_expires() -> None:
    run = task(expire_after_days=0)
    fed(run, interaction(), feedback("f1"), feedback("f2", "i2"))
    assert not run.deadlines


VOCABULARY = [
    interaction("i1", data_subject="bob"),
    interaction("i2", prompt="secret text"),
    feedback("f1", score=90),
    feedback("f4", kind="user_correction", corrected_output="select 2"),
    feedback("f6", "i2", kind="preference", over=["i1"]),
    feedback("f7", "i3"),
    feedback_retracted("f1"),
    feedback_retracted("f6", "i2"),
    feedback_retracted("f9", "i2"),
    interaction_retracted("i2"),
    interaction_retracted("i4"),
    subject_erased("bob"),
]


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from([*VOCABULARY, LET_PASS]), st.integers(0, 8)), max_size=20), st.sampled_from([0.0, 20.0])
)
def test_whatever_expires_when_everything_is_in_one_counter_and_no_text_is_left_over(
    records: list[tuple[bytes, int]], forget: float
) -> None:
    run = task(expire_after_days=10, forget_after_days=forget)
    now = START_MS
    ids: set[bytes] = set()
    for value, days in records:
        now += days * DAY_MS
        steps = run.let_pass(now) if value is LET_PASS else fed(run, value, at_ms=now)
        for done in steps:
            for produced in done.produced:
                if produced.topic == "examples":
                    name = msgspec.json.decode(produced.value)["id"].encode()
                    assert name not in ids or forget, "an event's id stands for one event"
                    ids.add(name)
        state = run.dumped()
        cases = {key.removeprefix(keys.INTERACTION): case_of(run, key[12:]) for key in state if key.startswith(keys.INTERACTION)}
        assert run.counters.get("waiting", 0) == sum(case.waiting for case in cases.values())
        assert accounted(run.counters)
        for key in state:
            if key.startswith(keys.CONTENT):
                case = cases[key.removeprefix(keys.CONTENT)]
                assert case.recorded
                assert not case.ended
                assert not case.expired
            if key.startswith((keys.CORRECTION, keys.OVER)):
                assert key.split("/")[1] in cases
    for _ in range(3):
        now += 60 * DAY_MS
        run.let_pass(now)
    assert run.counters.get("waiting", 0) == 0
    assert {key.partition("/")[0] for key in run.dumped()} <= {"interaction", "subject", "shares"}
