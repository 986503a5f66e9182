"""A grader that asks a model does not judge what it alone has taught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headrace_schemas.derived import Example
from headrace_trainer.data.members import key_of
from headrace_trainer.evaluation.raters import self_graded
from headrace_trainer.job.run import run
from headrace_trainer.policy import EvaluationPolicy, GraderPolicy
from headrace_trainer.spec import JobSpec
from support import training_data

JUDGE = GraderPolicy(name="support.graders:same", raters=("judge-1",))


def rated(*principals: str) -> Example:
    return training_data.example(1, principals=list(principals) or None)


@pytest.mark.parametrize(
    ("policy", "rows"),
    [
        (JUDGE, [rated("agent:judge-1"), rated("validator:support.graders:same")]),
        (GraderPolicy(name="my-judge"), [rated("agent:my-judge")]),
    ],
)
def test_whose_feedback_alone_was_learnt_says_nothing(policy: GraderPolicy, rows: list[Example]) -> None:
    assert (self_graded(policy, rows) or "").startswith(f"self_graded: grader {policy.name!r} asks a model")


@pytest.mark.parametrize(
    ("policy", "rows"),
    [
        (JUDGE.model_copy(update={"execution": True}), [rated("agent:judge-1")]),
        (JUDGE, [rated("agent:judge-1"), rated("agent:judge-1", "human:ann")]),
        (JUDGE, [rated("agent:judge-1"), rated()]),
        (JUDGE, [rated("agent:judge-2")]),
        (JUDGE, [rated("test:judge-1")]),
        (JUDGE, []),
    ],
)
def test_who_executes_or_was_not_alone_may_judge(policy: GraderPolicy, rows: list[Example]) -> None:
    assert self_graded(policy, rows) is None


@pytest.fixture(scope="module")
def spec(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> JobSpec:
    learnt = [training_data.recorded(number, principals=["agent:judge-1"]) for number in range(12)]
    tests = [training_data.recorded(number, "test") for number in range(40, 44)]
    batch = training_data.batch([each.member for each in learnt], [each.member for each in tests])
    values = training_data.values(*learnt, *tests)
    folder = tmp_path_factory.mktemp("run")
    policy = EvaluationPolicy(max_new_tokens=8)
    return JobSpec(training_data.start(batch), batch, str(tiny_base), values, folder, threads=1, evaluation=policy, grader=JUDGE)


def test_a_version_that_its_own_judge_would_judge_is_invalid_whether_it_was_trained_or_only_evaluated(spec: JobSpec) -> None:
    trained = run(spec)
    assert (trained.report.heads[-1].invalid or "").startswith("self_graded")
    assert trained.report.measure == "success"
    again = run(replace(spec, candidate=trained.folder, folder=spec.folder / "again"))
    assert again.report.heads[-1].invalid == trained.report.heads[-1].invalid
    other = training_data.recorded(13, principals=["human:ann"])
    learnt, values = [other.member], {**spec.values, key_of(other.member): other.value}
    later = replace(spec, candidate=trained.folder, folder=spec.folder / "later", learnt=learnt, values=values)
    assert run(later).report.heads[-1].invalid is None, "a batch that it has not learnt says nothing about it"
    tests = {key: value for key, value in spec.values.items() if key in {(m.example_id, 1) for m in spec.batch.test_pool}}
    without = replace(spec, candidate=trained.folder, folder=spec.folder / "without", values=tests)
    assert run(without).report.heads[-1].invalid is None


def test_where_its_grades_do_not_count_it_may_look(spec: JobSpec) -> None:
    silent = replace(spec, evaluation=EvaluationPolicy(generate="never"), folder=spec.folder / "silent")
    report = run(silent).report
    assert (report.measure, report.heads[-1].invalid) == ("loss", None)
