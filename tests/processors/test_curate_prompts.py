"""Prompts without a reference: those that were drawn, one a group, and those of examples that give none; in a batch, never in its
members, and gone when they are withdrawn.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_schemas.derived import PromptMember
from headrace_schemas.ids import derive_id
from support.examples import BUCKET, GROUPS, CurateRun, drawn, prompt_withdrawn, rewarded, tick, withdrawn
from support.signals import tree_of

WRONG: dict[str, Any] = {"split": "test", "correction": None, "score": 0.0, "reward": -0.5}


def run(**policy: Any) -> CurateRun:
    return CurateRun(**{"graded": ["sql"], "target_effective_size": 3.0, **policy})


def cut(stage: CurateRun, first: int = 500) -> list[PromptMember]:
    """The prompts of the batch that three more examples make."""
    before = len(stage.batches)
    stage.feed(*(rewarded(number) for number in range(first, first + 3)))
    assert len(stage.batches) == before + 1
    prompts: list[PromptMember] = stage.batches[-1].prompts or []
    return prompts


def test_a_batch_names_the_prompts_that_were_drawn_beside_its_test_rows() -> None:
    stage = run()
    stage.feed(drawn(1), rewarded(2, split="test"), drawn(3))
    prompts = cut(stage)
    assert [(prompt.example_id, prompt.revision, prompt.drawn) for prompt in prompts] == [
        (derive_id("prompt", "i1"), 1, True),
        (derive_id("prompt", "i3"), 1, True),
    ]
    assert [prompt.locator.offset for prompt in prompts] == [0, 2]
    [batch] = stage.batches
    assert [row.example_id for row in batch.test_pool] == [derive_id("example", "i2")]
    assert (batch.statistics.examples, len(batch.members)) == (3, 3)
    assert stage.counters == {"prompts": 2, "admitted": 4}


def test_prompts_open_no_bucket_fill_none_and_push_no_test_row_out() -> None:
    stage = run(test_pool=2, prompt_pool=3)
    stage.feed(rewarded(1, split="test"), rewarded(2, split="test"), *(drawn(number) for number in range(10, 20)))
    bucket = stage.bucket
    assert (bucket.test.size, bucket.drawn.size, bucket.fill, bucket.opened_ms, bucket.admitted) == (2, 3, 0.0, None, 2)
    assert [prompt.example_id for prompt in cut(stage)] == [derive_id("prompt", f"i{number}") for number in (17, 18, 19)]


def test_of_a_group_one_prompt_is_kept_and_another_once_it_is_gone() -> None:
    stage = run(prompt_pool=2)
    again = {"prompt_group": GROUPS["test"][1]}
    stage.feed(drawn(1), drawn(2, **again))
    assert (stage.reasons, stage.counters) == (["same_group"], {"prompts": 1, "rejected": 1})
    stage.feed(drawn(3), drawn(4), drawn(5, **again))  # 1 has left
    assert stage.reasons == ["same_group"]
    assert len(cut(stage)) == 2


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, "negative"),
        ({"score": 60.0, "reward": 0.2}, "low_score"),
        ({"reward": 0.0}, "no_reward"),
        ({"finish_reason": "length"}, "truncated"),
        ({"target": "  "}, "no_text_target"),
    ],
)
def test_what_gives_no_reference_on_the_test_side_is_a_prompt_where_answers_are_graded(
    changed: dict[str, Any], reason: str
) -> None:
    stage = run()
    stage.feed(rewarded(1, **{**WRONG, **changed}))
    assert [(prompt.example_id, prompt.revision, prompt.drawn) for prompt in cut(stage)] == [
        (derive_id("example", "i1"), 1, False)
    ]
    [batch] = stage.batches
    assert (batch.test_pool, batch.statistics.negatives, stage.reasons) == ([], 0, [])
    plain = run(graded=[])
    plain.feed(rewarded(1, **{**WRONG, **changed}))
    assert plain.reasons == ["held_out" if reason == "negative" else reason]
    assert cut(plain) == []


def test_what_may_not_be_trained_on_is_no_prompt_either() -> None:
    stage = run()
    stage.feed(rewarded(1, train=False, **WRONG))
    assert (stage.reasons, cut(stage)) == (["not_for_training"], [])


def test_a_prompt_whose_answer_is_put_right_becomes_a_test_row_and_back() -> None:
    stage = run()
    stage.feed(rewarded(1, **WRONG), rewarded(1, split="test", revision=2))
    assert (stage.bucket.wrong.size, stage.bucket.test.size) == (0, 1)
    stage.feed(rewarded(1, revision=3, **WRONG))
    assert (stage.bucket.wrong.size, stage.bucket.test.size) == (1, 0)
    stage.feed(withdrawn(1, "feedback_retracted", revision=4))
    assert (stage.bucket.wrong.size, cut(stage)) == (0, [])


@pytest.mark.parametrize("reason", ["retracted", "erased"])
def test_a_withdrawn_prompt_is_in_no_later_batch(reason: str) -> None:
    stage = run()
    stage.feed(drawn(1), drawn(2), prompt_withdrawn(1, reason))
    assert [prompt.example_id for prompt in cut(stage)] == [derive_id("prompt", "i2")]
    stage.feed(drawn(1))
    assert stage.reasons == ["stale_revision"]
    known = stage.state[f"example:{BUCKET}:{derive_id('prompt', 'i1')}"]
    assert (known.status, known.interaction_id, known.content, known.sha256) == (reason, "", b"", b"")


def test_a_kind_that_nobody_grades_keeps_none() -> None:
    stage = run(graded=["code"])
    stage.feed(drawn(1))
    assert (stage.reasons, stage.counters) == (["not_graded"], {"rejected": 1})


def test_old_prompts_are_forgotten_and_with_them_a_bucket_in_which_nothing_else_is() -> None:
    stage = run(keep_days=30.0)
    stage.feed(drawn(1))
    stage.days = 31
    due = [key for key, value in stage.state.items() if stage.fold.deadline(key, value) is not None]
    [written] = stage.fold.overdue(stage.state, due, 10**15)
    stage.feed(msgspec.json.encode(tree_of(written)))
    assert not any(key.startswith(("example:", "bucket:")) for key in stage.state)


def test_the_id_of_a_batch_covers_its_prompts() -> None:
    with_prompt, without = run(), run()
    with_prompt.feed(drawn(1))
    without.feed(tick())
    cut(with_prompt), cut(without)
    assert with_prompt.batches[0].batch_id != without.batches[0].batch_id


records = st.one_of(
    st.builds(drawn, st.integers(0, 30)),
    st.builds(lambda number, group: drawn(number, prompt_group=GROUPS["test"][group]), st.integers(31, 60), st.integers(0, 5)),
    st.builds(prompt_withdrawn, st.integers(0, 60), st.sampled_from(["retracted", "erased"])),
    st.builds(lambda number, revision: rewarded(number, revision=revision, **WRONG), st.integers(0, 30), st.integers(1, 3)),
    st.builds(lambda number, revision: rewarded(number, revision=revision, split="test"), st.integers(0, 30), st.integers(1, 3)),
    st.builds(rewarded, st.integers(100, 130)),
)


@given(st.lists(records, max_size=60))
@settings(max_examples=60)
def test_prompts_are_bounded_one_a_group_and_what_is_kept_is_what_was_counted(given_records: list[bytes]) -> None:
    stage, restarted = run(prompt_pool=4), CurateRun(graded=["sql"], target_effective_size=3.0, prompt_pool=4, through_dump=True)
    stage.feed(*given_records)
    restarted.feed(*given_records)
    assert stage.outputs == restarted.outputs
    for batch in stage.batches:
        prompts = batch.prompts or []
        ids = [prompt.example_id for prompt in prompts]
        assert len(ids) == len(set(ids))
        assert sum(prompt.drawn for prompt in prompts) <= 4 >= sum(not prompt.drawn for prompt in prompts)
        assert not {row.example_id for row in (*batch.members, *batch.test_pool)} & set(ids)
        assert all(row.role == "train" for row in batch.test_pool)
    bucket = stage.state.get(f"bucket:{BUCKET}")
    if bucket is not None:
        kept = [value.queue for key, value in stage.state.items() if key.startswith("example:")]
        assert (kept.count("drawn"), kept.count("wrong")) == (bucket.drawn.size, bucket.wrong.size)
