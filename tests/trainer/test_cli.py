"""What `headrace train` and `evaluate` print, and when they say no."""

import json

import pytest

from headrace_cli.common import CliError
from headrace_schemas.derived import Comparison, Gain, Measure, Requirement
from headrace_trainer.cli import _print
from headrace_trainer.spec import EvaluationReport
from headrace_trainer.stage.by_hand import JobSummary

MEASURE = Measure(value=0.5, low=0.4, high=0.6, n=40)
GAIN = Gain(value=0.1, low=0.05, high=0.2)
REPORT = EvaluationReport(
    {"loss": MEASURE},
    {"loss": MEASURE},
    Comparison(loss_gain=GAIN, n=40, wins=9, losses=1, ties=30, p_value=0.01),
    [Requirement(name="good", metric="loss", target=1.0, direction="at_most", satisfied=True, current=0.5)],
)


def test_figures_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = JobSummary("sha256:a", 24, 9, 500, 1.5, REPORT, recorded="sha256:a")
    assert _print(outcome, as_json=False) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["adapter"] == "sha256:a"
    assert lines["wins"] == "9 : 1, ties 30, p 0.01"
    assert lines["require:good"] == "loss 0.5 at_most 1.0: met"
    assert lines["loss"].startswith("0.5 [0.4, 0.6], n 40; served 0.5")
    _print(outcome, as_json=True)
    assert json.loads(capsys.readouterr().out)["report"]["comparison"]["wins"] == 9


def test_another_digest_than_the_recorded_one_is_a_no() -> None:
    with pytest.raises(CliError, match="the log has sha256:b") as error:
        _print(JobSummary("sha256:a", 24, 9, 500, 1.5, REPORT, recorded="sha256:b"), as_json=True)
    assert error.value.exit_code == 1


def test_what_was_left_out_and_what_stood_in_the_way_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = JobSummary("sha256:a", 24, 9, 500, 1.5, REPORT, left_out={"training": {"answer_empty": 2}}, notes=["no stop"])
    _print(outcome, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert "left out     training: 2 answer_empty" in lines
    assert "note 1       no stop" in lines
    _print(outcome, as_json=True)
    assert json.loads(capsys.readouterr().out)["left_out"] == {"training": {"answer_empty": 2}}
