"""Whatever comes in whatever order: each input under one counter, any prefix resumes, and what may not be trained on never is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_processors.curate.bucket import WorkingBucket
from headrace_processors.curate.state import CurateBucket, CurateState
from headrace_schemas.canonical import sha256
from headrace_schemas.codec import decode
from headrace_schemas.derived import Batch
from headrace_schemas.events import ExampleRewarded, ExampleWithdrawn
from support.examples import BUCKET, CurateRun, day, rewarded, tick, tracked, withdrawn

OTHER = "code/other"
numbers = st.integers(0, 11)
shapes: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "split": st.sampled_from(["train", "train", "train", "validation", "test"]),
        "reward": st.sampled_from([-0.8, -0.1, 0.0, 0.3, 0.4, 0.9]),
        "quality": st.sampled_from([-0.5, 0.5]),
        "correction": st.sampled_from([None, 0.5]),
        "score": st.sampled_from([None, 50.0, 90.0]),
        "train": st.sampled_from([True, True, True, False]),
        "target": st.sampled_from(["select 1", "select 2", "select 3", "select 4", "select 5", "..."]),
        "event_time": st.integers(-400, 0).map(day),
        "bucket": st.sampled_from([BUCKET, BUCKET, OTHER]),
        "revision": st.integers(1, 5),
    }
)
records = st.one_of(
    st.builds(lambda number, shape: rewarded(number, prompt="same", **shape), numbers, shapes),
    st.builds(lambda number, shape: rewarded(number, **shape), numbers, shapes),
    st.builds(withdrawn, numbers, st.sampled_from(["retracted", "erased", "feedback_retracted"]), revision=st.integers(1, 6)),
    st.builds(tracked, st.booleans(), st.sampled_from(["r1", "r2"])),
    st.just(tick()),
)
sequences = st.lists(st.tuples(records, st.floats(0, 3)), max_size=60)
POLICY: dict[str, Any] = {
    "target_effective_size": 2,
    "aged_target": 1,
    "open_limit": 4,
    "test_pool": 2,
    "good_enough_evidence": 6,
}


def fed(stage: CurateRun, steps: list[tuple[bytes, float]]) -> CurateRun:
    for value, days in steps:
        stage.days += days
        stage.feed(value)  # asserts that the counters add up
    return stage


@settings(max_examples=150, deadline=None)
@given(sequences)
def test_any_prefix_resumes_and_the_same_again_is_the_same(steps: list[tuple[bytes, float]]) -> None:
    once, stored = fed(CurateRun(**POLICY), steps), fed(CurateRun(through_dump=True, **POLICY), steps)
    assert once.outputs == stored.outputs
    assert once.counters == stored.counters
    assert once.dumped() == stored.dumped()


@settings(max_examples=150, deadline=None)
@given(sequences)
def test_a_record_that_comes_twice_changes_nothing(steps: list[tuple[bytes, float]]) -> None:
    once, twice = CurateRun(**POLICY), CurateRun(**POLICY)
    for value, days in steps:
        once.days = twice.days = once.days + days
        once.feed(value)
        twice.feed(value)
        kept, cut = twice.dumped(), len(twice.batches)
        twice.feed(value)
        assert (twice.dumped(), len(twice.batches)) == (kept, cut)
    assert [batch.batch_id for batch in once.batches] == [batch.batch_id for batch in twice.batches]


@settings(max_examples=200, deadline=None)
@given(sequences)
def test_what_a_batch_may_hold(steps: list[tuple[bytes, float]]) -> None:
    stage = CurateRun(**POLICY)
    values: dict[tuple[str, str], bytes] = {}
    withdrawn_ids: set[tuple[str, str]] = set()
    sides: dict[tuple[str, str], set[str]] = {}
    for value, days in steps:
        stage.days += days
        event = decode(value)
        if isinstance(event, ExampleWithdrawn):
            withdrawn_ids.add((event.data.bucket, event.data.example_id))
        before = len(stage.batches)
        stage.feed(value)
        if isinstance(event, ExampleRewarded):
            values[event.data.example_id, sha256(value)] = value
            known = stage.state[f"example:{event.data.bucket}:{event.data.example_id}"]
            if known.status not in ("retracted", "erased", "withdrawn"):
                withdrawn_ids.discard((event.data.bucket, event.data.example_id))
        for batch in stage.batches[before:]:
            check(batch, values, withdrawn_ids, sides)
    for holder, example_id in [(key, value) for key, value in stage.state.items() if key.startswith("content:")]:
        assert any(
            key.endswith(example_id) and known.content == holder.removeprefix("content:")
            for key, known in stage.state.items()
            if key.startswith("example:")
        )


def check(
    batch: Batch,
    values: dict[tuple[str, str], bytes],
    withdrawn_ids: set[tuple[str, str]],
    sides: dict[tuple[str, str], set[str]],
) -> None:
    train = [member for member in batch.members if member.role == "train"]
    assert any(member.split == "train" for member in train)
    assert sum(member.weight for member in train) == pytest.approx(len(train))
    assert all(member.weight > 0 for member in (*batch.members, *batch.test_pool))
    assert len({member.example_id for member in (*batch.members, *batch.test_pool)}) == len(batch.members) + len(batch.test_pool)
    assert len(batch.test_pool) <= 2
    assert {member.split for member in batch.test_pool} <= {"test"}
    assert "test" not in {member.split for member in batch.members}
    for member in (*batch.members, *batch.test_pool):
        event = decode(values[member.example_id, member.sha256])
        assert isinstance(event, ExampleRewarded)
        assert event.data.train
        assert event.data.revision == member.revision
        assert event.data.bucket == batch.bucket
        assert (batch.bucket, member.example_id) not in withdrawn_ids
        sides.setdefault((batch.bucket, event.data.prompt_group), set()).add(member.split)
    assert all(len(splits) == 1 for splits in sides.values())


@settings(max_examples=100, deadline=None)
@given(sequences)
def test_a_state_value_is_never_changed_in_place(steps: list[tuple[bytes, float]]) -> None:
    stage = CurateRun(**POLICY)
    for value, days in steps:
        stage.days += days
        kept, before = dict(stage.state), stage.dumped()
        stage.feed(value)
        assert {key: stage.fold.dump(key, stored) for key, stored in kept.items()} == before
        again = {key: stage.fold.load(key, stored) for key, stored in stage.dumped().items()}
        assert {key: stage.fold.dump(key, stored) for key, stored in again.items()} == stage.dumped()


@settings(max_examples=100, deadline=None)
@given(sequences)
def test_running_sums_are_what_the_members_are_worth(steps: list[tuple[bytes, float]]) -> None:
    stage = fed(CurateRun(**{**POLICY, "target_effective_size": 4}), steps)
    for bucket in [value for value in stage.state.values() if isinstance(value, CurateBucket)]:
        anew = WorkingBucket(stage.policy, CurateState(stage.state), bucket.name, now_ms=0)
        anew.recompute_sums()
        assert bucket.fill == pytest.approx(anew.value.fill, abs=1e-3)
        assert bucket.train.size == len(list(anew.members("train")))
