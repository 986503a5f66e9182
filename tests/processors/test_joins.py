"""How much feedback meets its interaction, how many interactions meet feedback, and how long after the answer it comes."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_lake.feedback_status import FeedbackStatus, feedback_status
from headrace_lake.status import StageStatus
from headrace_processors.link.policy import LinkPolicy
from headrace_processors.stages import STAGES
from headrace_schemas.delays import BOUNDS, delays_of, histogram_of, quantile_of
from headrace_streams.testing import MemoryTask
from support.signals import event, feedback, feedback_retracted, interaction, interaction_retracted

STAGE = {stage.name: stage for stage in STAGES}
JIRA = {"system": "jira", "id": "OPS-7"}
KINDS = ("interactions_", "feedback_", "delay_")
NS = 1_000_000_000


def counted(stage: str, topic: str, *values: bytes) -> dict[str, int]:
    task = MemoryTask(STAGE[stage], topic)
    for value in values:
        task.feed(value)
    return {name: count for name, count in task.counters.items() if name.startswith(KINDS) and count}


def reward(*values: bytes) -> dict[str, int]:
    return counted("reward", "signals", *values)


def link(*values: bytes) -> dict[str, int]:
    return counted("link", "refs", *values)


def linked(name: str = "i1", minute: float = 0) -> bytes:
    return event("interaction.linked", {"interaction_id": name, "ref": JIRA}, id=f"link-{name}", minute=minute)


def on_ref(name: str, minute: float = 1) -> bytes:
    return feedback(name, None, ref=JIRA, minute=minute)


def test_an_interaction_counts_and_counts_as_joined_once_something_is_said_of_it() -> None:
    assert reward(interaction("i1"), interaction("i2")) == {"interactions_seen": 2}
    found = reward(interaction("i1"), interaction("i2"), feedback(minute=2), feedback("f2", minute=60))
    assert found == {
        "interactions_seen": 2,
        "interactions_joined": 1,
        "feedback_seen": 2,
        "feedback_joined": 2,
        "delay_300s": 1,
        "delay_3600s": 1,
        "delay_sum_ms": 62 * 60_000,
    }


def test_feedback_without_its_interaction_is_seen_and_not_joined() -> None:
    assert reward(feedback("f1", "nobody")) == {"feedback_seen": 1}


def test_what_is_repeated_is_counted_once_and_what_is_known_to_be_gone_not_at_all() -> None:
    once = reward(interaction(), feedback())
    assert reward(interaction(), feedback(), interaction(), feedback()) == once
    assert reward(interaction(), feedback(), feedback_retracted()) == once
    assert reward(interaction(), interaction_retracted(), feedback()) == {"interactions_seen": 1}


@given(st.permutations([interaction("i1"), interaction("i2"), feedback("f1", minute=3), feedback("f2"), feedback("f3", "i3")]))
def test_the_order_does_not_matter_for_any_of_it(records: list[bytes]) -> None:
    found = reward(*records)
    assert found == {
        "interactions_seen": 2,
        "interactions_joined": 1,
        "feedback_seen": 3,
        "feedback_joined": 2,
        "delay_60s": 1,
        "delay_300s": 1,
        "delay_sum_ms": 240_000,
    }


def test_what_is_said_before_the_answer_by_another_clock_was_said_at_once() -> None:
    found = reward(interaction(minute=5), feedback(minute=2))
    assert (found["delay_1s"], found.get("delay_sum_ms")) == (1, None)


def test_feedback_on_a_foreign_id_is_joined_when_somebody_links_it() -> None:
    assert link(on_ref("f1"), on_ref("f2")) == {"feedback_seen": 2}
    found = link(on_ref("f1", 1), on_ref("f2", 2), linked(minute=3), on_ref("f3", 9), linked("i2", minute=10))
    assert found == {
        "feedback_seen": 3,
        "feedback_joined": 3,
        "delay_1s": 1,
        "delay_60s": 1,
        "delay_300s": 1,
        "delay_sum_ms": 180_000,
    }


@given(st.permutations([linked(minute=3), on_ref("f1", 1), on_ref("f2", 2), on_ref("f3", 9)]))
def test_nor_does_it_matter_there(records: list[bytes]) -> None:
    assert link(*records) == link(linked(minute=3), on_ref("f1", 1), on_ref("f2", 2), on_ref("f3", 9))


def test_feedback_that_finds_no_room_is_seen_too() -> None:
    task = MemoryTask(STAGE["link"], "refs", LinkPolicy(waiting=1))
    for name in ("f1", "f2"):
        task.feed(on_ref(name))
    assert (task.counters["feedback_seen"], task.counters["dead"]) == (2, 1)


DELAYS = st.lists(st.integers(-NS, 100 * 86_400 * NS), max_size=30)


@given(DELAYS, DELAYS)
def test_counts_of_two_are_the_sum_of_those_of_each(one: list[int], other: list[int]) -> None:
    together = delays_of([*one, *other])
    apart = [delays_of(one), delays_of(other)]
    assert together == {name: sum(each.get(name, 0) for each in apart) for name in together}


@given(DELAYS.filter(bool), st.sampled_from([0.25, 0.5, 0.9, 1.0]))
def test_a_quantile_is_the_bound_of_the_interval_that_it_lies_in(delays: list[int], share: float) -> None:
    found = quantile_of(delays_of(delays), share)
    exact = sorted(delays)[-(-int(share * 100) * len(delays) // 100) - 1]
    assert found == next((bound for bound in BOUNDS if exact // 1_000_000 <= bound * 1000), inf)


def test_bounds_belong_to_the_interval_below_them() -> None:
    assert dict(histogram_of(delays_of([60 * NS, 60 * NS + 1_000_000])))[60] == 1
    assert quantile_of({}, 0.5) is None
    assert quantile_of(delays_of([1000 * 86_400 * NS]), 0.5) == inf


def status_of(stage: str, topic: str, *values: bytes) -> FeedbackStatus:
    task = MemoryTask(STAGE[stage], topic)
    for value in values:
        task.feed(value)
    found = feedback_status(StageStatus(stage, 0, task.counters["in"], dict(task.counters), accounted=True))
    assert found is not None
    return found


def test_status_tells_of_shares_and_delays_in_words_and_figures() -> None:
    values = [interaction("i1"), interaction("i2"), feedback("f1", minute=2), feedback("f2", "i9"), feedback("f3", minute=10**7)]
    found = status_of("reward", "signals", *values)
    assert (found.joined_share, found.interactions_joined_share) == (2 / 3, 0.5)
    assert found.delays == {"p50": 300, "p90": None, "p99": None}
    assert str(found) == (
        "2 of 3 feedback found its interaction (66.7%); 1 of 2 interactions got some (50.0%); after 5 min (p50), more than 90 d "
        "(p90), more than 90 d (p99)"
    )
    found = status_of("link", "refs", on_ref("f1"))
    assert str(found) == "0 of 1 feedback on foreign ids found a link (0.0%)"
    assert feedback_status(StageStatus("curate", 0, 1, {"ticks": 1}, accounted=True)) is None
    assert feedback_status(StageStatus("link", 0, 1, {"resolved": 1}, accounted=True)) is None


@pytest.mark.parametrize("version", [1, 2])
def test_older_rules_of_link_count_none_of_it(version: int) -> None:
    task = MemoryTask(STAGE["link"], "refs")
    body = STAGE["link"].policy().body()
    task._runner.activate(version, body, "")
    task.feed(on_ref("f1"))
    assert not [name for name in task.counters if name.startswith(KINDS)]
