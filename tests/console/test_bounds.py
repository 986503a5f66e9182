"""What a page may cost: queries at once, seconds, rows, characters. What is beyond a bound is said, with what to do."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from jinja2 import UndefinedError

from headrace_console import live, reading
from headrace_console.doctor_watch import DoctorWatch
from headrace_console.page import ConsolePage, PageRequest
from headrace_console.reading import EACH, QUERIES, LakeBusy, LakeReader
from headrace_console.rendering import CELL, environment, shown
from headrace_console.ring_graphic import BAR, nodes_of, pieces_of
from headrace_console.status_watch import StatusWatch
from headrace_lake.manifest import ForeignLake, LakeFolder
from headrace_lake.query import QueryStopped
from headrace_schemas.topology import TOPOLOGY
from headrace_streams.settings import Settings
from support.console import served

SLOW = "SELECT count(*) FROM range(100000000000) a, range(100) b WHERE a.range + b.range < 0"


def rendered(template: str, **values: Any) -> str:
    return environment().from_string(template).render(values)


def test_a_fifth_page_waits_a_moment_and_is_then_told_to_come_back(lake: LakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE_SECONDS", 0.2)
    free = threading.Event()

    async def read() -> None:
        reader = LakeReader(lake)
        reads = [asyncio.create_task(reader.read(lambda *_: free.wait(20), "somebody")) for _ in range(EACH)]
        await asyncio.sleep(0)
        with pytest.raises(LakeBusy, match=f"{EACH} pages of yours are read already"):
            await reader.read(lambda *_: None, "somebody")
        assert await reader.read(lambda query, _: query.run("SELECT 1").rows, "another") == [(1,)]
        reads.append(asyncio.create_task(reader.read(lambda *_: free.wait(20), "another")))
        await asyncio.sleep(0)
        with pytest.raises(LakeBusy, match=f"{QUERIES} pages are read already"):
            await reader.read(lambda *_: None, "a third")
        free.set()
        assert await asyncio.gather(*reads) == [True] * QUERIES
        assert await reader.read(lambda query, _: query.run("SELECT 1").rows) == [(1,)]
        reader.close()

    asyncio.run(read())


def test_what_takes_too_long_is_stopped_and_does_not_stay(lake: LakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SECONDS", 0.2)

    async def read() -> None:
        reader = LakeReader(lake)
        for _ in range(QUERIES + 1):  # a slot that a stopped query kept would be missed at the last
            with pytest.raises(QueryStopped):
                await reader.read(lambda query, _: query.run(SLOW))
        reader.close()

    asyncio.run(read())


@pytest.fixture
def pages_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the console's pages these read models."""

    def make(**models: Callable[[PageRequest], Any]) -> None:
        listed = [
            ConsolePage(path=f"/{name}", title=name, about=".", model=model, template="contents.html")
            for name, model in models.items()
        ]
        monkeypatch.setattr("headrace_console.server.pages", lambda: tuple(listed))

    return make


def test_errors_of_a_page_are_pages_with_what_to_do(
    lake: LakeFolder, tmp_path: Path, pages_of: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(asked: PageRequest) -> Any:
        raise ValueError("secret detail")

    def busy(asked: PageRequest) -> Any:
        raise LakeBusy("one more")

    monkeypatch.setattr(reading, "SECONDS", 0.2)
    pages_of(
        slow=lambda asked: asked.lake.run(SLOW), wrong=lambda asked: asked.lake.run("DROP TABLE x"), broken=broken, busy=busy
    )
    with served(lake, Settings(data_dir=tmp_path)) as console:
        for path, status, words, again in (
            ("/slow", 503, "stopped after 0.2 s: ask for less", False),  # it would be stopped again, at the same cost
            ("/busy", 503, "one more", True),
            ("/wrong", 400, "one SELECT is asked for", False),
            ("/broken", 500, "the console's log says where", False),
            ("/none", 404, "there is no page /none", False),
        ):
            page, data = console.ask(path), console.ask(f"{path}?format=json")
            assert (page.status, data.status) == (status, status)
            assert words in page.text.replace("&#39;", "'")
            assert words in json.loads(data.text)["error"]
            assert (page.headers["Retry-After"] is not None, "data-retry" in page.text) == (again, again)
            assert "--seconds" not in page.text
            assert "secret detail" not in page.text


def test_an_id_that_does_not_exist_is_a_page_that_says_so(lake: LakeFolder, tmp_path: Path) -> None:
    with served(lake, Settings(data_dir=tmp_path)) as console:
        for path in (
            "/records/nothing",
            "/records/signals/0/999999",
            "/records/signals/77/0",
            "/do/pause?subject=no/bucket",
            "/do/x",
        ):
            assert console.ask(path).status == 404, path
        assert "at this cut" in console.ask("/find?what=nothing-like-it").text
        strange = (
            "/records/signals?partition=-1",
            "/records/signals?before=x,y,z",
            "/records/signals?before=9,9",
            "/records/signals?partition=%C2%B2",  # a digit of no number
            "/records/signals?partition=99999999999999999999",
            "/records/signals?before=%C2%B2,0,0",
            "/find?what=%00%ff",
        )
        assert [(path, console.ask(path).status) for path in strange] == [(path, 200) for path in strange]
        for path in (f"/records/signals/{'9' * 30}/0", f"/records/signals/0/{'9' * 5000}", "/examples/none?revision=%C2%B2"):
            assert console.ask(path).status == 404, path


def test_a_text_is_cut_and_whole_when_it_is_asked_for() -> None:
    text = "x" * (CELL + 1)
    assert rendered("{{ text }}", text=text) == f"{'x' * CELL}… [{CELL + 1:,} characters: ?whole=1 shows all]"
    assert rendered("{{ text }}", text=text, whole=True) == text
    assert rendered("{{ text | whole }}", text=text) == text
    assert rendered("{{ text }}", text="x" * CELL) == "x" * CELL


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("plain, ünï, 漢字, 🦦", "plain, ünï, 漢字, 🦦"),
        ("a\nb\tc", "a\nb\tc"),
        ("a\r\x00\x7f", "a‹U+000D›‹U+0000›‹U+007F›"),
        ("\u202ea\u2066\u200f\u200b\ufeff", "‹U+202E›a‹U+2066›‹U+200F›‹U+200B›‹U+FEFF›"),
        ("\ud800", "‹U+D800›"),
    ],
)
def test_what_can_not_be_seen_is_shown_by_its_code_point(text: str, page: str) -> None:
    assert shown(text) == page
    assert rendered("{{ text }}", text=text) == page
    assert rendered("<a title='{{ text }}'>", text=text) == f"<a title='{page}'>"


@pytest.mark.parametrize("name", [".", "..", "../../system", "a/../b", "a/."])
def test_a_name_that_a_browser_would_walk_up_by_is_looked_for(name: str) -> None:
    link = environment(frozenset({"examples"})).from_string("{{ link('example', v) }}").render(v=name)
    assert link.startswith(f'<a href="/find?{urlencode({"what": name})}"')
    assert (
        environment(frozenset({"examples"}))
        .from_string("{{ link('example', v) }}")
        .render(v="a/.b..")
        .startswith('<a href="/examples/a/.b.."')
    )


def test_values_are_escaped_wherever_they_are_put_and_nothing_undefined_is_shown() -> None:
    calls = (
        "v",
        "link('release', v)",
        "place(v, v, v)",
        "v | time",
        "v | short",
        "[v] | json",
        "v | number",
        "v | raw",
        "v | whole",
    )
    for template in ('<i title="{{ v }}">', *(f"{{{{ {call} }}}}" for call in calls)):
        assert "<b" not in rendered(template, v="<b onclick='x'>\"'")
    with pytest.raises(UndefinedError):
        rendered("{{ nothing }}")
    assert rendered("{{ v }}", v=None) == ""


def test_every_stage_has_a_place_of_its_own_on_the_ring() -> None:
    empty = dict.fromkeys(("records", "lag", "rate", "waited_seconds", "wrong", "accounted"), 0)
    nodes = nodes_of([{"stage": stage.name, "shares": [], **empty} for stage in TOPOLOGY])
    assert [node.stage for node in nodes] == [stage.name for stage in TOPOLOGY]
    assert len({(node.x, node.y) for node in nodes}) == len(nodes)


def test_the_bar_of_a_stage_is_as_long_as_all_its_pieces() -> None:
    shares = [{"counter": name, "count": count, "dead": name == "dead"} for name, count in (("a", 3), ("b", 0), ("dead", 1))]
    pieces = pieces_of(shares)
    assert [piece[0] for piece in pieces] == ["a", "dead"]
    assert sum(piece[3] for piece in pieces) == pytest.approx(BAR, abs=0.2)
    assert pieces[1][2] == pytest.approx(pieces[0][3])
    assert pieces_of([]) == pieces_of([{"counter": "a", "count": 0, "dead": False}]) == []


def test_nothing_is_asked_of_the_log_while_nobody_looks_and_rates_are_of_two_reports() -> None:
    asked: list[float] = []

    def ask() -> Any:
        asked.append(time.monotonic())
        return {"stages": [{"stage": "intake", "records": 100 * len(asked)}]}, {}

    async def watch() -> None:
        seen = StatusWatch(ask, every=0.01)
        running = asyncio.create_task(seen.run())
        await asyncio.sleep(0.1)
        assert asked == []
        await seen.first()
        assert seen.newest.report is not None
        async with asyncio.timeout(20):
            while not seen.newest.rates:
                await seen.first()
                await asyncio.sleep(0.01)
        assert seen.newest.rates["intake"] > 0
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(watch())


def test_connections_that_keep_pages_new_are_bounded(lake: LakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST", 0)
    with served(lake, Settings(data_dir=tmp_path)) as console:
        answer = console.ask("/live")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")


def test_a_lake_of_another_deployment_is_said_and_not_shown(lake: LakeFolder) -> None:
    async def read() -> None:
        reader = LakeReader(lake, "ours")
        with pytest.raises(ForeignLake, match="the lake of deployment 'memory', and this is 'ours'"):
            await reader.read(lambda *_: None)
        reader.close()
        own = LakeReader(lake, "memory")
        assert await own.read(lambda *_: 1) == 1
        own.close()

    asyncio.run(read())


def test_a_doctor_that_fails_is_a_finding_and_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Any:
        raise OSError("no such broker")

    watch = DoctorWatch(fails)
    end = time.monotonic() + 20
    while (seen := watch.look()).asking:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert [(each.what, each.verdict) for each in seen.findings] == [("doctor", "broken")]
    assert "no such broker" in seen.findings[0].detail
