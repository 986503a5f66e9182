"""Roles and rejections: each rule of the one table, on an example that it rejects and on one beside it that it does not."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_processors.curate.filters import REJECTIONS, is_generic, rules
from headrace_processors.curate.policy import CuratePolicy
from headrace_schemas.events import ExampleRejected
from headrace_schemas.inputs import Message, RefPart, TextPart, ToolCall
from support.examples import BUCKET, GROUPS, CurateRun, rewarded, withdrawn

PICTURE = RefPart(media_type="image/png", uri="s3://pictures/1")


def role(**changed: Any) -> str | None:
    """The role that an example gets, or the reason why it gets none."""
    stage = CurateRun()
    stage.feed(rewarded(1, **changed))
    known = next(value for key, value in stage.state.items() if key.startswith("example:"))
    return known.role or stage.reasons[0]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"correction": 0.4, "score": 10.0}, "train"),
        ({"correction": None, "score": 71.0}, "train"),
        ({"correction": None, "score": 70.0}, "low_score"),
        ({"correction": None, "score": None}, "train"),
        ({"correction": None, "score": None, "reward": 0.0}, "no_reward"),
        ({"correction": 0.0, "reward": 0.0}, "no_reward"),
        ({"correction": None, "score": None, "reward": -0.2}, "negative"),
        ({"correction": None, "score": 20.0, "reward": -0.2}, "negative"),
        ({"correction": None, "score": 90.0, "reward": -0.2}, "negative"),
        ({"split": "test"}, "train"),
        ({"split": "test", "correction": None, "reward": -0.2}, "held_out"),
        ({"split": "validation", "correction": None, "reward": -0.2}, "held_out"),
        ({"train": False}, "not_for_training"),
        ({"target": "  \n"}, "no_text_target"),
        ({"target": Message(role="assistant", content=[PICTURE])}, "answer_has_references"),
        ({"target": Message(role="assistant", content=[TextPart(text="as drawn"), PICTURE])}, "answer_has_references"),
        ({"target": Message(role="assistant", tool_calls=[ToolCall(id="1", name="lookup", arguments="{}")])}, "train"),
        ({"target": "..."}, "generic"),
        ({"target": "7"}, "train"),
        ({"target": "I’m sorry, but I can’t do that."}, "generic"),
        ({"target": "Hello!  How can I assist you today?"}, "generic"),
        ({"target": "As an AI I would say: " + "select 1; " * 20}, "train"),
    ],
)
def test_the_role_or_the_reason(changed: dict[str, Any], expected: str) -> None:
    assert role(**changed) == expected


def test_a_rejection_names_its_rule_with_the_figures_of_the_policy() -> None:
    stage = CurateRun(train_above=80.0)
    [output] = stage.feed(rewarded(1, correction=None, score=75.0))
    assert isinstance(output.value, ExampleRejected)
    assert (output.topic, output.key, output.value.data.reason) == ("rejections", "i1", "low_score")
    assert output.value.data.rule == "a target that nobody corrected has a score above 80"
    assert set(rules(CuratePolicy())) == set(REJECTIONS)


def test_short_targets_can_be_refused() -> None:
    assert is_generic(CuratePolicy(min_chars=5), " four ")
    assert not is_generic(CuratePolicy(min_chars=5), "fives")


def test_the_second_with_the_same_content_is_a_duplicate_whatever_its_white_space() -> None:
    stage = CurateRun()
    stage.feed(rewarded(1, prompt="how  many?", target="select 1"), rewarded(2, prompt="how many? ", target="select\n1"))
    assert stage.reasons == ["duplicate"]
    assert stage.counters == {"admitted": 1, "rejected": 1}


@pytest.mark.parametrize("other", [{"prompt": "why?"}, {"context": "a table"}, {"target": "select 2"}, {"bucket": "sql/large"}])
def test_another_prompt_context_target_or_bucket_is_no_duplicate(other: dict[str, Any]) -> None:
    stage = CurateRun()
    stage.feed(rewarded(1, prompt="how?", target="select 1"), rewarded(2, **{"prompt": "how?", "target": "select 1", **other}))
    assert stage.reasons == []


def test_when_the_first_leaves_the_later_comes_in_with_its_next_revision() -> None:
    stage = CurateRun()
    stage.feed(rewarded(1, prompt="p", target="t"), rewarded(2, prompt="p", target="t"), withdrawn(1))
    stage.feed(rewarded(2, prompt="p", target="t", revision=2))
    assert stage.counters == {"admitted": 2, "rejected": 1, "withdrawn": 1}


def test_a_revision_that_is_not_newer_changes_nothing() -> None:
    stage = CurateRun()
    stage.feed(rewarded(1, revision=2))
    before = stage.dumped()
    stage.feed(rewarded(1, revision=2), rewarded(1, revision=1))
    assert (stage.dumped(), stage.reasons) == (before, ["stale_revision"] * 2)


@pytest.mark.parametrize(("reason", "after"), [("retracted", "retracted"), ("erased", "erased")])
def test_what_was_retracted_or_erased_never_comes_back(reason: str, after: str) -> None:
    stage = CurateRun()
    stage.feed(rewarded(1), withdrawn(1, reason), rewarded(1, revision=3))
    assert stage.reasons == [after]
    assert stage.bucket.train.size == 0
    [known] = [value for key, value in stage.state.items() if key.startswith("example:")]
    assert (known.content, known.sha256) == (b"", b"")
    assert not any(key.startswith("content:") for key in stage.state)


def test_an_example_whose_feedback_was_retracted_may_come_back() -> None:
    stage = CurateRun()
    stage.feed(rewarded(1), withdrawn(1, "feedback_retracted"), rewarded(1, revision=3))
    assert stage.counters == {"admitted": 2, "withdrawn": 1}
    assert stage.bucket.admitted == 1


def test_a_withdrawal_may_come_first_and_twice() -> None:
    stage = CurateRun()
    stage.feed(withdrawn(1), withdrawn(1), rewarded(1, revision=3))
    assert (stage.counters, stage.reasons) == ({"withdrawn": 2, "rejected": 1}, ["retracted"])


def test_an_open_bucket_keeps_the_newest_and_the_rest_is_overflow() -> None:
    stage = CurateRun(open_limit=5, target_effective_size=5)
    stage.feed(*(rewarded(number, event_time=f"2026-09-{1 + number:02d}T00:00:00Z") for number in range(12)))
    assert stage.batches == []  # under decay five of different age are never worth five
    assert stage.reasons == ["overflow"] * 7
    assert stage.counters == {"admitted": 5, "rejected": 7}
    assert stage.bucket.train.size == 5
    stage.feed(rewarded(3, revision=2))
    assert stage.counters == {"admitted": 5, "rejected": 8}, "what fell out may come back"


def test_roles_overflow_on_their_own() -> None:
    stage = CurateRun(open_limit=3, target_effective_size=3)
    stage.feed(rewarded(0, event_time="2020-01-01T00:00:00Z"))
    stage.feed(*(rewarded(number, correction=None, reward=-0.5) for number in range(1, 9)))
    assert (stage.bucket.train.size, stage.bucket.negative.size) == (1, 3)


def test_the_test_pool_keeps_the_newest_and_does_not_fill_the_bucket() -> None:
    stage = CurateRun(test_pool=3, target_effective_size=2)
    stage.feed(*(rewarded(number, split="test") for number in range(5)))
    assert (stage.batches, stage.bucket.fill, stage.counters) == ([], 0.0, {"admitted": 3, "rejected": 2})
    stage.feed(withdrawn(4), rewarded(10), rewarded(11))
    [batch] = stage.batches
    assert [row.split for row in batch.test_pool] == ["test", "test"]
    assert {row.example_id for row in batch.test_pool}.isdisjoint({row.example_id for row in batch.members})
    assert GROUPS["test"][0] not in GROUPS["train"]
    assert stage.state[f"bucket:{BUCKET}"].test.size == 2, "the pool outlives the batch"
