"""A tab of a real Chromium that is signed in, and remembers what went wrong in it. Knows playwright."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from support.console import ServedConsole

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


HEIGHT = 900  # pixels


class Tab:
    """`page` is playwright's; `faults` what the browser complained of: errors, also of requests and by policy."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.faults: list[str] = []
        page.on("console", lambda said: self.faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", lambda dialog: self.faults.append(f"a dialog: {dialog.message}"))

    def open(self, path: str) -> int:
        """Goes there; the status of the answer."""
        answer = self.page.goto(self.address + path, wait_until="load")
        assert answer is not None
        return answer.status

    def look(self, *, width: int, color_scheme: Literal["light", "dark"]) -> None:
        """Goes on with the tab that wide and in that scheme; what is shown stays."""
        self.page.set_viewport_size({"width": width, "height": HEIGHT})
        self.page.emulate_media(color_scheme=color_scheme)

    @property
    def over(self) -> int:
        """By how many pixels the page is wider than the tab."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    @property
    def cut(self) -> str | None:
        """The cut that the page says it is at."""
        return self.page.locator("#cut").get_attribute("data-cut")

    def wait_for_another_cut(self, cut: str | None) -> None:
        self.page.wait_for_function("cut => document.getElementById('cut').dataset.cut !== cut", arg=cut)


@contextmanager
def tab(browser: Browser, console: ServedConsole, *, width: int = 1280, signed_in: bool = True, **options: Any) -> Iterator[Tab]:
    """A tab in a context of its own; `options` are playwright's, e.g. color_scheme="dark", java_script_enabled=False."""
    context = browser.new_context(viewport={"width": width, "height": HEIGHT}, **options)
    context.set_default_timeout(15_000)
    if signed_in:
        name, _, value = console.cookie.partition("=")
        context.add_cookies([{"name": name, "value": value, "url": console.address, "httpOnly": True, "sameSite": "Strict"}])
    try:
        yield Tab(context.new_page(), console.address)
    finally:
        context.close()
