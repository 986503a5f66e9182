"""Pages about learning over a lake: what they show is what their read models, and the commands, say at the same cut."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from markupsafe import escape

from headrace_lake.log import changelog_of
from headrace_lake.manifest import LakeFolder
from headrace_lake.query import LakeQuery, opened
from headrace_lake.read_models.example_list import ExampleFilter, example_list
from headrace_lake.read_models.lineage_view import lineage_view
from headrace_lake.read_models.release_view import release_list
from headrace_processors.curate.state import describe_buckets
from headrace_streams.settings import Settings
from support.console import BUCKET, MARKUP, ServedConsole, hostile_ring, served
from support.memory_ring import MemoryRing, lake_of


@pytest.fixture(scope="module")
def ring() -> MemoryRing:
    return hostile_ring()


@pytest.fixture(scope="module")
def folder(ring: MemoryRing, tmp_path_factory: pytest.TempPathFactory) -> LakeFolder:
    return lake_of(ring.log, tmp_path_factory.mktemp("learning") / "lake")


@pytest.fixture(scope="module")
def console(ring: MemoryRing, folder: LakeFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedConsole]:
    """With a status that knows curate's state, as that of a log that is reached does."""
    states = [asyncio.run(changelog_of(ring.log, "curate", "examples", partition)) for partition in range(ring.log.count)]
    with served(folder, Settings(data_dir=tmp_path_factory.mktemp("data"))) as console:
        console.report = {
            "stages": [], "troubles": [], "tasks": [], "served": [], "well": True,
            "buckets": [bucket for state in states for bucket in describe_buckets(state)],
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
