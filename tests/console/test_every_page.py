"""Every page of the registry, whoever wrote it: it answers, its JSON is its read model, and in a real Chromium nothing is run,
hidden or cut off. A new page is tested here without a line.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from headrace_console.page import ConsolePage
from headrace_console.pages import pages
from headrace_lake.manifest import LakeFolder
from headrace_lake.query import opened
from support.browser import tab
from support.console import ServedConsole

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BYTES = 100 * 1024
WIDE, NARROW = 1280, 390  # pixels: a desk's screen, a telephone's
SAMPLES = 3  # of a page that has a name in its path
PAGES = {page.path: page for page in pages()}
EACH = pytest.mark.parametrize("path", PAGES)
BROWSER = pytest.mark.slow(seconds=2)  # a real one


@cache
def _addresses(folder: LakeFolder, page: ConsolePage) -> list[str]:
    if page.sample is None:
        return [page.path]
    with opened(folder) as lake:
        names = [str(row[0]) for row in lake.run(page.sample).rows[:SAMPLES]]
    assert names, f"{page.path}: the lake of these tests has nothing for its `sample`"
    return [page.path[: page.path.rindex("{")] + quote(name, safe="/:") for name in names]


def test_every_path_leads_to_one_page_and_every_page_says_what_it_shows() -> None:
    assert len(PAGES) == len(pages())
    for page in PAGES.values():
        assert page.about.endswith("."), page.path
        assert ("{" in page.path) == (page.sample is not None), page.path
        assert page.group is None or "{" not in page.path, page.path


@EACH
def test_it_answers_in_both_forms_within_its_size(site: ServedConsole, lake: LakeFolder, path: str) -> None:
    for address in _addresses(lake, PAGES[path]):
        page, data = site.ask(address), site.ask(address + "?format=json")
        assert (page.status, data.status) == (200, 200), (address, page.text[-500:], data.text[-500:])
        assert len(page.text.encode()) <= BYTES, address
        assert data.headers["Content-Type"].startswith("application/json")
        assert isinstance(json.loads(data.text), dict)
        assert page.headers["Headrace-Cut"] == data.headers["Headrace-Cut"]


@EACH
def test_nothing_on_it_is_inline_or_from_elsewhere(site: ServedConsole, lake: LakeFolder, path: str) -> None:
    for address in _addresses(lake, PAGES[path]):
        text = site.ask(address).text
        tags = re.findall(r"<[a-zA-Z][^>]*>", text)
        assert not [tag for tag in tags if re.search(r"\s(on\w+|style)\s*=", re.sub(r'"[^"]*"', '""', tag))], address
        assert not [tag for tag in tags if re.search(r"(src|href|action)=\"(https?:|//|javascript:|data:)", tag)], address
        assert "<style" not in text


@BROWSER
@EACH
def test_chromium_runs_nothing_complains_of_nothing_and_fits_it_in(
    chromium: Browser, site: ServedConsole, lake: LakeFolder, path: str
) -> None:
    with tab(chromium, site) as shown:
        for address in _addresses(lake, PAGES[path]):
            shown.look(width=WIDE, color_scheme="light")
            assert shown.open(address) == 200
            assert shown.page.title().endswith("· headrace")  # what is hostile would have changed it
            assert shown.page.locator("main img, main iframe, main script, main object").count() == 0
            text = shown.page.locator("body").inner_text()
            assert not re.search("[\u200b\u202a-\u202e\u2066-\u2069\u0007]", text), address
            assert not re.search(r"\b1337\b", text), address  # a template in a text was carried out
            assert shown.over <= 0, f"{address} is {shown.over} px wider than {WIDE}"
            shown.look(width=NARROW, color_scheme="dark")
            assert shown.over <= 0, f"{address} is {shown.over} px wider than {NARROW}"
            assert shown.faults == [], address


@BROWSER
@EACH
def test_it_is_read_without_scripts(chromium: Browser, site: ServedConsole, lake: LakeFolder, path: str) -> None:
    with tab(chromium, site, java_script_enabled=False) as shown:
        for address in _addresses(lake, PAGES[path])[:2]:
            assert shown.open(address) == 200
            assert shown.page.locator("h1").is_visible()
            assert shown.page.locator("nav a").first.is_visible()


@BROWSER
@EACH
def test_the_keyboard_reaches_its_content_and_everything_has_a_name(
    chromium: Browser, site: ServedConsole, lake: LakeFolder, path: str
) -> None:
    with tab(chromium, site) as shown:
        shown.open(_addresses(lake, PAGES[path])[0])
        shown.page.keyboard.press("Tab")
        assert shown.page.evaluate("document.activeElement.className") == "skip"
        shown.page.keyboard.press("Enter")
        assert shown.page.evaluate("document.activeElement.id") == "main"
        nameless = shown.page.evaluate(
            """() => [...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea')]
                .filter(each => !(each.textContent.trim() || each.getAttribute('aria-label') || each.labels?.length))
                .map(each => each.outerHTML)"""
        )
        assert nameless == []
        untold = shown.page.evaluate(
            """() => [...document.querySelectorAll('svg')].filter(each =>
                !each.closest('[aria-hidden=true]') && !each.querySelector('title')).length"""
        )
        assert untold == 0
