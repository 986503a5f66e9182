"""What a person meets in a real Chromium: signing in, texts of somebody hostile, pages that stay new, a console that restarts."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from headrace_console.access import TokenAccess
from headrace_lake.manifest import LakeFolder
from headrace_lake.query import opened
from headrace_streams.settings import Settings
from support.browser import tab
from support.console import HOSTILE, MARKUP, TOKEN, TURNED, ServedConsole, lake_apart, served
from support.memory_ring import MemoryRing

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow(seconds=2)  # a real browser

REPORT: dict[str, Any] = {"stages": [], "tasks": [], "troubles": [], "buckets": [], "served": []}


@pytest.fixture
def ring() -> MemoryRing:
    ring = MemoryRing(5)
    ring.round(20)
    return ring


@pytest.fixture
def own_site(ring: MemoryRing, tmp_path: Path) -> Iterator[ServedConsole]:
    """A console whose lake a test may move."""
    with served(lake_apart(ring, tmp_path / "lake"), Settings(data_dir=tmp_path / "data")) as console:
        yield console


def test_the_printed_address_signs_in_and_the_token_is_left_nowhere(chromium: Browser, site: ServedConsole) -> None:
    with tab(chromium, site, signed_in=False) as shown:
        assert shown.open("/find?what=i-1") == 401
        shown.page.goto(f"{site.address}/find?what=i-1#token={TOKEN}")
        shown.page.reload()  # a hash alone loads nothing anew
        shown.page.get_by_role("heading", name="Find").wait_for()
        assert "token" not in shown.page.url
        assert shown.page.evaluate("document.cookie") == ""
        shown.page.go_back()
        shown.page.wait_for_load_state()
        assert TOKEN not in shown.page.url
        assert TOKEN not in shown.page.content()


def test_without_scripts_the_token_is_typed(chromium: Browser, site: ServedConsole) -> None:
    with tab(chromium, site, signed_in=False, java_script_enabled=False) as shown:
        shown.open("/")
        shown.page.get_by_label("Token").fill("nothing-like-it")
        shown.page.get_by_role("button", name="Sign in").click()
        shown.page.get_by_text("that is not the token").wait_for()
        shown.page.get_by_label("Token").fill(TOKEN)
        shown.page.get_by_role("button", name="Sign in").click()
        shown.page.get_by_role("heading", name="Flow").wait_for()


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_text_is_shown_as_it_was_written(chromium: Browser, site: ServedConsole, lake: LakeFolder, number: int) -> None:
    """In the record of the interaction, which has it in every field, and wherever it is found."""
    text = HOSTILE[number]
    with opened(lake) as query:
        [(place,)] = query.run(
            "SELECT topic || '/' || partition || '/' || log_offset FROM signals WHERE interaction_id = $id "
            "AND event_type = 'headrace.interaction.recorded.v1'",
            {"id": f"hostile-{number}"},
        ).rows
    with tab(chromium, site) as shown:
        for address in (f"/find?what=hostile-{number}", f"/records/{place}"):
            assert shown.open(address) == 200
            assert shown.faults == []
            assert shown.page.title().endswith("· headrace")
        said = shown.page.locator("pre").inner_text()
        if text == TURNED:
            assert "safe‹U+202E›gnp.exe‹U+2066›x‹U+200B›" in said
        else:
            assert json.dumps(text, ensure_ascii=False)[1:-1] in said
        assert shown.page.evaluate("document.querySelectorAll('main script, main iframe, main img, main svg').length") == 0


@pytest.mark.parametrize("text", MARKUP)
def test_a_hostile_query_is_shown_as_it_was_asked(chromium: Browser, site: ServedConsole, text: str) -> None:
    with tab(chromium, site) as shown:
        shown.page.goto(f"{site.address}/find")
        box = shown.page.get_by_label("What")
        box.fill(f"{text} of nobody")
        box.press("Enter")
        shown.page.get_by_text("Nothing in the lake is called").wait_for()
        assert text in shown.page.locator("main .error").inner_text()
        assert shown.page.get_by_label("What").input_value() == f"{text} of nobody"
        assert shown.faults == []


def test_a_page_that_is_looked_at_moves_with_the_cut(
    chromium: Browser, own_site: ServedConsole, ring: MemoryRing, tmp_path: Path
) -> None:
    own_site.report = REPORT
    with tab(chromium, own_site) as shown:
        shown.open("/")
        before = shown.cut
        ring.round(20)
        lake_apart(ring, own_site.folder.path)
        shown.wait_for_another_cut(before)
        assert shown.faults == []


def test_what_somebody_types_or_has_opened_stays(
    chromium: Browser, own_site: ServedConsole, ring: MemoryRing, tmp_path: Path
) -> None:
    own_site.report = REPORT
    with tab(chromium, own_site) as shown:
        shown.open("/system")
        shown.page.locator("main details").first.evaluate("each => each.open = true")
        shown.page.get_by_role("searchbox").fill("half a word")
        before = shown.cut
        ring.round(20)
        lake_apart(ring, own_site.folder.path)
        shown.wait_for_another_cut(before)
        assert shown.page.locator("main details").first.evaluate("each => each.open")
        assert shown.page.get_by_role("searchbox").input_value() == "half a word"


def test_an_old_page_lives_on_when_the_console_restarts(chromium: Browser, ring: MemoryRing, tmp_path: Path) -> None:
    folder, settings = lake_apart(ring, tmp_path / "lake"), Settings(data_dir=tmp_path / "data")
    first = ServedConsole(folder, settings)
    first.report = REPORT
    first.start()
    port = int(first.address.rpartition(":")[2])
    with tab(chromium, first) as shown, tab(chromium, first) as form:
        shown.open("/")
        form.open("/do/pause?subject=sql/tiny")
        before = shown.cut
        first.stop()
        shown.page.get_by_text("the console does not answer").wait_for()
        ring.round(20)
        lake_apart(ring, folder.path)
        with served(folder, settings, port=port) as second:
            second.report = REPORT
            shown.wait_for_another_cut(before)
            form.page.get_by_label("Reason").fill(" ")
            form.page.get_by_role("button", name="Pause").click()
            form.page.get_by_text("a reason is asked for").wait_for()  # the form of before the restart counts


def test_a_session_of_another_token_is_told_so_and_nothing_is_lost_from_the_page(
    chromium: Browser, ring: MemoryRing, tmp_path: Path
) -> None:
    folder, settings = lake_apart(ring, tmp_path / "lake"), Settings(data_dir=tmp_path / "data")
    first = ServedConsole(folder, settings)
    first.start()
    port = int(first.address.rpartition(":")[2])
    with tab(chromium, first) as shown:
        shown.open("/pages")
        shown.open("/")
        first.stop()
        with served(folder, settings, TokenAccess(TOKEN + "-new", "headrace-test", "tester"), port=port) as second:
            lake_apart(ring, second.folder.path)
            shown.page.get_by_text("signed out").wait_for()
            assert shown.page.get_by_role("heading", name="Flow").is_visible()


@pytest.fixture
def other_site() -> Iterator[Callable[[str], str]]:
    """Serves a page from another origin; returns its address."""
    pages: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages.get("page", b"")
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def shown(html: str) -> str:
        pages["page"] = html.encode()
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield shown
    server.shutdown()
    server.server_close()


def test_a_page_of_another_origin_can_neither_send_nor_read_nor_frame(
    chromium: Browser, site: ServedConsole, other_site: Callable[[str], str]
) -> None:
    address = other_site(
        f"<form method=post action='{site.address}/do/pause'><input name=reason value=x><button>go</button></form>"
        f"<iframe src='{site.address}/'></iframe><script>fetch('{site.address}/?format=json',{{credentials:'include'}})"
        ".then(a=>a.text()).then(t=>document.title='read '+t).catch(()=>document.title='refused')</script>"
    )
    with tab(chromium, site) as shown:
        statuses: dict[str, int] = {}
        shown.page.on("response", lambda answer: statuses.__setitem__(answer.url, answer.status))
        shown.page.goto(address)
        shown.page.wait_for_function("document.title !== ''")
        assert shown.page.title() == "refused"
        assert all(frame.url in (address, "", "chrome-error://chromewebdata/") or not frame.query_selector("nav")
                   for frame in shown.page.frames)  # fmt: skip
        with shown.page.expect_navigation():
            shown.page.get_by_role("button", name="go").click()
        assert statuses[f"{site.address}/do/pause"] == 403


def test_the_slash_leads_to_the_box(chromium: Browser, site: ServedConsole) -> None:
    with tab(chromium, site) as shown:
        shown.open("/pages")
        shown.page.keyboard.press("/")
        shown.page.keyboard.type("i-3")
        shown.page.keyboard.press("Enter")
        shown.page.get_by_text("Records that name it").wait_for()
        assert shown.page.url.endswith("/find?what=i-3")


def test_times_are_the_readers_and_utc_when_pointed_at(chromium: Browser, site: ServedConsole) -> None:
    with tab(chromium, site, timezone_id="Pacific/Kiritimati") as shown:
        shown.open("/records/signals")
        first = shown.page.locator("main time").first
        utc = first.get_attribute("datetime") or ""
        assert (first.get_attribute("title") or "").endswith("UTC")
        assert first.inner_text()[11:13] == f"{(int(utc[11:13]) + 14) % 24:02d}"
