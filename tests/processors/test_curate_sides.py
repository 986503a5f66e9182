"""What is learnt from, what is watched and what is tested on: pools of their own, and no target on two sides."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_processors.curate.fold import build
from headrace_processors.curate.policy import VERSION_2, CuratePolicy
from headrace_processors.curate.state import derive
from headrace_schemas.ids import derive_id
from support.examples import BUCKET, CurateRun, rewarded, withdrawn

TARGET = "select count(*) from customers where city = 'Oslo'"


def status(stage: CurateRun, number: int) -> str:
    return str(stage.state[f"example:{BUCKET}:{derive_id('example', f'i{number}')}"].status)


def test_validation_rows_are_pooled_and_named_by_every_batch() -> None:
    stage = CurateRun(target_effective_size=2, validation_pool=3)
    stage.feed(*(rewarded(number, split="validation") for number in range(5)), *(rewarded(number) for number in range(5, 9)))
    first, second = stage.batches
    assert [[row.split for row in batch.members] for batch in (first, second)] == [["train"] * 2] * 2
    assert [row.example_id for row in first.validation_pool] == [row.example_id for row in second.validation_pool]
    assert {(row.split, row.role, row.weight) for row in first.validation_pool} == {("validation", "train", 1.0)}
    assert [status(stage, number) for number in range(5)] == ["rejected"] * 2 + ["validation"] * 3
    stage.feed(withdrawn(2), rewarded(9), rewarded(10))
    assert len(stage.batches[2].validation_pool) == 2
    assert stage.batches[2].batch_id != second.batch_id


def test_rule_version_2_goes_on_with_validation_rows_among_the_members() -> None:
    stage = CurateRun(version=2, target_effective_size=2)
    stage.feed(rewarded(1, split="validation"), rewarded(2))
    [batch] = stage.batches
    assert [row.split for row in batch.members] == ["validation", "train"]
    assert batch.validation_pool is None


@pytest.mark.parametrize("side", ["test", "validation"])
@pytest.mark.parametrize("target", [TARGET, TARGET.replace(" ", "\n ")])
def test_a_target_that_is_learnt_from_is_not_tested_on(side: str, target: str) -> None:
    stage = CurateRun(target_effective_size=1)
    stage.feed(rewarded(1, target=TARGET), rewarded(2, split=side, target=target))
    assert stage.reasons == ["target_learnt"]
    stage.feed(rewarded(3))
    assert stage.batches[1].statistics.left_out == {"target_learnt": 1}
    stage.feed(withdrawn(1), rewarded(2, split=side, target=target, revision=2))
    assert status(stage, 2) == side


@pytest.mark.parametrize("side", ["test", "validation"])
def test_a_target_that_is_learnt_from_later_leaves_the_pool(side: str) -> None:
    stage = CurateRun(target_effective_size=2)
    stage.feed(rewarded(2, split=side, target=TARGET), rewarded(3, split=side), rewarded(1, target=TARGET))
    assert (stage.reasons, status(stage, 2), status(stage, 3)) == (["target_learnt"], "rejected", side)
    stage.feed(rewarded(4))
    [batch] = stage.batches
    assert len(batch.test_pool if side == "test" else batch.validation_pool) == 1
    assert batch.statistics.left_out == {"target_learnt": 1}


def test_short_answers_and_wrong_ones_may_be_on_any_side() -> None:
    stage = CurateRun()
    stage.feed(rewarded(1, target="refund_request"), rewarded(2, split="test", target="refund_request"))
    stage.feed(rewarded(3, target=TARGET, correction=None, reward=-0.4), rewarded(4, split="test", target=TARGET))
    assert stage.reasons == []
    everywhere = CurateRun(one_side_chars=None)
    everywhere.feed(rewarded(1, target=TARGET), rewarded(2, split="test", target=TARGET))
    assert everywhere.reasons == []


CHANGES = st.tuples(
    st.integers(0, 5),
    st.sampled_from(["train", "test", "validation"]),
    st.sampled_from([TARGET, "select 1", f"{TARGET} limit 1"]),
    st.sampled_from([None, "retracted", "feedback_retracted"]),
    st.sampled_from([0.9, 0.5, -0.5]),
)


@given(st.lists(CHANGES, max_size=25), st.sampled_from([1, 3, 50]))
def test_no_target_is_ever_on_two_sides_and_a_restart_knows_the_same(changes: list[Any], size: float) -> None:
    stage = CurateRun(target_effective_size=size, aged_target=size, test_pool=2, validation_pool=2, near_duplicate=None)
    for revision, (number, side, target, gone, reward) in enumerate(changes, 1):
        if gone:
            stage.feed(withdrawn(number, gone, revision=revision))
        else:
            correction = 1.0 if reward > 0 else None
            stage.feed(rewarded(number, split=side, target=target, revision=revision, reward=reward, correction=correction))
        values = [value for key, value in stage.state.items() if key.startswith("example:")]
        learnt = {value.target for value in values if value.is_learnt and value.target}
        assert learnt.isdisjoint({value.target for value in values if value.queue in ("test", "validation")})
    kept = {key: value for key, value in stage.state.items() if not key.startswith("~")}
    assert derive(kept) == {key: value for key, value in stage.state.items() if key.startswith("~")}


def test_what_version_2_left_goes_on_under_version_3() -> None:
    stage = CurateRun(version=2, target_effective_size=5, **VERSION_2)
    stage.feed(*(rewarded(number, target=f"{TARGET} {number}") for number in range(6)), rewarded(6, split="validation"))
    stage.feed(rewarded(7, split="test", target=TARGET), rewarded(8, split="validation"))
    state = {key: stage.fold.dump(key, value) for key, value in stage.state.items() if not key.startswith("~")}
    stage.fold = build(CuratePolicy(target_effective_size=5).body(), "", 3)
    stage.state = {key: stage.fold.load(key, value) for key, value in state.items()}
    stage.state |= stage.fold.derive(stage.state)
    assert (stage.bucket.train.size, stage.bucket.fill) == (3, 3), "members of the validation side are still there"
    [output] = stage.feed(rewarded(9, prompt="how many 1?", target=f"{TARGET} 1"))
    assert output.value.data.reason == "duplicate"
    stage.feed(rewarded(8, split="validation", revision=2, reward=0.6))
    assert (status(stage, 8), stage.bucket.train.size, stage.bucket.validation.size) == ("validation", 2, 1)
    stage.feed(*(rewarded(number) for number in range(10, 13)))
    *_, batch = stage.batches
    assert [row.split for row in batch.members].count("validation") == 1
    assert (len(batch.validation_pool), len(batch.test_pool)) == (1, 1)
    kept = {key: value for key, value in stage.state.items() if not key.startswith("~")}
    assert derive(kept) == {key: value for key, value in stage.state.items() if key.startswith("~")}
