"""Suites are asked at every evaluation beside the rows of feedback, and what is wrong in a file is one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headrace_schemas.canonical import sha256
from headrace_streams.evaluation_samples import read as read_samples
from headrace_streams.policy import PolicyError
from headrace_streams.runtime.stage import Record
from headrace_streams.settings import Settings
from headrace_trainer.data.rows import RowTokeniser
from headrace_trainer.evaluation.asked import AskedRows, suite_rows
from headrace_trainer.evaluation.evaluate import AskedHeads, evaluate
from headrace_trainer.evaluation.grader import Grader
from headrace_trainer.job.process import Hardware
from headrace_trainer.job.run import run
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from headrace_trainer.policy import EvaluationPolicy, GraderPolicy, RequirementPolicy, SuitePolicy, TrainerPolicy, load
from headrace_trainer.spec import JobSpec
from headrace_trainer.stage.context import TrainerContext
from headrace_trainer.stage.events import Origin, pins
from headrace_trainer.suites import MOST_TASKS, Suite, SuiteMessage, SuiteTask, read, together
from support import training_data
from support.training import rows_of

POLICY = EvaluationPolicy(max_new_tokens=24, batch_rows=4)
SAME = GraderPolicy(name="support.graders:same")
FILE = """
name = "sums"

[[tasks]]
name = "ninety"
messages = [{ role = "user", content = "90 + 1 ?" }]
reference = "the sum is 91"

[[tasks]]
name = "no reference"
messages = [{ role = "system", content = "be short" }, { role = "user", content = "91 + 1 ?" }]
tools = [{ name = "add", parameters = { type = "object" } }]
"""


def task(name: str, prompt: str, reference: str | None = None) -> SuiteTask:
    return SuiteTask(name=name, messages=(SuiteMessage(role="user", content=prompt),), reference=reference)


KNOWN = [task(f"t{number}", f"{number} + 1 ?", f"the sum is {number + 1}") for number in range(90, 96)]
SUMS = Suite(name="sums", tasks=(*KNOWN, task("free", "96 + 1 ?")))


def written(folder: Path, text: str, name: str = "sums.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_suite_is_what_its_file_says_and_named_by_what_it_asks(tmp_path: Path) -> None:
    suite = read(written(tmp_path, FILE))
    assert (suite.name, suite.protected, [each.name for each in suite.tasks]) == ("sums", True, ["ninety", "no reference"])
    first, second = suite.examples("sums/tiny")
    assert (first.content.target, second.content.target) == ("the sum is 91", "")
    assert second.content.tools is not None
    assert second.content.tools[0].name == "add"
    assert first.train is False
    spaced = read(written(tmp_path, FILE.replace(" = ", "=") + "# a remark\n", "again.toml"))
    assert spaced.content_digest == suite.content_digest
    assert read(written(tmp_path, FILE.replace("91", "92"), "other.toml")).content_digest != suite.content_digest


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("reference =", "refrence ="), "task 'ninety': refrence = 'the sum is 91': there is no such field"),
        (('role = "user", content = "91', 'role = "usr", content = "91'), "task 'no reference': messages.1.role = 'usr'"),
        (('name = "ninety"\n', ""), "task number 1: name = "),
        (('name = "no reference"', 'name = "ninety"'), "task 'ninety': there are two of that name"),
        (('name = "sums"', 'name = "My Sums"'), "name = 'My Sums': String should match"),
        (("[[tasks]]", "[[task]]"), "tasks = "),
        (('name = "sums"', 'name = "sums'), "Illegal character"),
        (('messages = [{ role = "user", content = "90 + 1 ?" }]', "messages = []"), "task 'ninety': messages = []"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_suite_is_one_line_with_file_task_and_field(
    tmp_path: Path, change: tuple[str, str], line: str
) -> None:
    path = written(tmp_path, FILE.replace(*change))
    with pytest.raises(PolicyError) as refused:
        read(path)
    assert str(refused.value).startswith("suite file ")
    assert str(path) in str(refused.value)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"suite file .*gone\.toml.*No such file"):
        read(tmp_path / "gone.toml")


def test_suites_of_a_bucket_have_names_of_their_own_and_so_many_tasks_that_an_evaluation_holds_them() -> None:
    with pytest.raises(PolicyError, match="two suites of a bucket are called 'sums'"):
        together([SUMS, SUMS])
    many = Suite(name="many", tasks=tuple(task(f"t{n}", "?") for n in range(MOST_TASKS)))
    with pytest.raises(PolicyError, match=f"{MOST_TASKS + 7} tasks, {MOST_TASKS} are the most"):
        together([SUMS, many])


def test_a_policy_names_suites_by_bucket_relative_to_its_file_and_a_run_pins_what_they_ask(tmp_path: Path) -> None:
    (tmp_path / "suites").mkdir()
    written(tmp_path / "suites", FILE)
    path = written(
        tmp_path,
        '[[train.suites]]\nfile = "suites/sums.toml"\nbucket = "sums/*"\n'
        '[[train.suites]]\nfile = "suites/gone.toml"\nbucket = "sql/*"\n',
        "policy.toml",
    )
    policy = load(path)
    assert policy.suite_files_of("sums/tiny") == [str(tmp_path / "suites" / "sums.toml")]
    settings = Settings(data_dir=tmp_path)
    with pytest.raises(PolicyError, match=r"gone\.toml"):
        TrainerContext(settings, policy, Hardware("cpu", "fp32"))
    twice = SuitePolicy(file=str(written(tmp_path, FILE)))
    with pytest.raises(PolicyError, match="two suites of a bucket are called 'sums'"):
        TrainerContext(settings, policy.model_copy(update={"suites": (policy.suites[0], twice)}), Hardware("cpu", "fp32"))
    context = TrainerContext(settings, policy.model_copy(update={"suites": policy.suites[:1]}), Hardware("cpu", "fp32"))
    [suite] = context.suites_of("sums/tiny")
    assert context.suites_of("sql/tiny") == []
    origin = Origin(Record("batches", 0, 0, 0, 0, None, None), training_data.batch([training_data.recorded(1).member]))
    start = pins(origin, TrainerPolicy(), "fp32", parent_adapter=None, parent_release_id=None, rehearsal=[], suites=[suite])
    assert [(pinned.name, pinned.sha256) for pinned in start.suites or ()] == [("sums", suite.content_digest)]


def test_every_head_is_asked_the_suites_and_the_comparison_is_about_the_test_rows_alone(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    tokeniser = RowTokeniser(base.tokenizer, 200)
    tests = rows_of(base, range(50, 56))
    model, again = (lora.load(load_base(str(tiny_base)).model, trained) for _ in range(2))  # merging leaves traces of 1e-7
    for each in (model, again):
        lora.add(each, trained, "head_0")
    asked = [suite_rows(SUMS, "sums/tiny", tokeniser)]
    needs = [
        RequirementPolicy(name="held", metric="sums.success", target=0.0),
        RequirementPolicy(name="x", metric="y.loss", target=0.0),
    ]
    pool, heads = AskedRows(tests), AskedHeads("tiny", earlier={"v1": "head_0"})
    with Grader(SAME) as judge:
        plain = evaluate(model, base, pool, policy=POLICY, grader=judge, heads=heads)
        report = evaluate(again, base, pool, policy=POLICY, grader=judge, heads=heads, suites=asked, requirements=needs)
    assert report.comparison == plain.comparison
    assert [head.groups for head in report.heads] == [head.groups for head in plain.heads]
    assert [head.suites for head in plain.heads] == [None, None]
    older, own = (head.suites[0] for head in report.heads if head.suites)
    assert older == own
    assert (own.name, own.sha256, own.protected, own.left_out) == ("sums", SUMS.content_digest, True, None)
    assert len({each.group for each in own.tasks}) == 7
    assert sorted(each.loss_gain is None for each in own.tasks) == [False] * 6 + [True]
    assert all(each.success_gain is not None and not each.selected for each in own.tasks)
    gains = [each.loss_gain for each in own.tasks if each.loss_gain is not None]
    gain = report.incumbent["sums.loss"].value - report.candidate["sums.loss"].value
    assert sum(gains) / 6 == pytest.approx(gain)
    assert gain > 0
    assert report.candidate["sums.success"].n == 7
    assert [(met.satisfied, met.current) for met in report.requirements] == [
        (True, report.candidate["sums.success"].value),
        (False, None),
    ]
    rows = [sample for sample in report.samples if sample.suite == "sums"]
    assert len(rows) == 14
    assert {sample.answer is None for sample in rows} == {False}


def test_a_task_that_tells_nothing_or_cannot_be_asked_is_counted(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    odd = SuiteTask(name="odd", messages=(SuiteMessage(role="user", content="?"),), reference=" ")
    suite = Suite(name="sums", protected=False, tasks=(task("a", "1 + 1 ?", "2"), task("free", "2 + 1 ?"), odd))
    asked = [suite_rows(suite, "sums/tiny", RowTokeniser(base.tokenizer, 200))]
    report = evaluate(lora.load(base.model, trained), base, AskedRows([]), policy=POLICY, heads=AskedHeads("tiny"), suites=asked)
    [result] = report.heads[-1].suites or []
    assert (len(result.tasks), result.left_out) == (1, {"answer_empty": 1, "not_graded": 1})
    assert not result.protected
    assert (report.comparison.n, set(report.candidate)) == (0, {"sums.loss", "sums.perplexity"})
    assert [sample.left_out for sample in report.samples] == [None, None, "answer_empty"]


def test_a_job_asks_the_suites_that_it_is_given(tiny_base: Path, trained: Path, tmp_path: Path) -> None:
    tests = [training_data.recorded(number, "test") for number in range(40, 44)]
    batch = training_data.batch([], [each.member for each in tests])
    values = training_data.values(*tests)
    spec = JobSpec(
        training_data.start(batch), batch, str(tiny_base), values, tmp_path / "run", candidate=trained, threads=1,
        evaluation=POLICY, grader=SAME, suites=[SUMS],
    )  # fmt: skip
    result = run(spec)
    [suite] = result.report.heads[-1].suites or []
    assert suite.name == "sums"
    assert (len(suite.tasks), suite.left_out) == (6, {"needs_reference": 1}), "compared with nothing, every answer is wrong"
    assert result.samples is not None
    content = result.samples.path.read_bytes()
    samples = read_samples(content, sha256(content))
    assert [sample.suite for sample in samples] == [None] * 4 + ["sums"] * 7
    assert [sample.left_out for sample in samples] == [None] * 10 + ["needs_reference"]
    telling = SAME.model_copy(update={"needs_reference": False})
    [suite] = run(replace(spec, grader=telling, folder=tmp_path / "telling")).report.heads[-1].suites or []
    assert (len(suite.tasks), suite.left_out) == (7, None)
    assert run(replace(spec, suites=[], folder=tmp_path / "other")).report.heads[-1].suites is None
