"""The suites that come with the package: each reference passes its check and each wrong answer fails, and a check can't be talked
into a pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace_processors.release.evidence_policy import EvidencePolicy
from headrace_processors.release.protected import harm_on
from headrace_streams.policy import PolicyError
from headrace_trainer.data.rows import RowTokeniser
from headrace_trainer.evaluation.asked import AskedRows, suite_rows
from headrace_trainer.evaluation.checks import CHECKS, why_not
from headrace_trainer.evaluation.evaluate import AskedHeads, evaluate
from headrace_trainer.evaluation.grader import Grader
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from headrace_trainer.policy import EvaluationPolicy
from headrace_trainer.suites import Suite, SuiteMessage, SuiteTask, path_of, read, shipped
from headrace_trainer.suites.check import TextCheck
from support import training_data
from support.answer_forks import forked_answers

ROLES = ("coder", "coordinator", "researcher", "reviewer", "tester")
SUITES = {name: read(path_of(name)) for name in shipped()}


def checked(task: SuiteTask, answer: str) -> str | None:
    assert task.check is not None
    return why_not(answer, task.check.model_dump(mode="json", exclude_none=True))


def test_each_role_has_at_least_thirty_tasks_of_every_level() -> None:
    assert sorted(SUITES) == sorted([*ROLES, "general"])
    for name in ROLES:
        suite = SUITES[name]
        levels = [str(task.level) for task in suite.tasks]
        assert (suite.role, len(levels) >= 30, min(map(levels.count, ("easy", "medium", "hard"))) >= 8) == (name, True, True)
        assert len({(task.messages, task.context) for task in suite.tasks}) == len(levels)


def test_every_reference_passes_and_every_wrong_answer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with forked_answers(monkeypatch):
        for name, suite in SUITES.items():
            right = {task.name: checked(task, str(task.reference)) for task in suite.tasks}
            wrong = {task.name: checked(task, str(task.wrong)) for task in suite.tasks}
            assert (name, {task: why for task, why in right.items() if why is not None}) == (name, {})
            assert (name, [task for task, why in wrong.items() if why is None]) == (name, [])


def by_kind(kind: str) -> tuple[Suite, SuiteTask]:
    return next((suite, task) for suite in SUITES.values() for task in suite.tasks if task.check and task.check.kind == kind)


def test_each_kind_of_check_holds_in_the_process_that_is_cut_off() -> None:
    with Grader(CHECKS) as grader:
        for kind in ("python", "tests", "sql", "json", "number", "text"):
            suite, task = by_kind(kind)
            example = suite.examples("code/tiny")[suite.tasks.index(task)]
            grades = [grader.grade(answer, example, task.check).value for answer in (str(task.reference), str(task.wrong))]
            assert (kind, grades) == (kind, [100.0, 0.0])
        assert not grader.failures


@pytest.mark.parametrize(
    "answer",
    [
        "import os\nos._exit(0)",
        "import sys\nsys.exit()",
        "import os\nos.write(3, b'[]')",
        "print('[{\"gives\": 2}]')",
        "class f:\n    def __eq__(self, other): return True\n    def __init__(self, a): pass",
        "def f(a): return True",
        "while True: pass",
        "import builtins\nbuiltins.eval = lambda *a: 2\ndef f(a): return 3",
    ],
)  # fmt: skip
def test_an_answer_gains_nothing_by_what_it_does_beside_its_task(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_trainer.evaluation.checks.SECONDS", 1.0)
    check = {"kind": "python", "cases": [{"run": "f(1)", "gives": 2}, {"run": "f(2)", "gives": 1}]}
    assert why_not(answer, check) is not None


def test_tests_that_pass_once_and_fail_later_are_no_tests() -> None:
    check = {"kind": "tests", "right": "def f(): return 1", "broken": [f"def f(): return {n}" for n in range(2, 5)]}
    sly = "import os\ndef test_f():\n    assert not os.path.exists('{0}')\n    open('{0}', 'w').close()"
    assert why_not("def test_f(): assert f() == 1", check) is None
    assert why_not("def test_f(): assert True", check) is not None
    assert why_not("f()", check) == "what is right does not pass: there are no tests"
    assert why_not(sly.replace("{0}", "/nowhere/at/all"), check) is not None


def test_tests_that_look_around_see_nothing_to_compare_their_subject_with() -> None:
    check = {"kind": "tests", "right": "a = 1\nb = 1", "broken": ["a = 2\nb = 1", "a = 1\nb = 2"]}
    sly = """
import sys
def test_by_majority():
    frame, seen = sys._getframe(), {}
    while frame:
        seen |= {name: value for name, value in frame.f_locals.items() if name in ("request", "subject")}
        frame = frame.f_back
    others = seen["request"].get("subjects", [seen["subject"]])
    assert all(2 * sum(line in other for other in others) > len(others) for line in seen["subject"].splitlines())
"""
    assert why_not(sly, check) is not None
    assert why_not("def test_both(): assert (a, b) == (1, 1)", check) is None
    assert why_not("import os\nos._exit(0)", check) is not None


def test_an_answer_that_is_nested_deeper_than_can_be_read_fails_and_is_no_fault_of_the_check() -> None:
    assert why_not("[" * 200_000, {"kind": "json", "holds": ["answer == 1"]}) is not None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"name": "a"', "line 2: unexpected end of data"),
        ('{"name": "a", "messages": []}', "line 2: task 'a': messages = []"),
        ('{"name": "a", "messages": [{"role": "user"}], "check": {"kind": "guess"}}', "task 'a': check = {'kind': 'guess'}"),
        ('{"name": "a", "messages": [{"role": "user"}], "check": {"kind": "text"}}', "line 2: task 'a': check.text = "),
        ('{"name": "a", "messages": [{"role": "user"}], "check": {"kind": "text", "matches": ["("]}}', "is no regular"),
        (
            '{"name": "a", "messages": [{"role": "user"}], "check": {"kind": "python", "cases": [{"run": "f("}]}}',
            "line 2: task 'a': check.python.cases.0.run = 'f(': no Python expression",
        ),
        (
            '{"name": "a", "messages": [{"role": "user"}], "check": {"kind": "json", "holds": ["True", "f("]}}',
            "line 2: task 'a': check.json.holds.1 = 'f(': no Python expression",
        ),
        ('{"name": "first", "messages": [{"role": "user"}]}', "task 'first': there are two of that name"),
        ('{"name": "a", "messages": [{"role": "user"}], "level": "harder"}', "line 2: task 'a': level = 'harder'"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_of_lines_is_one_line_with_its_number(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "s.jsonl").write_text('{"name": "first", "messages": [{"role": "user", "content": "?"}]}\n' + line + "\n")
    (tmp_path / "s.toml").write_text('name = "s"\nfile = "s.jsonl"\n')
    with pytest.raises(PolicyError) as refused:
        read(tmp_path / "s.toml")
    text = str(refused.value)
    assert text.startswith(f"suite file {tmp_path / 's.jsonl'}")
    assert said in text
    assert "\n" not in text


def test_a_fault_in_toml_is_found_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(
        'name = "s"\n\n[[tasks]]\nname = "a"\nmessages = [{ role = "user" }]\n\n'
        '[[tasks]]\nname = "b"\nlevel = "odd"\nmessages = []\n'
    )
    with pytest.raises(PolicyError, match=r"s\.toml line (9|10): task 'b': (messages|level) = "):
        read(path)
    path.write_text('name = "s"\nfile = "gone.jsonl"\n')
    with pytest.raises(PolicyError, match=r"file = 'gone\.jsonl': .*No such file"):
        read(path)
    with pytest.raises(PolicyError, match="suite 'coders': there is no such file, and the package brings coder, coordinator"):
        path_of("coders")


def test_a_head_that_has_forgotten_what_the_served_one_can_do_is_caught_by_the_checks_of_a_suite(
    tiny_base: Path, trained: Path
) -> None:
    base = load_base(str(tiny_base))
    model, _ = lora.attach(base.model, training_data.HYPER, 1)  # broken on purpose: it has learnt nothing
    for name in ("incumbent", "head_0"):
        lora.add(model, trained, name)
    tasks = tuple(
        SuiteTask(
            name=f"{number}", messages=(SuiteMessage(role="user", content=f"{number} + 1 ?"),),
            check=TextCheck(kind="text", matches=("^the",)),
        )
        for number in range(8)
    )  # fmt: skip
    asked = suite_rows(Suite(name="sums", tasks=tasks), "sums/tiny", RowTokeniser(base.tokenizer, 512), needs_reference=True)
    policy, heads = EvaluationPolicy(max_new_tokens=24), AskedHeads(earlier={"v0": "head_0"})
    with Grader(CHECKS) as checker:
        report = evaluate(model, base, AskedRows([]), policy=policy, heads=heads, suites=[asked], checker=checker)
    whole, broken = (harm_on(EvidencePolicy(), result.suites or ()) for result in report.heads)
    assert (report.incumbent["sums.success"].value, report.candidate["sums.success"].value) == (1.0, 0.0)
    assert whole is None
    assert broken is not None
    assert (broken.suite, broken.shown) == ("sums", True)


def test_a_task_with_a_check_is_graded_by_it_also_where_no_grader_is(tiny_base: Path) -> None:
    base = load_base(str(tiny_base))
    model, _ = lora.attach(base.model, training_data.HYPER, 1)
    message = SuiteMessage(role="user", content="?")
    anything = TextCheck(kind="text", without=("never said",))
    tasks = (
        SuiteTask(name="any", messages=(message,), check=anything),
        SuiteTask(name="silent", messages=(message,), reference="a"),
    )
    asked = suite_rows(Suite(name="odd", tasks=tasks), "sums/tiny", RowTokeniser(base.tokenizer, 512), needs_reference=True)
    with Grader(CHECKS) as checker:
        report = evaluate(model, base, AskedRows([]), policy=EvaluationPolicy(max_new_tokens=2), checker=checker, suites=[asked])
    assert (report.candidate["odd.success"].value, report.candidate["odd.success"].n) == (1.0, 1)
    assert (report.candidate["odd.loss"].n, report.comparison.n) == (1, 0)
