"""Where nobody grades, a group with good and bad answers tells by how much a model prefers the good ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from headrace_schemas.derived import Content, Example
from headrace_trainer.data.rows import RowTokeniser, TokenisedExample, TokenRow
from headrace_trainer.evaluation.asked import AskedRows, bad_answers
from headrace_trainer.evaluation.evaluate import AskedHeads, evaluate
from headrace_trainer.evaluation.grader import Grader
from headrace_trainer.evaluation.groups import RowMeasures, group_results, margins_of
from headrace_trainer.job.run import run
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from headrace_trainer.objectives.sft import row_losses
from headrace_trainer.policy import EvaluationPolicy, GraderPolicy
from headrace_trainer.spec import JobSpec
from support import training_data
from support.training import rows_of

POLICY = EvaluationPolicy(max_new_tokens=8)


def row(number: int, group: str, *, model: str = "gpt", corrected: bool = True) -> Example:
    content = Content(prompt="?", output="wrong", target="right" if corrected else "wrong")
    return training_data.example(number, prompt_group=group, model=model, content=content)


def asked(examples: Sequence[Example]) -> list[TokenisedExample]:
    return [TokenisedExample(TokenRow(example.example_id, (1,), (2, 3)), example) for example in examples]


def test_a_margin_is_by_how_much_the_good_answers_of_a_group_are_likelier_than_its_bad_ones() -> None:
    tests, bad = [row(1, "a"), row(2, "a"), row(3, "b"), row(4, "c")], [row(1, "a"), row(4, "c"), row(5, "d")]
    ours = RowMeasures([1.0, 2.0, 1.0, 3.0], bad=[4.0, 2.0, 9.0])
    theirs = RowMeasures([1.0, 1.0, 1.0, 3.0], bad=[1.5, 2.0, 9.0])
    assert margins_of(tests, bad, ours, 100.0) == {"a": 2.5, "c": -1.0}
    found = group_results(asked(tests), ours, theirs, base="tiny", served=None, worst=100.0, bad=bad)
    assert sorted(each.margin_gain for each in found if each.margin_gain is not None) == [0.0, 2.0]
    assert len(found) == 3
    plain = RowMeasures(ours.losses), RowMeasures(theirs.losses)
    alone = group_results(asked(tests), *plain, base="tiny", served=None, worst=1.0)
    assert {each.margin_gain for each in alone} == {None}


def test_the_answer_of_what_is_served_is_no_good_answer_of_a_margin() -> None:
    tests, bad = [row(1, "a", model="tiny", corrected=False)], [row(2, "a")]
    [group] = group_results(
        asked(tests), RowMeasures([1.0], bad=[2.0]), RowMeasures([2.0], bad=[2.0]), base="tiny", served=None, worst=1.0, bad=bad
    )
    assert (group.margin_gain, group.loss_gain) == (None, None)


def test_bad_answers_are_what_was_corrected_and_negatives(tiny_base: Path) -> None:
    tokeniser = RowTokeniser(load_base(str(tiny_base)).tokenizer, 200)
    corrected, right = row(1, "a"), row(2, "b", corrected=False)
    empty = structs.replace(row(3, "c"), content=Content(prompt="?", output="", target="right"))
    rows = [tokeniser.example(example, 1.0) for example in (corrected, right, empty)]
    negative = tokeniser.example(row(4, "d", corrected=False), 1.0)._replace(scored=False)
    found = bad_answers([*rows, negative], tokeniser)
    assert [each.example.example_id for each in found] == [corrected.example_id, negative.example.example_id]
    assert found[0].row.prompt == rows[0].row.prompt
    assert found[0].row.completion == tokeniser.example(right, 1.0).row.completion


def test_margins_are_measured_where_grades_do_not_count_and_counted_where_policy_says_so(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    tokeniser = RowTokeniser(base.tokenizer, 200)
    tests = rows_of(base, range(50, 56))
    bad = bad_answers(tests, tokeniser)
    assert len(bad) == 6
    wrong, right = (row_losses(base.model, [test.row for test in rows], base, 8192, "fp32") for rows in (bad, tests))
    plain = [one - other for one, other in zip(wrong, right, strict=True)]
    model = lora.load(base.model, trained)
    pool = AskedRows(tests, bad=bad)
    report = evaluate(model, base, pool, policy=POLICY, heads=AskedHeads("tiny", watched=""))
    assert report.measure == "loss"
    assert report.incumbent["margin"].value == pytest.approx(sum(plain) / 6, rel=1e-5)
    assert report.incumbent["ranked"].value == pytest.approx(sum(value > 0 for value in plain) / 6)
    gains = [group.margin_gain for group in report.heads[-1].groups if group.margin_gain is not None]
    difference = report.candidate["margin"].value - report.incumbent["margin"].value
    assert sum(gains) / 6 == pytest.approx(difference)
    assert difference > 0, "it has learnt the good answers"
    assert {group.margin_gain for group in report.watched or ()} == {0.0}
    counted = evaluate(model, base, pool, policy=POLICY.model_copy(update={"without_grader": "margin"}))
    assert counted.measure == "margin"
    with Grader(GraderPolicy(name="support.graders:same")) as judge:
        graded = evaluate(model, base, pool, policy=POLICY, grader=judge)
    assert (graded.measure, "margin" in graded.candidate) == ("success", False)
    assert {group.margin_gain for group in graded.heads[-1].groups} == {None}


def test_a_job_measures_margins_by_itself(tiny_base: Path, trained: Path, tmp_path: Path) -> None:
    tests = [training_data.recorded(number, "test") for number in range(40, 44)]
    batch = training_data.batch([], [each.member for each in tests])
    values = training_data.values(*tests)
    spec = JobSpec(
        training_data.start(batch),
        batch,
        str(tiny_base),
        values,
        tmp_path / "run",
        candidate=trained,
        threads=1,
        evaluation=POLICY,
    )
    assert run(spec).report.candidate["margin"].n == 4
    graded = replace(spec, grader=GraderPolicy(name="support.graders:same"), folder=tmp_path / "graded")
    assert "margin" not in run(graded).report.candidate
