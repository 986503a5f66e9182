"""Pages about learning over a lake: what they show is what their read models, and the commands, say at the same cut."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from markupsafe import escape

from headrace_lake.manifest import LakeFolder
from headrace_lake.query import LakeQuery, opened
from headrace_lake.read_models.example_list import ExampleFilter, example_list
from headrace_lake.read_models.lineage_view import lineage_view
from headrace_lake.read_models.release_view import release_list
from headrace_streams.settings import Settings
from support.console import BUCKET, MARKUP, ServedConsole, hostile_ring, served
from support.learning import GONE, VERSION, add_judged_versions, add_progress
from support.memory_ring import MemoryRing, buckets_of, lake_of


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def ring(data_dir: Path) -> MemoryRing:
    ring = hostile_ring()
    add_progress(ring)
    add_judged_versions(ring, data_dir / "store")
    return ring


@pytest.fixture(scope="module")
def folder(ring: MemoryRing, tmp_path_factory: pytest.TempPathFactory) -> LakeFolder:
    return lake_of(ring.log, tmp_path_factory.mktemp("learning") / "lake")


@pytest.fixture(scope="module")
def console(ring: MemoryRing, folder: LakeFolder, data_dir: Path) -> Iterator[ServedConsole]:
    """With a status that knows curate's state, as that of a log that is reached does."""
    with served(folder, Settings(data_dir=data_dir, store=str(data_dir / "store"))) as console:
        console.report = {
            "stages": [], "troubles": [], "tasks": [], "served": [], "well": True, "buckets": buckets_of(ring.log),
        }  # fmt: skip
        yield console


@pytest.fixture(scope="module")
def lake(folder: LakeFolder) -> Iterator[LakeQuery]:
    with opened(folder, seconds=120) as lake:
        yield lake


def data(console: ServedConsole, path: str) -> Any:
    found = console.ask(path + ("&" if "?" in path else "?") + "format=json")
    assert found.status == 200, found.text
    return json.loads(found.text)


def text(console: ServedConsole, path: str) -> str:
    """What a reader sees, without markup."""
    found = console.ask(path)
    assert found.status == 200, found.text
    main = re.sub(r"(?s)<title>.*?</title>", "", found.text[found.text.index("<main") :])
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", main)).split())


def test_a_bucket_says_why_it_is_not_cut_yet(console: ServedConsole) -> None:
    found = data(console, f"/buckets/{BUCKET}")
    waits = found["summary"]["waits_for"]
    shown = text(console, f"/buckets/{BUCKET}")
    assert found["summary"]["fill"] is not None
    assert f"It waits for {len(waits)} of {len(found['assessment']['parts'])} conditions" in shown
    for part in found["assessment"]["parts"]:
        assert part["name"] in shown
    assert "its target" in shown
    assert "curate.target_effective_size" in shown


def test_a_list_says_the_filter_that_its_address_has(console: ServedConsole, lake: LakeQuery) -> None:
    for query, wanted in (("", ExampleFilter()), ("?agent=bot-1&min_reward=0.2", ExampleFilter(agent="bot-1", min_reward=0.2))):
        found = data(console, f"/examples{query}")
        expected = example_list(lake, wanted)
        assert [row["example_id"] for row in found["rows"]] == [row.example_id for row in expected.rows]
        assert (found["matching"], found["below"]) == (expected.matching, expected.below)
    page = console.ask("/examples?agent=bot-1&min_reward=0.2").text
    assert '<input name="agent" size="12" value="bot-1">' in page
    assert "headrace dataset sql/tiny --agent bot-1 --min-reward 0.2 --out FOLDER" in text(
        console, "/examples?agent=bot-1&min_reward=0.2&bucket=sql/tiny"
    )


def test_the_next_page_begins_where_this_one_ends(console: ServedConsole) -> None:
    first = data(console, "/examples")
    assert first["below"]
    second = data(console, f"/examples?below={first['below']}")
    assert not {row["place"] for row in first["rows"]} & {row["place"] for row in second["rows"]}


@pytest.mark.parametrize("path", ["/examples?min_reward=much", "/examples?below=1", "/examples?since=yesterday", "/runs?below=x"])
def test_an_address_that_asks_for_nothing_that_there_is_gets_a_line(console: ServedConsole, path: str) -> None:
    found = console.ask(path)
    assert found.status == 400
    assert "Traceback" not in found.text


@pytest.mark.parametrize("kind", ["buckets", "examples", "batches", "runs", "versions", "releases", "lineage"])
def test_an_id_that_does_not_exist_is_a_page_that_says_so(console: ServedConsole, kind: str) -> None:
    found = console.ask(f"/{kind}/no-such-id")
    assert found.status == 404
    assert "no-such-id" in html.unescape(found.text)


def test_an_example_shows_its_reward_term_by_term(console: ServedConsole, lake: LakeQuery) -> None:
    row = next(row for row in example_list(lake, ExampleFilter()).rows if row.corrected)
    found = data(console, f"/examples/{row.example_id}")
    assert found["reward"]["agrees"]
    shown = text(console, f"/examples/{row.example_id}")
    assert "The fold, run again over its signals, says the same, byte for byte." in shown
    for term in found["reward"]["trace"]["terms"]:
        assert term["formula"] in shown
        for key, value in term["policy"].items():
            assert f"{key} = {value}" in shown
    assert found["reward"]["voices"][0]["statements"][0]["place"] in shown


def test_hostile_texts_are_shown_and_not_carried_out(console: ServedConsole) -> None:
    for number, said in enumerate(MARKUP):
        found = console.ask(f"/examples/hostile-{number}")
        assert found.status == 200
        assert f"{said} how many?" in html.unescape(found.text)
        assert str(escape(said)) in found.text


def test_lineage_is_what_the_commands_print(console: ServedConsole, lake: LakeQuery) -> None:
    release = release_list(lake).served[0].release_id
    both = lineage_view(lake, release, up=False)
    assert both is not None
    found = data(console, f"/lineage/{quote(release)}")
    assert len(found["made_of"]["records"]) == len(both[0].records)
    assert found["made_of"]["edges"][0] == {
        "upper": both[0].edges[0].upper,
        "lower": both[0].edges[0].lower,
        "how": both[0].edges[0].how,
    }


def test_a_release_has_a_text_of_its_own(console: ServedConsole, lake: LakeQuery) -> None:
    release = release_list(lake).served[0]
    found = data(console, f"/releases/{release.release_id}")
    shown = text(console, f"/releases/{release.release_id}")
    assert list(found["text"]) == ["why", "what changed", "verdict", "chain"]
    for sentence in found["text"].values():
        assert sentence in shown
    assert "No answer by its adapter has been judged" in shown


def test_a_run_shows_its_curve_and_the_figures_beside_it(console: ServedConsole) -> None:
    run = next(row for row in data(console, "/runs")["rows"] if row["step"] is not None)
    assert (run["step"], run["steps"], run["validation_loss"]) == (40, 40, 1.5)
    found = data(console, f"/runs/{run['run_id']}")
    assert [point["step"] for point in found["points"]] == list(range(1, 41))
    page = console.ask(f"/runs/{run['run_id']}").text
    assert page.count("<polyline") == 3  # loss, loss on validation rows, learning rate
    assert "<title>Loss by step: it went from 3 to " in page
    assert text(console, f"/runs/{run['run_id']}").count("training 1 ") == 39
    other = found["siblings"][0]
    both = data(console, f"/runs/{run['run_id']}?with={other},{other},none")
    assert list(both["others"]) == [other]


def test_answers_are_shown_won_lost_and_tied(console: ServedConsole) -> None:
    version = next(row for row in data(console, "/versions")["rows"] if row["version_id"] == VERSION)["version_id"]
    counts = data(console, f"/versions/{version}")["answers"]["counts"]
    assert counts == {"win": 2, "loss": 1, "tie": 1}
    won = data(console, f"/versions/{version}")["answers"]["rows"]
    assert [row["grade"] - row["served_grade"] for row in won] == [100.0, 40.0]  # the largest difference first
    lost = text(console, f"/versions/{version}?outcome=loss")
    assert "select 3 -- <script>document.title='run'</script>" in lost
    assert "grade 0 against 100" in lost
    found = data(console, f"/versions/{version}?outcome=loss")["answers"]["rows"][0]
    assert found["prompt"] is not None
    assert "".join(part["text"] for part in found["differs"] if part["kind"] != "added") == found["served_answer"]


def test_samples_that_are_gone_are_said(console: ServedConsole) -> None:
    gone = next(row for row in data(console, "/versions")["rows"] if row["version_id"] == GONE)
    assert gone["compared"] is not None
    assert data(console, f"/versions/{GONE}")["answers"]["missing"] in text(console, f"/versions/{GONE}")


def test_evidence_is_shown_look_by_look(console: ServedConsole) -> None:
    found = data(console, f"/versions/{VERSION}")
    assert [look["evidence"]["looks"] for look in found["looks"]] == [1, 2]
    names = [part["name"] for part in found["gate"]["parts"][0]["parts"]]
    assert "the bet that it is no better has lost" in names
    assert found["slices"]
    assert "Evidence, look by look" in text(console, f"/versions/{VERSION}")
