"""Whatever comes in whatever order: each input under one counter, any prefix resumes, and what may not be trained on never is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from headrace_processors.curate.bucket import WorkingBucket
from headrace_processors.curate.near_index import NearIndex
from headrace_processors.curate.policy import VERSION_1
from headrace_processors.curate.state import CurateBucket, CurateState, ExampleRecord
from headrace_schemas.canonical import sha256
from headrace_schemas.codec import decode, encode
from headrace_schemas.derived import Batch
from headrace_schemas.events import BatchReady, ExampleRewarded, ExampleWithdrawn
from headrace_streams.runtime.stage import Write
from support.examples import BUCKET, DAY_MS, CurateRun, day, rewarded, tick, tracked, withdrawn
from support.signals import START_MS, event_of

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
        "contradicted": st.sampled_from([False, False, True]),
        "voices": st.integers(1, 3),
        "finish_reason": st.sampled_from([None, "stop", "stop", "length"]),
        "principals": st.sampled_from([None, ["human:ada"], ["agent:bot", "human:ada"]])
        | st.integers(0, 20).map(lambda n: [f"human:{n}"]),
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


CLEAN: dict[str, Any] = {
    **POLICY,
    "target_effective_size": 3,
    "open_limit": 12,
    "near_duplicate": 0.5,
    "principal_share": 0.3,
    "contradictions": "wait",
    "keep_days": 30,
    "max_buckets": 2,
    "bases": ["tiny"],
}
LOWERED: dict[str, Any] = {
    **POLICY,
    "target_effective_size": 4,
    "aged_target": 3,
    "age_limit_days": 60,
    "rarity": 0.3,
    "drift": 1.0,
}
POLICIES = st.sampled_from([POLICY, LOWERED, CLEAN, {**CLEAN, "contradictions": "drop", "bases": [], "max_buckets": 1}])


def fed(stage: CurateRun, steps: list[tuple[bytes, float]]) -> CurateRun:
    for value, days in steps:
        stage.days += days
        stage.feed(value)  # asserts that the counters add up
    return stage


@settings(max_examples=150, deadline=None)
@given(sequences, POLICIES)
def test_any_prefix_resumes_and_the_same_again_is_the_same(steps: list[tuple[bytes, float]], policy: dict[str, Any]) -> None:
    once, stored = fed(CurateRun(**policy), steps), fed(CurateRun(through_dump=True, **policy), steps)
    assert once.outputs == stored.outputs
    assert once.state == stored.state
    assert once.counters == stored.counters
    assert once.dumped() == stored.dumped()


@settings(max_examples=150, deadline=None)
@given(sequences, POLICIES)
def test_a_record_that_comes_twice_changes_nothing(steps: list[tuple[bytes, float]], policy: dict[str, Any]) -> None:
    once, twice = CurateRun(**policy), CurateRun(**policy)
    for value, days in steps:
        once.days = twice.days = once.days + days
        once.feed(value)
        twice.feed(value)
        kept, cut = twice.dumped(), len(twice.batches)
        twice.feed(value)
        assert (twice.dumped(), len(twice.batches)) == (kept, cut)
    assert [batch.batch_id for batch in once.batches] == [batch.batch_id for batch in twice.batches]


@settings(max_examples=200, deadline=None)
@given(sequences, POLICIES)
def test_what_a_batch_may_hold(steps: list[tuple[bytes, float]], policy: dict[str, Any]) -> None:
    stage = CurateRun(**policy)
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
            known = stage.state.get(f"example:{event.data.bucket}:{event.data.example_id}")
            if known is not None and known.status not in ("retracted", "erased", "withdrawn"):
                withdrawn_ids.discard((event.data.bucket, event.data.example_id))
        for batch in stage.batches[before:]:
            check(batch, values, withdrawn_ids, sides)
    for holder, example_id in [(key, value) for key, value in stage.state.items() if key.startswith("~content:")]:
        assert any(
            key.endswith(example_id) and known.content.hex() == holder.removeprefix("~content:")
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
@given(sequences, POLICIES)
def test_a_state_value_is_never_changed_in_place(steps: list[tuple[bytes, float]], policy: dict[str, Any]) -> None:
    stage = CurateRun(**policy)
    for value, days in steps:
        stage.days += days
        kept = dict(stage.state)
        before = {key: _written(stage, key, stored) for key, stored in kept.items()}
        stage.feed(value)
        assert {key: _written(stage, key, stored) for key, stored in kept.items()} == before
        again = {key: stage.fold.load(key, stored) for key, stored in stage.dumped().items()}
        assert {key: stage.fold.dump(key, stored) for key, stored in again.items()} == stage.dumped()
        assert {**again, **stage.fold.derive(again)} == stage.state


def _written(stage: CurateRun, key: str, stored: Any) -> Any:
    return stored.members() if isinstance(stored, NearIndex) else stage.fold.dump(key, stored)


@settings(max_examples=100, deadline=None)
@given(sequences)
def test_running_sums_are_what_the_members_are_worth(steps: list[tuple[bytes, float]]) -> None:
    stage = fed(CurateRun(**{**POLICY, "target_effective_size": 4}), steps)
    for bucket in [value for value in stage.state.values() if isinstance(value, CurateBucket)]:
        anew = WorkingBucket(stage.policy, CurateState(stage.state), bucket.name, now_ms=0)
        anew.recompute_sums()
        assert bucket.fill == pytest.approx(anew.value.fill, abs=1e-3)
        assert bucket.train.size == len(list(anew.members("train")))


@settings(max_examples=150, deadline=None)
@given(sequences)
def test_with_all_new_rules_off_version_2_decides_as_version_1_did(steps: list[tuple[bytes, float]]) -> None:
    off = {**POLICY, **VERSION_1}
    old, new = fed(CurateRun(version=1, **off), steps), fed(CurateRun(version=2, **off), steps)
    assert [explained(write) for write in new.outputs] == old.outputs
    assert new.counters == old.counters
    assert new.state.keys() == old.state.keys()


def explained(write: Write) -> Write:
    """Without what only version 2 says of a batch."""
    event = write.value
    if not isinstance(event, BatchReady):
        return write
    statistics = replace(event.data.statistics, left_out=None)
    return write._replace(value=replace(event, data=replace(event.data, statistics=statistics)))


@settings(max_examples=100, deadline=None)
@given(sequences, POLICIES)
def test_in_the_end_everything_that_is_not_open_is_forgotten(steps: list[tuple[bytes, float]], policy: dict[str, Any]) -> None:
    """One deadline after the other passes; what curate writes for it is folded like any record, and moves it."""
    stage = fed(CurateRun(**{**policy, "keep_days": 30}), steps)
    for _ in range(400):
        waiting = sorted((at, key) for key, value in stage.state.items() if (at := stage.fold.deadline(key, value)) is not None)
        if not waiting:
            break
        now = waiting[0][0]
        due = [key for at, key in waiting if at <= now]
        stage.days = (now - START_MS) / DAY_MS + 1e-6
        for write in stage.fold.overdue(stage.state, due, now):
            stage.feed(encode(event_of(write)))
        assert not any(stage.fold.deadline(key, stage.state.get(key)) == now for key in due if key in stage.state)
    assert not waiting
    known = [value for value in stage.state.values() if isinstance(value, ExampleRecord)]
    assert {example.status for example in known} <= {"open"}
    assert stage.state == {**(kept := {k: v for k, v in stage.state.items() if not k.startswith("~")}), **stage.fold.derive(kept)}
