"""Takes the README's pictures of the console, from a real run. Knows addresses of pages and a browser; no page's content.

    headrace demo --console --releases 2      # prints an address
    python docs/screenshots.py ADDRESS        # writes docs/pictures/*.png

A picture is of a window, not of a whole page, so that it can be read where it stands; `--all DIR` writes every page at both
widths, light and dark, to be looked at.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
from playwright.sync_api import Browser, Page, sync_playwright

PICTURES = Path(__file__).parent / "pictures"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-lcd-text",
    "--hide-scrollbars",
    "--disable-background-networking",
)


class Shot(NamedTuple):
    """A picture: the page's title in the console's own list, and how it is looked at."""

    name: str
    title: str
    width: int = 1180
    height: int = 760
    scheme: str = "light"


SHOTS = (
    Shot("flow", "Flow"),
    Shot("example", "Example", height=820),
    Shot("bucket", "Bucket", height=600, scheme="dark"),
    Shot("run", "Run"),
    Shot("release", "Release"),
    Shot("flow-narrow", "Flow", 390, 800, "dark"),
)


@click.command()
@click.argument("address")
@click.option("--all", "everything", type=click.Path(file_okay=False, path_type=Path), help="Every page, into this folder.")
@click.option("--example", help="Id of the example that is shown; the newest one unless given.")
def main(address: str, everything: Path | None, example: str | None) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise click.ClickException("no Chromium is installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        pages = _pages(browser, address)
        shots = list(SHOTS) if everything is None else list(_every(pages))
        folder = everything or PICTURES
        folder.mkdir(parents=True, exist_ok=True)
        for shot in shots:
            path = f"/examples/{example}" if example and shot.title == "Example" else pages.get(shot.title)
            if path is None:
                click.echo(f"{shot.title}: there is nothing to show of it")
                continue
            target = folder / f"{shot.name}.png"
            _take(browser, address, path, shot, target, whole=everything is not None)
            click.echo(f"{target}: {target.stat().st_size // 1024} KiB")
        browser.close()


def _every(pages: dict[str, str]) -> Iterator[Shot]:
    for title in pages:
        for width in (1280, 390):
            for scheme in ("light", "dark"):
                yield Shot(f"{title.lower().replace(' ', '-')}-{width}-{scheme}", title, width, 900, scheme)


def _signed_in(browser: Browser, address: str, **options: Any) -> Page:
    page = browser.new_context(**options).new_page()
    page.goto(address)
    page.get_by_role("heading", name="Flow").wait_for()
    return page


def _pages(browser: Browser, address: str) -> dict[str, str]:
    """Address by title of every page that has something to show."""
    page = _signed_in(browser, address)
    answer = page.request.get(f"{address.partition('#')[0]}pages?format=json")
    listed = json.loads(answer.text())["pages"]
    page.context.close()
    return {each["title"]: each["address"] for each in listed if each["address"] is not None}


def _take(browser: Browser, address: str, path: str, shot: Shot, target: Path, *, whole: bool) -> None:
    size: Any = {"width": shot.width, "height": shot.height}
    page = _signed_in(browser, address, viewport=size, color_scheme=shot.scheme)
    page.goto(address.partition("#")[0].rstrip("/") + path, wait_until="load")
    page.wait_for_timeout(500)  # for times to become local; nothing is judged by it
    page.screenshot(path=target, full_page=whole, animations="disabled")
    page.context.close()


if __name__ == "__main__":
    main()
