"""What-if and Policies: an operator starts a trial, one at a time, and the page shows what the command prints."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from headrace_cli.main import invoke
from headrace_console.sankey import flow_graphic
from headrace_console.whatif_run import TrialAsked, TrialRunning, WhatIfRun, run_of
from headrace_lake.manifest import LakeFolder
from headrace_streams.settings import Settings
from support.browser import tab
from support.console import ServedConsole, form_of, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

POLICY = """[reward]
bonus = { success = -2.0 }
[curate]
target_effective_size = 6
min_chars = 25
[release]
min_test_rows = 10000
"""


@pytest.fixture(scope="module")
def console(lake: LakeFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedConsole]:
    with served(lake, Settings(data_dir=tmp_path_factory.mktemp("what-if"))) as console:
        yield console


@pytest.fixture(scope="module")
def tried(console: ServedConsole) -> dict[str, Any]:
    """The model of the page after a trial."""
    answer = asked(console, POLICY)
    assert "It has begun" in answer
    return ended(console)


def asked(console: ServedConsole, policy: str, **more: str) -> str:
    """The answer to the form, sent as a browser does."""
    sent = form_of(console.ask("/do/whatif?subject=policy").text)
    fields = {"policy": policy, "reason": "a trial", "lake": str(console.folder.path), **sent, **more}
    return console.ask("/do/whatif", form=fields).text


def ended(console: ServedConsole) -> dict[str, Any]:
    end = time.monotonic() + 120
    while True:
        model: dict[str, Any] = json.loads(console.ask("/what-if?format=json").text)
        if model["running"] is None:
            return model
        assert time.monotonic() < end, model["running"]
        time.sleep(0.2)


def test_the_page_shows_what_the_command_prints(
    tried: dict[str, Any], console: ServedConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = console.settings.data_dir / "again.toml"
    policy.write_text(POLICY)
    code = invoke(["whatif", "--lake", str(console.folder.path), "--policy", str(policy), "--json", "--no-texts", "--top", "20"])
    printed = json.loads(capsys.readouterr().out)
    assert code == 0
    assert {**tried["report"], "policy": ""} == {**printed, "policy": ""}
    assert tried["error"] is None
    assert tried["asked"]["by"] == "tester"
    page = console.ask("/what-if").text
    assert f"{printed['rewards']['lower']} lower" in page
    for flow in printed["examples"]["flows"]:
        assert f"{flow['before']} → {flow['after']}: {flow['examples']:,}" in page.replace("&gt;", ">")
    assert "reward.bonus.success" in page
    assert "a trial" in page


def test_a_flip_opens_in_two_columns_with_the_texts_of_the_lake(tried: dict[str, Any], console: ServedConsole) -> None:
    flip = tried["report"]["rewards"]["largest"][0]
    page = console.ask(f"/what-if?flip={flip['example_id']}").text
    assert "<tr><th></th><th>Recorded</th><th>Tried</th></tr>" in page
    assert '<tr class="marked"><td>feedback</td><td>0.3</td><td>-2</td></tr>' in page
    assert "feedback 0.3 -&gt; -2" in page
    assert "select" in page
    assert flip["place"] in page
    missing = console.ask("/what-if?flip=nobody")
    assert (missing.status, "no example &#39;nobody&#39;" in missing.text) == (404, True)


def test_a_report_holds_no_text_of_anybody(tried: dict[str, Any], console: ServedConsole) -> None:
    folder = console.settings.data_dir / "console" / f"{console.settings.deployment}.what-if"
    kept = (folder / "report.json").read_text()
    assert "texts" not in kept
    assert "how many" not in kept
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("policy", "more", "said"),
    [
        ("[reward]\nbonsu = 1\n", {}, "policy: reward.bonsu = 1: there is no such field"),
        ("[reward", {}, "policy: Expected"),
        (POLICY, {"since": "yesterday"}, "&#39;yesterday&#39; is no RFC 3339 time"),
        (POLICY, {"reason": " "}, "a reason is asked for"),
        (POLICY, {"lake": "/etc"}, "it is one of"),
        (POLICY, {"bucket": "sql/\0x"}, "no bucket has a name like that"),
    ],
)
def test_what_can_not_be_tried_is_said_in_the_form(
    tried: dict[str, Any], console: ServedConsole, policy: str, more: dict[str, str], said: str
) -> None:
    page = asked(console, policy, **more)
    assert said in page
    assert policy.split("\n")[0] in page  # what was typed is still there
    assert json.loads(console.ask("/what-if?format=json").text) == tried


def test_only_an_operator_may_try(console: ServedConsole) -> None:
    assert console.ask("/do/whatif?subject=policy", cookie=None).status == 401


def test_one_trial_runs_at_a_time_and_one_that_fails_says_why(console: ServedConsole, lake: LakeFolder) -> None:
    run = WhatIfRun(console.settings.data_dir / "another")
    assert run.seen().asked is None
    wanted = TrialAsked(policy=POLICY, by="ann", reason="why not", bucket="sql/nobody")
    run.start(wanted, lake.path, "headrace")
    with pytest.raises(TrialRunning, match="a trial is under way"):
        run.start(wanted, lake.path, "headrace")
    assert run.seen().running
    end = time.monotonic() + 120
    while (seen := run.seen()).running is not None:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert (seen.asked, seen.report) == (wanted, None)
    assert "bucket 'sql/nobody' has no example under either policy" in (seen.error or "")


@pytest.mark.parametrize("kept", ["{", "[]", '{"who": 1}', '{"policy": "", "by": "x", "reason": 1}'])
def test_what_is_kept_of_a_trial_and_can_not_be_read_is_no_trial(kept: str, tmp_path: Path) -> None:
    run = WhatIfRun(tmp_path)
    (tmp_path / "asked.json").write_text(kept)
    (tmp_path / "said.txt").write_text("")
    assert run.seen().asked is None


def test_a_console_that_starts_anew_shows_the_last_trial(tried: dict[str, Any], console: ServedConsole) -> None:
    seen = run_of(console.settings).seen()
    assert seen.report == tried["report"]


def test_columns_of_the_graphic_are_fixed_and_ribbons_fill_their_nodes() -> None:
    flows = [
        {"before": "learnt", "after": "learnt", "examples": 60},
        {"before": "learnt", "after": "rejected", "examples": 30},
        {"before": "test row", "after": "rejected", "examples": 10},
    ]
    graphic = flow_graphic(flows)
    assert {node.x for node in graphic.nodes} == {250, 638}
    assert [(ribbon.examples, ribbon.stays) for ribbon in graphic.ribbons] == [(60, True), (30, False), (10, False)]
    left = next(node for node in graphic.nodes if node.name == "learnt" and node.x == 250)
    assert left.height == pytest.approx(300 * 0.9)
    assert flow_graphic([]).nodes == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_trial_is_seen_in_chromium(
    tried: dict[str, Any], console: ServedConsole, chromium: Browser, width: int, scheme: str
) -> None:
    flip = tried["report"]["examples"]["largest"][0]["example_id"]
    with tab(chromium, console, width=width, color_scheme=scheme) as shown:
        for address in ("/what-if", f"/what-if?flip={flip}", "/policies", "/do/whatif?subject=policy"):
            assert shown.open(address) == 200
            assert shown.faults == []
            assert shown.over <= 0, address
        shown.open("/what-if")
        assert shown.page.locator("main svg path.moves").count() > 0


def test_policies_say_what_each_changed(tried: dict[str, Any], console: ServedConsole) -> None:
    model = json.loads(console.ask("/policies?format=json").text)
    stages = {each["stage"] for each in model["policies"]}
    assert {"intake", "link", "reward", "curate", "release"} <= stages
    assert all(each["holds"] and each["first"] for each in model["policies"])
