"""A grader may loop, eat memory, crash or lie: it costs that row, and the next row is graded as if nothing had been."""

import time
from pathlib import Path

import pytest

from headrace_trainer.evaluation.grader import Grader, GraderMissing, ungraded
from headrace_trainer.policy import GraderPolicy, load
from support import training_data

EXAMPLE = training_data.example(1)


def policy(function: str, **changed: object) -> GraderPolicy:
    return GraderPolicy.model_validate({"name": f"support.graders:{function}", "seconds": 0.5, **changed})


def test_it_grades_with_options_and_may_print() -> None:
    with Grader(policy("same", options={"loud": True})) as grader:
        assert grader.grade("the sum is 2", EXAMPLE).value == 100.0
        assert grader.grade("the sum is 3", EXAMPLE) == (0.0, None)


@pytest.mark.parametrize(
    ("function", "reason", "kind"),
    [
        ("loops", "no answer within 0.5 s", "late"),
        ("sleeps_in_c", "no answer within 0.5 s", "late"),
        ("eats", "MemoryError", "raised"),
        ("crashes", "SIGSEGV", "ended"),
        ("leaves", "exit code 3", "ended"),
        ("raises", "ValueError: no such table", "raised"),
        ("lies", "grade 120.0 is outside 0-100", "out_of_range"),
        ("is_nan", "grade nan is outside 0-100", "out_of_range"),
    ],
)
def test_what_goes_wrong_costs_one_row(function: str, reason: str, kind: str) -> None:
    seconds = 0.5 if reason.startswith("no answer") else 15.0  # what is not about time must not be cut short by a busy machine
    with Grader(policy(function, memory_mb=200, seconds=seconds)) as grader:
        began = time.monotonic()
        grade = grader.grade("bad", EXAMPLE)
        assert time.monotonic() - began < 20
        assert grade.value == 0.0
        assert grade.reason is not None
        assert reason in grade.reason
        assert grader.grade("good", EXAMPLE) == (50.0, None)
        assert grader.failures == {kind: 1}


def test_a_grader_that_is_not_there_is_named() -> None:
    with pytest.raises(GraderMissing, match="'sql-of-nobody' is not installed"):
        Grader(policy("x").model_copy(update={"name": "sql-of-nobody"}))
    with Grader(policy("nothing_of_that_name")) as grader, pytest.raises(GraderMissing, match="nothing_of_that_name"):
        grader.grade("x", EXAMPLE)


def test_what_it_may_read_is_named_relative_to_the_policy_file(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text('[train.graders.sql]\nname = "m:f"\nfolders = ["tables", "/var/lib/x"]')
    assert load(tmp_path / "policy.toml").graders["sql"].folders == (str(tmp_path / "tables"), "/var/lib/x")


def test_answers_without_a_grade_are_counted_whoever_was_to_grade_them() -> None:
    grader, checker = Grader(GraderPolicy(name="a:b")), Grader(GraderPolicy(name="c:d"))
    assert ungraded(grader, checker) is ungraded(None, None) is None
    grader.failures["late"] += 1
    checker.failures.update(late=1, raised=2)
    assert ungraded(grader, checker) == {"late": 2, "raised": 2}
    assert ungraded(None, checker) == {"late": 1, "raised": 2}
