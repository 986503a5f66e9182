"""The alert rules: promtool runs their unit tests; each has a runbook section and asks for metrics that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import drawn
import pytest
import yaml

from headrace_schemas.topology import TOPOLOGY
from support.readme import ROOT

FOLDER = ROOT / "deploy" / "prometheus"
ALERTS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
TESTS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.test.yml").read_text())["tests"]

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus")


@promtool
@pytest.mark.parametrize("arguments", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")])
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_to_fire_and_to_be_silent() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    for test in TESTS:
        for case in test["alert_rule_test"]:
            (fires if case.get("exp_alerts") else silent).add(case["alertname"])
    names = [alert["alert"] for alert in ALERTS]
    assert len(set(names)) == len(names)
    assert fires == set(names)
    assert silent >= {alert["alert"] for alert in ALERTS if "for" in alert}


def test_every_stage_but_a_trainer_is_asked_for() -> None:
    (expression,) = [alert["expr"] for alert in ALERTS if alert["alert"] == "HeadraceStageAbsent"]
    assert re.findall(r'stage="(\w+)"', expression) == [stage.name for stage in TOPOLOGY if stage.name != "train"]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_leads_to_a_section_of_the_runbook_and_asks_for_metrics_that_there_are(alert: dict[str, Any]) -> None:
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert page == "docs/runbook.md"
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
    assert alert["labels"]["severity"] in ("warning", "critical")
    asked = set(re.findall(r"headrace_\w+", alert["expr"]))
    assert asked or alert["alert"] == "HeadraceProcessDown"
    assert asked <= {metric.name for metric in drawn.exported()}
