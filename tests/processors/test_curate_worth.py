"""What an old example is worth beside a new one, and what a full bucket drops: the least worth, whenever it came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_processors.decay import DAY_NS, effective_size, floored, weights
from support.examples import BUCKET, GROUPS, CurateRun, day, rewarded

YEARS = -3 * 365.0


def row(number: int, **changed: object) -> bytes:
    """As many as there may be: the groups of support.examples are 600."""
    group = GROUPS["train"][number % 600]
    texts = {"prompt": f"how many {number}?", "output": f"select {number}0", "target": f"select {number}"}
    same = number % 600
    return rewarded(same, **{"example_id": f"e{number}", "prompt_group": group, **texts, **changed})


@given(st.lists(st.integers(0, 4000 * DAY_NS), min_size=1), st.sampled_from([0.0, 0.05, 0.5, 1.0]))
def test_sums_of_floored_weights_are_those_of_the_weights(times: list[int], floor: float) -> None:
    plain, wanted = weights(times, 0.95), weights(times, 0.95, floor)
    total, squares = floored(sum(plain), sum(each * each for each in plain), len(times), floor)
    assert total == pytest.approx(sum(wanted))
    assert total**2 / squares == pytest.approx(effective_size(wanted))
    assert min(wanted) >= floor
    assert max(wanted) == 1


def test_an_example_three_years_old_is_worth_a_twentieth_of_one_of_today() -> None:
    stage = CurateRun(target_effective_size=2, fresh_share=0)
    stage.feed(row(0, event_time=day(YEARS)), *(row(number) for number in range(1, 4)))
    [batch] = stage.batches
    worth = {member.example_id: member.weight for member in batch.members}
    assert worth["e0"] / worth["e1"] == pytest.approx(0.05)


def test_rule_version_2_goes_on_without_a_floor() -> None:
    stage = CurateRun(version=2, decay_floor=0.0, target_effective_size=2)
    stage.feed(row(0, event_time=day(YEARS)), *(row(number) for number in range(1, 4)))
    assert [len(batch.members) for batch in stage.batches] == [3]
    assert stage.bucket.fill == 1


def test_a_backlog_of_years_fills_buckets_beside_a_few_examples_of_today() -> None:
    """11,700 examples of 2023 with 250 of today filled no bucket of 64; 9,462 fell out."""
    stage = CurateRun()
    for number in range(11_700):
        if number % 47 == 0:
            stage.feed(row(100_000 + number))
        stage.feed(row(number, event_time=day(YEARS + number / 32)))
    assert "overflow" not in stage.reasons
    assert len(stage.batches) > 30
    learnt = sum(len(batch.members) for batch in stage.batches)
    assert learnt + stage.bucket.train.size == stage.records


def test_a_full_bucket_drops_the_least_worth_and_not_the_first_that_came() -> None:
    stage = CurateRun(open_limit=10, target_effective_size=10, bases=["other"])
    rewards = [0.9, 0.2, 0.8, 0.7, 0.1, 0.6, 0.5, 0.5, 0.4, 0.3, 0.9]
    stage.feed(*(row(number, reward=reward) for number, reward in enumerate(rewards)))
    assert stage.reasons == []  # up to a tenth more are dropped together
    stage.feed(row(11, reward=0.05))
    assert stage.reasons == ["overflow", "overflow"]
    assert {key for key in ("e4", "e11") if stage.state[f"example:{BUCKET}:{key}"].status == "rejected"} == {"e4", "e11"}
    assert stage.bucket.train.size == 10


TEXT = "select name, count(*) as orders from customers join orders using (customer_id) where year = 2021 group by name"


def test_what_falls_out_at_once_takes_the_place_of_no_near_duplicate() -> None:
    stage = CurateRun(open_limit=2, target_effective_size=2, bases=["other"])
    asked = {"prompt": "How many orders had every customer in year 2021?", "output": "select 1"}
    stage.feed(row(0, reward=0.5, target=TEXT, **asked), row(1, reward=0.9))
    stage.feed(row(2, reward=0.9, target=TEXT.replace("= 2021", "> 2021"), event_time=day(YEARS), **asked))
    assert {name: stage.state[f"example:{BUCKET}:e{name}"].status for name in range(3)} == {0: "open", 1: "open", 2: "rejected"}
    assert stage.reasons == ["overflow"]


def test_what_falls_out_at_once_drives_no_row_out_of_a_pool() -> None:
    stage = CurateRun(open_limit=2, target_effective_size=2, bases=["other"])
    stage.feed(row(0, split="test", prompt_group=GROUPS["test"][0], target=TEXT), row(1, reward=0.9), row(2, reward=0.9))
    stage.feed(row(3, reward=0.5, target=TEXT, event_time=day(YEARS)))
    assert stage.reasons == ["overflow"]
    assert stage.bucket.test.size == 1


def test_what_is_new_does_not_push_out_what_is_worth_more() -> None:
    stage = CurateRun(open_limit=2, target_effective_size=2, bases=["other"])
    stage.feed(row(0, reward=0.9, event_time=day(-3)), row(1, reward=0.9), row(2, reward=0.4))
    assert stage.state[f"example:{BUCKET}:e2"].status == "rejected"
    stage.feed(row(3, reward=0.9))
    assert stage.state[f"example:{BUCKET}:e0"].status == "rejected"


def test_what_leaves_a_full_pool_is_named_with_its_reason() -> None:
    stage = CurateRun(test_pool=2)
    stage.feed(*(row(number, split="test", prompt_group=GROUPS["test"][number]) for number in range(4)))
    assert stage.reasons == ["pool_full", "pool_full"]
    assert stage.bucket.test.size == 2
    assert {name: stage.state[f"example:{BUCKET}:e{name}"].status for name in range(2)} == dict.fromkeys(range(2), "rejected")
    assert (stage.counters["admitted"], stage.counters["rejected"]) == (2, 2)


def test_until_rule_version_4_it_left_without_a_word() -> None:
    stage = CurateRun(version=3, test_pool=2)
    stage.feed(*(row(number, split="test", prompt_group=GROUPS["test"][number]) for number in range(4)))
    assert stage.reasons == []
    assert stage.state[f"example:{BUCKET}:e0"].status == "past"
