"""Tasks are drawn from interactions of the test side, whatever is said of them, once each, and go when their interaction does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.reward.fold import NEWEST, build
from headrace_processors.reward.policy import RewardPolicy
from headrace_processors.stages import STAGES
from headrace_schemas.derived import DrawnPrompt, Withdrawal
from headrace_schemas.events import ExampleRewarded, ExampleWithdrawn, PromptDrawn
from headrace_schemas.splits import split_of
from headrace_schemas.topics import DAY_MS
from headrace_streams.runtime.stage import Record
from support.examples import GROUPS
from support.signals import (
    START_MS,
    StageRun,
    events_on,
    feedback,
    feedback_retracted,
    interaction,
    interaction_retracted,
    subject_erased,
    tree_of,
)

TEST, TRAIN = GROUPS["test"][0], GROUPS["train"][0]


def run(through_dump: bool = False, version: int = NEWEST, **draw: Any) -> StageRun:
    policy = RewardPolicy.model_validate({"draw": {"artifact_types": ["sql"], **draw}})
    return StageRun(build(policy.body(), "", version), "signals", through_dump=through_dump)


def prompts(stage: StageRun) -> list[DrawnPrompt]:
    return [event.data for event in events_on(stage.outputs, "examples") if isinstance(event, PromptDrawn)]


def withdrawals(stage: StageRun) -> list[Withdrawal]:
    return [event.data for event in events_on(stage.outputs, "examples") if isinstance(event, ExampleWithdrawn)]


def test_an_interaction_of_the_test_side_is_drawn_before_anybody_speaks_and_shows_no_answer() -> None:
    stage = run()
    [written] = stage.feed(interaction(prompt_group=TEST, context="shop", tools=[{"name": "run"}], adapter="sha256:" + "ab" * 32))
    [prompt] = prompts(stage)
    assert (written.topic, written.key) == ("examples", "sql/tiny")
    assert (prompt.bucket, prompt.prompt_group, prompt.content.prompt, prompt.content.context) == (
        "sql/tiny",
        TEST,
        "how many?",
        "shop",
    )
    assert (prompt.interaction_id, prompt.model, prompt.adapter) == ("i1", "tiny", "sha256:" + "ab" * 32)
    assert [tool.name for tool in prompt.content.tools or ()] == ["run"]
    assert "select 1" not in str(tree_of(written))
    assert stage.counters == {"applied": 1, "prompt_drawn": 1}


def test_bucket_and_group_of_a_prompt_are_those_of_the_example() -> None:
    stage = run()
    for number in range(60):
        stage.feed(
            interaction(f"i{number}", prompt=f"how does one {chr(97 + number % 26)}{chr(97 + number // 26)}?"),
            feedback(f"f{number}", f"i{number}"),
        )
    examples = {
        event.data.interaction_id: event.data
        for event in events_on(stage.outputs, "examples")
        if isinstance(event, ExampleRewarded)
    }
    assert len(prompts(stage)) == stage.counters["prompt_drawn"] > 1
    for prompt in prompts(stage):
        assert (prompt.bucket, prompt.prompt_group) == (
            examples[prompt.interaction_id].bucket,
            examples[prompt.interaction_id].prompt_group,
        )
    drawn = {prompt.interaction_id for prompt in prompts(stage)}
    assert drawn == {name for name, example in examples.items() if split_of(example.bucket, example.prompt_group) == "test"}


said = st.lists(st.sampled_from(["success", "validation_failure", "explicit_negative", "user_correction"]), max_size=3)


@given(st.lists(st.tuples(st.sampled_from(GROUPS["test"][:20]), said, st.booleans(), st.booleans()), min_size=1, max_size=12))
@settings(max_examples=40)
def test_what_is_drawn_does_not_depend_on_what_came_of_the_answer(rows: list[tuple[str, list[str], bool, bool]]) -> None:
    silent, spoken = run(), run()
    for number, (group, kinds, early, failed) in enumerate(rows):
        silent.feed(interaction(f"i{number}", prompt_group=group))
        more: dict[str, Any] = {"finish_reason": "length", "output": ""} if failed else {}
        about = [
            feedback(f"f{number}-{place}", f"i{number}", kind, corrected_output="x" if "correction" in kind else None)
            for place, kind in enumerate(kinds)
        ]
        records = (
            [*about, interaction(f"i{number}", prompt_group=group, **more)]
            if early
            else [interaction(f"i{number}", prompt_group=group, **more), *about]
        )
        spoken.feed(*records)
    assert prompts(silent) == prompts(spoken)
    assert len(prompts(silent)) == len(rows)


@pytest.mark.parametrize(
    ("draw", "fields", "counted"),
    [
        ({}, {"prompt_group": TRAIN}, {}),
        ({"artifact_types": []}, {"prompt_group": TEST}, {}),
        ({"artifact_types": None}, {"prompt_group": TEST}, {}),
        ({}, {"prompt_group": TEST, "train": False}, {"prompt_not_for_training": 1}),
        ({"max_bytes": 1000}, {"prompt_group": TEST, "prompt": "x" * 1000}, {"prompt_too_large": 1}),
        ({"share": 1e-9}, {"prompt_group": TEST}, {"prompt_not_chosen": 1}),
    ],
)
def test_what_is_not_drawn_is_counted_where_it_could_have_been(
    draw: dict[str, Any], fields: dict[str, Any], counted: dict[str, int]
) -> None:
    stage = run(**draw)
    stage.feed(interaction(**fields))
    assert (prompts(stage), stage.counters) == ([], {"applied": 1, **counted})


def test_a_share_is_chosen_by_the_hash_of_the_group() -> None:
    stages = run(share=0.25), run(share=0.25)
    for number, group in enumerate(GROUPS["test"]):
        stages[0].feed(interaction(f"i{number}", prompt_group=group))
        stages[1].feed(interaction(f"other{number}", prompt_group=group, prompt="again"))
    chosen = [[prompt.prompt_group for prompt in prompts(stage)] for stage in stages]
    assert chosen[0] == chosen[1]
    assert 0.15 < len(chosen[0]) / len(GROUPS["test"]) < 0.35


def test_an_interaction_is_drawn_once() -> None:
    stage = run()
    stage.feed(
        interaction(prompt_group=TEST), interaction(prompt_group=TEST), feedback(), interaction(prompt_group=TEST, output="b")
    )
    assert len(prompts(stage)) == 1
    assert stage.counters == {"applied": 2, "duplicate": 1, "conflict": 1, "prompt_drawn": 1}


def test_rule_version_2_draws_nothing() -> None:
    stage = run(version=2)
    stage.feed(interaction(prompt_group=TEST))
    assert (prompts(stage), stage.counters) == ([], {"applied": 1})


@pytest.mark.parametrize("through_dump", [False, True])
@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("how", ["retracted", "erased"])
def test_a_prompt_is_withdrawn_with_its_interaction_once(how: str, example: bool, through_dump: bool) -> None:
    stage = run(through_dump)
    stage.feed(interaction(prompt_group=TEST, data_subject="ann"))
    if example:
        stage.feed(feedback())
    end = interaction_retracted() if how == "retracted" else subject_erased("ann", minute=60)
    stage.feed(end, end, subject_erased("ann", minute=90))
    [prompt], gone = prompts(stage), withdrawals(stage)
    assert [(each.reason, each.bucket) for each in gone if each.example_id == prompt.prompt_id] == [(how, "sql/tiny")]
    assert len(gone) == 1 + example


def test_feedback_that_is_taken_back_leaves_the_prompt() -> None:
    stage = run()
    stage.feed(interaction(prompt_group=TEST), feedback(), feedback_retracted())
    [prompt] = prompts(stage)
    assert prompt.prompt_id not in [each.example_id for each in withdrawals(stage)]


def test_an_interaction_that_was_erased_before_it_came_is_not_drawn() -> None:
    stage = run()
    stage.feed(subject_erased("ann", minute=60), interaction(prompt_group=TEST, data_subject="ann"))
    stage.feed(interaction_retracted("i2"), interaction("i2", prompt_group=TEST))
    assert prompts(stage) == []


def expired(stage: StageRun, days: float) -> None:
    """Time passes: what is due is written by the task itself, and read."""
    now = START_MS + round(days * DAY_MS)
    due = [key for key, value in stage.state.items() if (at := stage.fold.deadline(key, value)) is not None and at <= now]
    for written in stage.fold.overdue(stage.state, due, now):
        value = msgspec.json.encode(tree_of(written))
        stage.apply(stage.fold.step(stage.state, Record("signals", 0, 10_000, now, now, None, value, ())))


@pytest.mark.parametrize("how", ["retracted", "erased"])
def test_a_prompt_of_an_interaction_that_has_expired_can_still_be_withdrawn(how: str) -> None:
    stage = run(through_dump=True)
    stage.feed(interaction(prompt_group=TEST, data_subject="ann"))
    expired(stage, 91)
    assert not any(key.startswith("content/") for key in stage.state)
    stage.feed(interaction_retracted() if how == "retracted" else subject_erased("ann", minute=60))
    [prompt] = prompts(stage)
    assert [(each.example_id, each.reason) for each in withdrawals(stage)] == [(prompt.prompt_id, how)]


def test_what_comes_again_after_it_has_expired_is_not_drawn_again() -> None:
    stage = run()
    stage.feed(interaction(prompt_group=TEST))
    expired(stage, 91)
    stage.feed(interaction(prompt_group=TEST))
    assert len(prompts(stage)) == 1


def cases(stage: StageRun) -> list[str]:
    return [key for key in stage.state if key.startswith("interaction/")]


def test_a_prompt_alone_is_forgotten_a_year_after_its_interaction_has_expired() -> None:
    stage = run(through_dump=True)
    stage.feed(interaction(prompt_group=TEST, data_subject="ann"))
    expired(stage, 91)
    expired(stage, 91 + 364)
    assert len(cases(stage)) == 1
    expired(stage, 91 + 366)
    assert cases(stage) == []
    stage.feed(subject_erased("ann", minute=60))
    assert withdrawals(stage) == [], "curate has let go of it by then"


def test_what_was_an_example_too_can_be_withdrawn_for_ever() -> None:
    stage = run(through_dump=True)
    stage.feed(interaction(prompt_group=TEST), feedback("f1"))
    for days in (91, 500, 5000):
        expired(stage, days)
    assert len(cases(stage)) == 1
    stage.feed(interaction_retracted())
    assert len(withdrawals(stage)) == 2, "the example and the prompt"


def test_no_shorter_than_curate_keeps_it() -> None:
    assert RewardPolicy().forget_prompts_after_days >= (CuratePolicy().keep_days or 0)


def test_until_rule_version_4_no_prompt_is_forgotten() -> None:
    recorded = next(stage for stage in STAGES if stage.name == "reward").versions[3].absent
    assert recorded["forget_prompts_after_days"] == 0
