"""The control arm: the same prompts in the same order with other rows' targets, and what a release goes on from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from headrace_demo.run.control import ShuffledTargets, job_of, lineage
from headrace_schemas.derived import Comparison, Gain, Member, PromptMember
from headrace_schemas.selection import dataset_members, run_members
from headrace_trainer.data.members import RecordValues, key_of, verify
from headrace_trainer.policy import BasePolicy, TrainerPolicy
from headrace_trainer.spec import EvaluationReport, JobResult
from support import training_data
from support.training_data import RecordedExample, recorded

ROWS = [recorded(number) for number in range(40)]
WATCHED = [recorded(number, "validation") for number in range(40, 50)]
NEGATIVES = [recorded(number, role="negative") for number in range(50, 55)]
TESTS = [recorded(number, "test") for number in range(60, 70)]
BATCH = structs.replace(
    training_data.batch([row.member for row in (*ROWS, *NEGATIVES, *WATCHED[:5])], [row.member for row in TESTS], name="first"),
    validation_pool=[row.member for row in WATCHED[5:]],
    prompts=[PromptMember(example_id="p", revision=1, sha256="x", locator=TESTS[0].member.locator, drawn=True)],
)
START = training_data.start(BATCH)


def values_of(*rows: RecordedExample) -> RecordValues:
    return {key_of(row.member): row.value for row in rows}


def pairs(members: list[Member], values: RecordValues) -> list[tuple[Any, Any]]:
    """(prompt, target) of the members, each held against its digest."""
    contents = [verify(member, values.get(key_of(member))).content for member in members]
    return [(content.prompt, content.target) for content in contents]


def test_every_prompt_keeps_its_place_and_gets_the_target_of_another_row_of_its_side() -> None:
    values = values_of(*ROWS, *WATCHED)
    assert {key_of(member) for member in dataset_members(BATCH, START)} == set(values)
    batch, start, shuffled = ShuffledTargets(1).run(BATCH, START, values)
    before, after = run_members(BATCH, START), run_members(batch, start)
    assert (after.test, after.prompts) == ([], [])
    for side in ("training", "validation"):
        told, other = pairs(getattr(before, side), values), pairs(getattr(after, side), shuffled)
        assert [prompt for prompt, _ in other] == [prompt for prompt, _ in told]
        assert sorted(target for _, target in other) == sorted(target for _, target in told)
        assert sum(one == two for one, two in zip(told, other, strict=True)) <= 5
    assert [member.weight for member in after.training] == [member.weight for member in before.training]


def test_a_row_that_is_rehearsed_keeps_its_wrong_target_in_a_later_revision_too() -> None:
    control = ShuffledTargets(1)
    batch, start, shuffled = control.run(BATCH, START, values_of(*ROWS, *WATCHED))
    first = dict(pairs(run_members(batch, start).training, shuffled))
    fresh = [recorded(number) for number in range(100, 120)]
    revised = recorded(3, revision=2)
    rehearsed = [revised, *ROWS[10:20]]
    later = training_data.batch([row.member for row in fresh], name="second")
    pins = training_data.start(later, rehearsal=[row.member for row in rehearsed])
    batch, start, shuffled = control.run(later, pins, values_of(*fresh, *rehearsed))
    again = dict(pairs(run_members(batch, start).rehearsal, shuffled))
    assert len(again) == 11
    assert again == {prompt: first[prompt] for prompt in again}
    assert start.rehearsal[0].revision == 2


def test_a_seed_shuffles_always_alike_and_another_one_otherwise() -> None:
    def made(seed: int) -> RecordValues:
        return ShuffledTargets(seed).run(BATCH, START, values_of(*ROWS, *WATCHED))[2]

    assert made(1) == made(1) != made(2)


def version(name: str, parent: str | None) -> Any:
    return SimpleNamespace(version_id=name, adapter=SimpleNamespace(digest=f"adapter of {name}"), parent_adapter=parent)


def test_a_release_is_repeated_from_the_first_version_that_it_goes_on_from() -> None:
    made = [version("a", None), version("b", "adapter of a"), version("x", None), version("c", "adapter of b")]
    assert [one.version_id for one in lineage(made, "c")] == ["a", "b", "c"]
    assert [one.version_id for one in lineage(made, "x")] == ["x"]
    with pytest.raises(StopIteration):
        lineage(made, "nowhere")


def test_a_run_goes_on_with_the_optimiser_of_the_one_before_where_the_release_did(tmp_path: Path) -> None:
    policy = TrainerPolicy(bases={"tiny": BasePolicy(weights="weights")})
    report = EvaluationReport({}, {}, Comparison(loss_gain=Gain(value=0.0, low=0.0, high=0.0), n=0), [])
    before = JobResult(tmp_path / "adapter", 1, False, 1.0, report, None, optimiser=tmp_path / "optimiser")
    carried = structs.replace(START, optimiser="sha256:1")
    told = [
        job_of(BATCH, start, {}, policy, tmp_path, last) for start, last in ((carried, before), (START, before), (START, None))
    ]
    assert [spec.optimiser for spec in told] == [before.optimiser, None, None]
    assert [spec.learner for spec in told] == [before.folder, before.folder, None]
