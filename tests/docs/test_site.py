"""The pages build as a site without a warning, and every page is reached from its navigation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.pages import PAGES
from support.readme import ROOT


@pytest.mark.slow(6)
def test_the_site_builds_and_holds_every_page(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    for name in PAGES:
        page = Path(name)
        if page.parent == Path("docs"):
            address = "index.html" if page.stem == "index" else f"{page.stem}/index.html"
            assert (tmp_path / "site" / address).is_file()
            assert page.stem == "index" or f'href="{page.stem}/"' in index, f"{name} is not in the navigation"
