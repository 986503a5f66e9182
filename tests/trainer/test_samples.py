"""What an evaluation keeps row by row is what it counted, and a row that says nothing about loss is graded all the same."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from headrace_schemas.canonical import sha256
from headrace_schemas.derived import Content
from headrace_schemas.inputs import Message, RefPart
from headrace_streams.evaluation_samples import read
from headrace_trainer.data.rows import RowTokeniser
from headrace_trainer.evaluation.asked import AskedRows
from headrace_trainer.evaluation.evaluate import INCUMBENT, AskedHeads, evaluate
from headrace_trainer.evaluation.grader import Grader
from headrace_trainer.evaluation.groups import RowMeasures, group_digest, invalid_reason
from headrace_trainer.job.run import run
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from headrace_trainer.policy import EvaluationPolicy, GraderPolicy
from headrace_trainer.spec import JobSpec
from support import training_data
from support.training import rows_of

POLICY = EvaluationPolicy(max_new_tokens=24, batch_rows=4)
SAME = GraderPolicy(name="support.graders:same")


def test_samples_say_row_by_row_what_the_comparison_counts(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    tests = rows_of(base, range(50, 62))
    model = lora.load(base.model, trained)
    lora.add(model, trained, "head_0")
    with Grader(SAME) as judge:
        heads = AskedHeads("tiny", earlier={"v1": "head_0"})
        report = evaluate(model, base, AskedRows(tests), policy=POLICY, grader=judge, heads=heads)
    own = [sample for sample in report.samples if sample.head is None]
    older = [sample for sample in report.samples if sample.head == "v1"]
    assert [sample.example_id for sample in own] == [test.example.example_id for test in tests]
    assert [(sample.answer, sample.loss) for sample in older] == [(sample.answer, sample.loss) for sample in own]
    assert {sample.group for sample in own} == {group.group for group in report.heads[-1].groups}
    counted = [sum(sample.outcome == outcome for sample in own) for outcome in ("win", "loss", "tie")]
    assert counted == [report.comparison.wins, report.comparison.losses, report.comparison.ties]
    gains = [sample.served_loss - sample.loss for sample in own if sample.loss is not None and sample.served_loss is not None]
    assert math.fsum(gains) / 12 == pytest.approx(report.comparison.loss_gain.value)
    assert all(isinstance(sample.answer, str) and isinstance(sample.served_answer, str) for sample in own)
    assert all(
        sample.grade == 100.0 * (sample.answer == test.example.content.target) for sample, test in zip(own, tests, strict=True)
    )


def test_a_negative_of_the_test_side_is_graded_and_its_answer_is_no_loss(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    recorded = [training_data.recorded(number, "test", role="negative" if number % 2 else "train") for number in range(50, 62)]
    values = training_data.values(*recorded)
    tests = RowTokeniser(base.tokenizer, 200).members([each.member for each in recorded], values).examples
    assert [test.scored for test in tests] == [True, False] * 6
    with Grader(SAME) as judge:
        report = evaluate(
            lora.load(base.model, trained), base, AskedRows(tests), policy=POLICY, grader=judge, heads=AskedHeads("tiny")
        )
        fresh = lora.load(load_base(str(tiny_base)).model, trained)
        alone = evaluate(fresh, base, AskedRows(tests[1::2]), policy=POLICY, grader=judge)
    assert report.comparison.n == report.candidate["loss"].n == 6
    assert report.candidate["success"].n == 12
    assert {(sample.loss is None, sample.grade is None) for sample in report.samples} == {(False, False), (True, False)}
    by_group = {group.group: group for group in report.heads[-1].groups}
    for test in tests:
        group = by_group[group_digest(test.example)]
        assert (group.loss_gain is not None, group.success_gain is not None) == (test.scored, True)
    assert ("loss" in alone.candidate, "success" in alone.candidate, alone.comparison.n) == (False, True, 0)


def test_without_losses_only_equal_answers_are_the_same() -> None:
    one = RowMeasures([None, None], [0.0, 0.0], ["a", "b"])
    assert invalid_reason(one, RowMeasures([None, None], [0.0, 0.0], ["a", "c"])) is None
    assert (invalid_reason(one, one) or "").startswith("same_answers")
    assert invalid_reason(RowMeasures([None]), RowMeasures([None])) is None


def test_what_is_served_by_another_name_is_identical_by_its_answers_too(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    model = lora.load(base.model, trained)
    lora.add(model, trained, INCUMBENT)
    with Grader(SAME) as judge:
        [head] = evaluate(model, base, AskedRows(rows_of(base, range(50, 53))), policy=POLICY, grader=judge).heads
    assert (head.invalid or "").startswith("identical")


TRAIN = [training_data.recorded(number) for number in range(16)]
TESTS = [training_data.recorded(number, "test") for number in range(40, 52)]
UNFIT = training_data.recorded(
    52,
    "test",
    content=Content(
        prompt="?", output="!", target=Message(role="assistant", content=[RefPart(media_type="image/png", uri="s3://x/y.png")])
    ),
)


@pytest.fixture
def spec(tiny_base: Path, tmp_path: Path) -> JobSpec:
    made = [*TRAIN, *TESTS, UNFIT]
    batch = training_data.batch([each.member for each in TRAIN], [each.member for each in (*TESTS, UNFIT)])
    values = training_data.values(*made)
    return JobSpec(
        training_data.start(batch), batch, str(tiny_base), values, tmp_path / "run", threads=1, evaluation=POLICY, grader=SAME
    )


def test_a_job_leaves_its_samples_in_a_file_with_what_was_left_out(spec: JobSpec) -> None:
    result = run(spec)
    assert result.samples is not None
    assert result.report.samples == ()
    content = result.samples.path.read_bytes()
    samples = read(content, sha256(content))
    assert len(samples) == result.samples.rows == 13
    assert [sample.example_id for sample in samples if sample.left_out] == [UNFIT.member.example_id]
    assert [sample.left_out for sample in samples if sample.left_out] == ["answer_has_references"]
    assert sum(sample.outcome == "win" for sample in samples) == result.report.comparison.wins


def test_a_policy_bounds_what_is_kept_or_keeps_nothing(spec: JobSpec, tmp_path: Path) -> None:
    short = replace(spec, evaluation=POLICY.model_copy(update={"samples_characters": 3, "samples_mb": 2e-5}))
    result = run(short)
    assert result.samples is not None
    content = result.samples.path.read_bytes()
    kept = [sample for sample in read(content, sha256(content)) if sample.left_out is None]
    assert {len(sample.answer) for sample in kept if sample.answer} == {3}
    assert {sample.cut for sample in kept} == {"characters", "bytes"}
    assert all(sample.loss is not None for sample in kept)
    none = replace(
        spec, evaluation=POLICY.model_copy(update={"samples_mb": 0.0}), candidate=result.folder, folder=tmp_path / "by"
    )
    assert run(none).samples is None
