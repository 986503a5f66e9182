"""An agent with unit tests and no human corrections gets a first release: the pure folds of the ring, and a job of a tiny base.

Prompts are drawn when interactions come, graded without a reference, and promote what learnt from right answers alone.
"""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from headrace_processors.curate.fold import build as build_curate
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.reward.fold import build as build_reward
from headrace_processors.reward.policy import RewardPolicy
from headrace_schemas.canonical import sha256
from headrace_schemas.codec import decode, encode
from headrace_schemas.derived import Batch, HeadResult
from headrace_schemas.events import BatchReady
from headrace_schemas.selection import run_members
from headrace_trainer.data.members import MemberKey, MemberRefused, verify_prompt
from headrace_trainer.job.run import run
from headrace_trainer.policy import EvaluationPolicy, GraderPolicy
from headrace_trainer.spec import JobResult, JobSpec
from headrace_trainer.stage.catalogue import Catalogue
from support import training_data
from support.examples import prompt_withdrawn
from support.outcomes import ReleaseRun, evaluation
from support.signals import StageRun, feedback, interaction
from support.training_data import BUCKET

TESTS = GraderPolicy(name="support.graders:says_sum", needs_reference=False, execution=True)
EVALUATION = EvaluationPolicy(max_new_tokens=16, batch_rows=16)


def batch_of(*, graded: bool) -> tuple[Batch, dict[MemberKey, bytes]]:
    """What the folds make of an agent that is right on every other question, told by its unit tests only."""
    types = ["sums"] if graded else []
    reward = StageRun(build_reward(RewardPolicy.model_validate({"draw": {"artifact_types": types}}).body(), ""), "signals")
    policy = CuratePolicy.model_validate({"graded": types, "target_effective_size": 100.0, "near_duplicate": None})
    curate = StageRun(build_curate(policy.body(), policy.digest), "examples")
    values: dict[MemberKey, bytes] = {}
    for number in range(400):
        right = number % 2 == 0
        output, score = (f"the sum is {number + 1}", 100.0) if right else ("?", 0.0)
        asked = interaction(
            f"i{number}", artifact_type="sums", prompt=f"{number} + 1 ?", output=output, prompt_group=f"g{number}"
        )
        kind = "success" if right else "validation_failure"
        told = feedback(f"f{number}", f"i{number}", kind, score=score, principal={"id": "unit tests", "kind": "test"})
        for written in reward.feed(asked, told):
            value = written.value if isinstance(written.value, bytes) else encode(written.value)
            made = curate.feed(value)
            data: Any = decode(value).data
            values[getattr(data, "prompt_id", None) or data.example_id, getattr(data, "revision", 1)] = value
            for output_ in made:
                if isinstance(output_.value, BatchReady):
                    return output_.value.data, values
    raise AssertionError("no batch was cut")


@pytest.fixture(scope="module")
def judged(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Batch, JobResult, JobSpec]:
    batch, values = batch_of(graded=True)
    folder = tmp_path_factory.mktemp("first")
    spec = JobSpec(
        training_data.start(batch), batch, str(tiny_base), values, folder, threads=1, evaluation=EVALUATION, grader=TESTS
    )
    return batch, run(spec), spec


def test_the_test_side_holds_what_was_asked_whatever_was_answered(judged: tuple[Batch, JobResult, JobSpec]) -> None:
    batch, result, _ = judged
    prompts = batch.prompts or []
    drawn, wrong = ([each for each in prompts if each.drawn is is_drawn] for is_drawn in (True, False))
    assert len(drawn) == len(wrong) + len(batch.test_pool) >= 10
    assert wrong
    assert all(row.role == "train" for row in batch.test_pool)
    assert result.left_out is None


def test_only_drawn_rows_are_graded_and_no_group_is_selected(judged: tuple[Batch, JobResult, JobSpec]) -> None:
    batch, result, _ = judged
    report = result.report
    [head] = report.heads
    drawn = sum(prompt.drawn for prompt in batch.prompts or ())
    assert report.measure == "success"
    assert sum(group.drawn or 0 for group in head.groups) == drawn == len(head.groups)
    assert not any(group.selected for group in head.groups)
    assert report.candidate["success"].n == report.incumbent["success"].n == drawn
    assert report.candidate["success"].value > 0.8 > 0.2 > report.incumbent["success"].value
    assert report.candidate["loss"].n == len(batch.test_pool)  # prompts have none
    assert report.ungraded is None


def test_it_gets_its_first_release_and_without_drawn_prompts_it_goes_before_a_person(
    judged: tuple[Batch, JobResult, JobSpec],
) -> None:
    _, result, _ = judged
    assert result.report.measure is not None

    def answered(heads: list[HeadResult]) -> tuple[str, str]:
        stage = ReleaseRun(rule="evidence")
        named = [replace(head, version_id="v1") for head in heads]
        value = evaluation("v1", bucket=BUCKET, measure=result.report.measure, heads=named)
        kind, answer = stage.answer(value)
        return kind, answer.reason

    kind, reason = answered(list(result.report.heads))
    assert (kind, reason.startswith("evidence: success gain")) == ("promoted", True)
    [head] = result.report.heads
    chosen = [replace(group, selected=True, drawn=None) for group in head.groups]
    kind, reason = answered([replace(head, groups=chosen)])
    assert (kind, reason.startswith("needs_decision: selected_rows")) == ("declined", True)


def test_without_a_grader_for_it_nothing_is_drawn_and_wrong_answers_stay_out() -> None:
    batch, _ = batch_of(graded=False)
    assert batch.prompts is None


@pytest.mark.parametrize(
    ("grader", "generate", "reason"),
    [
        (None, "always", "no_grader"),
        (TESTS.model_copy(update={"needs_reference": True}), "always", "needs_reference"),
        (TESTS, "never", "not_generated"),
    ],
)
def test_prompts_that_nobody_can_grade_are_left_out_and_counted(
    judged: tuple[Batch, JobResult, JobSpec], grader: GraderPolicy | None, generate: Any, reason: str, tmp_path: Path
) -> None:
    batch, result, spec = judged
    policy = EVALUATION.model_copy(update={"generate": generate})
    again = run(dataclasses.replace(spec, candidate=result.folder, folder=tmp_path, grader=grader, evaluation=policy))
    assert (again.left_out or {})["prompts"] == {reason: len(batch.prompts or [])}
    [head] = again.report.heads
    assert all(group.drawn is None for group in head.groups)
    assert len(head.groups) == len(batch.test_pool)


class OneTopic:
    """As much of a reader as a catalogue asks, over one record of `examples`."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    async def partition_of(self, topic: str, key: str) -> int:
        return 0

    async def read_partition(self, topic: str, partition: int, start: int) -> Any:
        if topic == "examples" and start == 0:
            yield SimpleNamespace(value=self._value, offset=0, headers=())


def test_a_prompt_that_is_erased_after_its_batch_was_cut_is_not_asked() -> None:
    kept, gone = training_data.drawn(1), training_data.drawn(2)
    batch = replace(training_data.batch([training_data.recorded(3).member]), prompts=[kept.member, gone.member])
    erased = prompt_withdrawn(2, "erased")
    known = Catalogue(OneTopic(erased), 0)  # type: ignore[arg-type]
    asyncio.run(known.refresh(batch.bucket))
    withdrawn = known.withdrawn_of(batch)
    assert withdrawn == [gone.member.example_id]
    assert run_members(batch, training_data.start(batch, withdrawn=withdrawn)).prompts == [kept.member]


def test_a_prompt_is_the_record_that_its_member_names_and_holds_no_answer() -> None:
    drawn, wrong = training_data.drawn(3), training_data.wrong(training_data.recorded(4, "test"))
    for recorded in (drawn, wrong):
        example = verify_prompt(recorded.member, recorded.value)
        assert (example.content.output, example.content.target) == ("", "")
        assert (example.example_id, example.model) == (recorded.member.example_id, "tiny")
    for member, value in (
        (drawn.member, None),
        (drawn.member, wrong.value),
        (replace(drawn.member, sha256=sha256(wrong.value)), wrong.value),
        (replace(wrong.member, sha256=sha256(drawn.value)), drawn.value),
        (replace(wrong.member, drawn=True), wrong.value),
        (replace(wrong.member, revision=2), wrong.value),
    ):
        with pytest.raises(MemberRefused):
            verify_prompt(member, value)
