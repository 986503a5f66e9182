"""When a label is final: provisional for as long as the kinds of feedback behind it say, final for ever, and late after that."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headrace_processors.reward.policy import RewardPolicy
from headrace_processors.reward.state import InteractionState, settles_of
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode, encode
from headrace_schemas.events import Event, ExampleRewarded, ExampleSettled, ExampleWithdrawn
from headrace_schemas.ids import derive_id
from headrace_streams.runtime.step import Processed
from headrace_streams.testing import START_MS, MemoryTask
from support.examples import BUCKET, CurateRun, rewarded, settled, withdrawn
from support.signals import feedback, feedback_retracted, interaction, interaction_retracted, subject_erased

DAY = 86_400_000
REWARD = next(stage for stage in STAGES if stage.name == "reward")
SETTLE = {"explicit_positive": 7.0, "explicit_negative": 2.0}
Said = tuple[str, int, str | None]  # what a record on examples says: which event, revision, maturity


def task(**policy: Any) -> MemoryTask:
    return MemoryTask(REWARD, "signals", RewardPolicy(**{"settle_after_days": SETTLE, "expire_after_days": 60, **policy}))


def said(*processed: Processed) -> list[Said]:
    return [_said(decode(each.value)) for one in processed for each in one.produced if each.topic == "examples"]


def _said(event: Event) -> Said:
    assert isinstance(event, ExampleRewarded | ExampleWithdrawn | ExampleSettled)
    maturity = event.data.maturity if isinstance(event, ExampleRewarded) else None
    return type(event).__name__.removeprefix("Example").lower(), event.data.revision, maturity


def feed(stage: MemoryTask, value: bytes, days: float = 0.0) -> list[Said]:
    return said(stage.feed(value, at_ms=START_MS + int(days * DAY)))


def wait(stage: MemoryTask, days: float) -> list[Said]:
    return said(*stage.let_pass(START_MS + int(days * DAY)))


def labels(stage: MemoryTask) -> dict[str, int]:
    return {name: count for name, count in stage.counters.items() if name.startswith("label_") and count}


def thumb(name: str = "f1", kind: str = "explicit_positive", **more: Any) -> bytes:
    return feedback(name, "i1", kind, **{"principal": {"id": name, "kind": "human"}, **more})


def test_without_a_settle_policy_no_example_says_how_mature_it_is() -> None:
    stage = task(settle_after_days={})
    feed(stage, interaction())
    assert feed(stage, thumb()) == [("rewarded", 1, None)]
    assert labels(stage) == {}
    assert list(stage.deadlines.values()) == [START_MS + 60 * DAY]


def test_a_label_is_provisional_for_as_long_as_its_kind_of_feedback_says_and_then_final() -> None:
    stage = task()
    feed(stage, interaction())
    assert feed(stage, thumb()) == [("rewarded", 1, "provisional")]
    assert labels(stage) == {"label_provisional": 1}
    assert wait(stage, 6.99) == []
    assert wait(stage, 7) == [("settled", 1, None)]
    assert labels(stage) == {"label_final": 1}
    assert list(stage.deadlines.values()) == [START_MS + 60 * DAY], "only its expiry is left, by what was heard of it"
    assert wait(stage, 8) == []


def test_what_a_kind_says_that_no_time_is_given_for_is_final_at_once() -> None:
    stage = task()
    feed(stage, interaction())
    assert feed(stage, feedback("f1", score=100)) == [("rewarded", 1, "final")]
    assert labels(stage) == {"label_final": 1}


@pytest.mark.parametrize("first", ["interaction", "feedback"])
def test_the_time_begins_when_both_are_there_whichever_came_first(first: str) -> None:
    stage = task()
    early, late = (interaction(), thumb()) if first == "interaction" else (thumb(), interaction())
    feed(stage, early)
    assert feed(stage, late, 3) == [("rewarded", 1, "provisional")]
    assert wait(stage, 9.9) == []
    assert wait(stage, 10) == [("settled", 1, None)]


def test_each_word_prolongs_it_by_the_time_of_its_own_kind() -> None:
    stage = task()
    feed(stage, interaction())
    feed(stage, thumb())
    assert feed(stage, thumb("f2", "explicit_negative"), 1) == [("rewarded", 2, "provisional")]
    assert wait(stage, 6.9) == [], "two days of the second word are over, seven of the first are not"
    assert feed(stage, thumb("f3", "explicit_negative"), 6.9) == [("rewarded", 3, "provisional")]
    assert wait(stage, 8.8) == []
    assert wait(stage, 8.9) == [("settled", 3, None)]


def test_a_word_that_changes_nothing_prolongs_it_too() -> None:
    stage = task()
    feed(stage, interaction())
    feed(stage, thumb())
    assert feed(stage, thumb("f1b", principal={"id": "f1", "kind": "human"}), 3) == []
    assert wait(stage, 9.9) == []
    assert wait(stage, 10) == [("settled", 1, None)]


def test_a_revision_after_that_is_a_revision_and_is_counted_as_late() -> None:
    stage = task()
    feed(stage, interaction())
    feed(stage, thumb())
    wait(stage, 7)
    assert feed(stage, thumb("f2", "explicit_negative"), 8) == [("rewarded", 2, "final")]
    assert labels(stage) == {"label_final": 1, "label_late": 1}
    assert feed(stage, thumb("f3"), 9) == [("rewarded", 3, "final")], "what is final stays final"
    assert labels(stage) == {"label_final": 1, "label_late": 2}


def test_time_passes_by_the_clock_of_the_fold_whether_or_not_anybody_said_so() -> None:
    stage = task()
    feed(stage, interaction())
    feed(stage, thumb())
    assert feed(stage, thumb("f2", "explicit_negative"), 7) == [("rewarded", 2, "final")], "no tick came, and it was due"
    assert labels(stage) == {"label_final": 1, "label_late": 1}
    stage = task()
    feed(stage, interaction())
    feed(stage, thumb())
    assert feed(stage, thumb("f1b", principal={"id": "f1", "kind": "human"}), 7) == [("settled", 1, None)], "nothing changed"


def test_a_tick_that_is_not_true_by_the_folds_own_time_changes_nothing() -> None:
    stage = task()
    feed(stage, interaction())
    feed(stage, thumb())
    [due] = stage.overdue(START_MS + 7 * DAY)
    assert not isinstance(due.value, bytes)
    tick = encode(due.value)
    feed(stage, thumb("f2"), 5)
    before = stage.dumped()
    assert feed(stage, tick, 7) == [], "it was prolonged to the twelfth day meanwhile"
    assert stage.dumped() == before
    assert wait(stage, 12) == [("settled", 2, None)]
    assert feed(stage, tick, 13) == []


def test_who_takes_a_word_back_prolongs_it_and_who_takes_all_back_begins_anew() -> None:
    stage = task()
    feed(stage, interaction())
    feed(stage, thumb())
    feed(stage, thumb("f2", "explicit_negative"), 1)
    assert feed(stage, feedback_retracted("f1"), 5) == [("rewarded", 3, "provisional")]
    assert wait(stage, 11.9) == []
    assert feed(stage, feedback_retracted("f2"), 11.9) == [("withdrawn", 4, None)]
    assert labels(stage) == {}
    assert feed(stage, thumb("f3"), 20) == [("rewarded", 5, "provisional")]
    assert wait(stage, 27) == [("settled", 5, None)]


@pytest.mark.parametrize("end", ["retracted", "erased", "feedback"])
def test_what_is_withdrawn_is_neither_provisional_nor_settled_any_more(end: str) -> None:
    gone = {"retracted": interaction_retracted(), "erased": subject_erased("bob"), "feedback": feedback_retracted()}[end]
    for days in (6, 8):
        stage = task()
        feed(stage, interaction(data_subject="bob"))
        feed(stage, thumb())
        assert feed(stage, gone, days) == [("withdrawn", 2, None)]
        assert labels(stage) == ({"label_final": 1, "label_late": 1} if days == 8 else {})
        assert wait(stage, 50) == []


def test_an_example_whose_interaction_expires_is_final() -> None:
    """A shorter expiry came into force meanwhile: nothing can be said of it any more."""
    stage = task(expire_after_days=10, settle_after_days={"explicit_positive": 10.0})
    feed(stage, interaction())
    feed(stage, thumb())
    stage._body = RewardPolicy(settle_after_days={"explicit_positive": 2.0}, expire_after_days=2).body()
    stage.restart()
    assert wait(stage, 2.1) == [("settled", 1, None)]
    assert labels(stage) == {"label_final": 1}
    assert wait(stage, 20) == []


def test_a_time_that_is_longer_than_anything_is_kept_is_refused() -> None:
    with pytest.raises(ValidationError, match="explicit_positive = 7 days, and expire_after_days forgets after 5"):
        RewardPolicy(settle_after_days=SETTLE, expire_after_days=5)
    assert RewardPolicy(settle_after_days=SETTLE, expire_after_days=0).settle_after_days == SETTLE


def test_a_label_from_before_the_policy_matures_with_the_next_word() -> None:
    stage = task(settle_after_days={})
    feed(stage, interaction())
    feed(stage, thumb())
    stage._body = RewardPolicy(settle_after_days=SETTLE).body()
    stage.restart()
    assert feed(stage, thumb("f2", "explicit_negative"), 1) == [("rewarded", 2, "provisional")]
    assert wait(stage, 3) == [("settled", 2, None)]


WORDS = [
    thumb("f1"),
    thumb("f2", "explicit_negative"),
    feedback("f3", score=90),
    thumb("f4", "explicit_negative", minute=9),
    feedback_retracted("f1"),
]


@given(st.permutations([interaction(), *WORDS[:4]]))
def test_of_records_that_came_together_the_order_does_not_matter(records: list[bytes]) -> None:
    stage = task(settle_after_days={**SETTLE, "success": 1.0})
    for value in records:
        feed(stage, value, 1)
    assert wait(stage, 7.99) == []
    [(kind, _, _)] = wait(stage, 8)
    assert kind == "settled"
    assert labels(stage) == {"label_final": 1}


@given(st.lists(st.tuples(st.sampled_from([interaction(), interaction_retracted(), *WORDS]), st.floats(0, 9)), max_size=9))
def test_provisional_final_and_late_add_up_whatever_happens(steps: list[tuple[bytes, float]]) -> None:
    stage, days = task(), 0.0
    told: list[Said] = []
    for value, passed in steps:
        days += passed
        told += wait(stage, days)
        told += feed(stage, value, days)
        stage.restart()
    told += wait(stage, days + 30)
    counted = labels(stage)
    assert "label_provisional" not in counted, "thirty days later nothing is"
    provisional, settled_ = None, 0
    for kind, revision, maturity in told:
        if kind == "settled":
            assert provisional == revision
            settled_ += 1
        provisional = revision if maturity == "provisional" else None
    revisions = [revision for kind, revision, _ in told if kind != "settled"]
    assert revisions == sorted(set(revisions))
    assert counted.get("label_final", 0) >= settled_


@given(
    st.integers(0, 10**14),
    st.booleans(),
    st.integers(0, 10**14),
    st.sampled_from(["", "d"]),
    st.sampled_from(["", "s"]),
)
def test_when_a_case_settles_is_seen_in_its_bytes(touched: int, expired: bool, settles: int, digest: str, subject: str) -> None:
    case = InteractionState(touched=touched, expired=expired, settles=settles, digest=digest, subject=subject)
    assert settles_of(msgspec.json.encode(case)) == settles


# curate


def provisional(number: int, **changed: Any) -> bytes:
    return rewarded(number, maturity="provisional", **changed)


def test_curate_takes_provisional_examples_unless_its_policy_waits() -> None:
    stage = CurateRun(target_effective_size=2)
    stage.feed(provisional(0), provisional(1))
    assert len(stage.batches) == 1
    stage.feed(settled(0))
    assert stage.superseded == []
    assert stage.counters == {"admitted": 2, "settled": 1}


def test_an_example_that_is_waited_for_comes_in_when_it_is_final() -> None:
    stage = CurateRun(target_effective_size=2, provisional="wait")
    stage.feed(provisional(0), rewarded(1, maturity="final"))
    assert stage.counters == {"waiting": 1, "admitted": 1}
    assert stage.bucket.waiting == 1
    stage.days = 3
    stage.feed(settled(0))
    assert stage.counters == {"admitted": 2, "settled": 1}
    [batch] = stage.batches
    assert [member.revision for member in batch.members] == [1, 1]
    assert stage.bucket.waiting == 0


def test_a_revision_takes_the_place_of_one_that_is_waited_for() -> None:
    stage = CurateRun(target_effective_size=2, provisional="wait")
    stage.feed(provisional(0), provisional(0, revision=2))
    assert stage.counters == {"replaced": 1, "waiting": 1}
    stage.feed(settled(0, revision=1))
    assert stage.counters == {"replaced": 1, "waiting": 1, "settled": 1}, "that was the older one"
    stage.feed(rewarded(0, revision=3, maturity="final"))
    assert stage.counters == {"replaced": 2, "admitted": 1, "settled": 1}
    assert stage.bucket.train.size == 1


def test_what_is_withdrawn_is_waited_for_no_more() -> None:
    stage = CurateRun(target_effective_size=2, provisional="wait")
    stage.feed(provisional(0), withdrawn(0), settled(0))
    assert stage.counters == {"replaced": 1, "withdrawn": 1, "settled": 1}
    assert stage.bucket.waiting == 0


def test_a_member_of_an_open_bucket_leaves_it_when_more_is_expected_of_it() -> None:
    stage = CurateRun(target_effective_size=5, provisional="wait")
    stage.feed(rewarded(0), rewarded(1), provisional(0, revision=2))
    assert stage.bucket.train.size == 1
    stage.feed(settled(0, revision=2))
    assert stage.bucket.train.size == 2


def test_a_contradiction_that_has_settled_waits_for_no_third_voice() -> None:
    stage = CurateRun(target_effective_size=5, provisional="wait", contradictions="wait")
    stage.feed(provisional(0, contradicted=True, voices=2), settled(0))
    assert stage.counters == {"admitted": 1, "settled": 1}


def test_what_never_settles_is_taken_when_it_would_be_forgotten() -> None:
    stage = CurateRun(target_effective_size=5, provisional="wait", keep_days=30)
    stage.feed(provisional(0))
    stage.days = 30
    [due] = stage.fold.overdue(stage.state, [key for key in stage.state if key.startswith("example:")], START_MS)
    assert not isinstance(due.value, bytes)
    stage.feed(encode(due.value))
    assert stage.counters == {"admitted": 1, "ticks": 1}
    assert stage.bucket.waiting == 0


def test_what_settles_of_a_bucket_that_nobody_knows_changes_nothing() -> None:
    stage = CurateRun(provisional="wait")
    stage.feed(settled(7))
    assert stage.counters == {"settled": 1}
    assert f"bucket:{BUCKET}" not in stage.state


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["provisional", "final", "settled", "withdrawn"])), max_size=25))
def test_nothing_that_is_provisional_is_in_a_batch_where_the_policy_waits(steps: list[tuple[int, str]]) -> None:
    stage = CurateRun(target_effective_size=2, provisional="wait", fresh_share=0, through_dump=True)
    revisions: dict[int, int] = {}
    final: dict[tuple[str, int], bool] = {}
    for number, what in steps:
        name = derive_id("example", f"i{number}")
        if what == "settled":
            stage.feed(settled(number, revision=revisions.get(number, 1)))
            final[name, revisions.get(number, 1)] = True
        elif what == "withdrawn":
            revisions[number] = revisions.get(number, 0) + 1
            stage.feed(withdrawn(number, "feedback_retracted", revision=revisions[number]))
        else:
            revisions[number] = revisions.get(number, 0) + 1
            final[name, revisions[number]] = what == "final"
            stage.feed(rewarded(number, revision=revisions[number], maturity=what))
    members = [(member.example_id, member.revision) for batch in stage.batches for member in batch.members]
    assert all(final[member] for member in members)
