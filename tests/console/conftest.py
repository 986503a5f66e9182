"""What tests of the console share: one lake full of hostile texts, a console over it, and the system's Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from headrace_lake.manifest import LakeFolder
from headrace_streams.settings import Settings
from support.console import CHROMIUM, FLAGS, ServedConsole, hostile_lake, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> LakeFolder:
    return hostile_lake(tmp_path_factory.mktemp("console") / "lake")


@pytest.fixture(scope="session")
def site(lake: LakeFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedConsole]:
    with served(lake, Settings(data_dir=tmp_path_factory.mktemp("data"))) as console:
        yield console


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's browser; tests that need it are left out, and say so, where there is none. Of a module: while it
    is there, its event loop occupies the thread."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()
