"""`make install` and `make demo` say what they do while pip works, and nothing when there is nothing to do. pip is a stand-in."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support import fake_pip
from support.readme import ROOT

WORKING = (
    "Collecting torch>=2.9",
    "  Downloading torch-2.9.1-cp311-none-any.whl (899.7 MB)",
    0.3,
    "Collecting numpy>=2 (from headrace==0.1.0)",
    "  Using cached numpy-2.3.0-cp311-none-any.whl.metadata (62 kB)",
    "Installing collected packages: torch, numpy, headrace",
    0.3,
    "Successfully installed headrace-0.1.0 numpy-2.3.0 torch-2.9.1",
)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """deploy/install.py, with the stand-in of `tmp_path / "fake"` as its pip and `tmp_path` as its environment."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "deploy" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "install", module)
    spec.loader.exec_module(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "LOG_SECONDS", 0.1)
    return module


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_shows_that_it_lives_without_pips_flood(install: ModuleType, tmp_path: Path) -> None:
    called = fake_pip.write(tmp_path / "fake", WORKING)
    out, error = io.StringIO(), io.StringIO()
    assert install.install(["--editable", ".[demo]"], out, error) == 0
    lines = out.getvalue().splitlines()
    assert "some 5 GB and several minutes" in " ".join(lines[:2])
    assert any(line.endswith("1 packages fetched; fetching torch (899.7 MB)") for line in lines)
    assert any(line.endswith("unpacking 3 packages, which takes a while for torch") for line in lines)
    assert re.fullmatch(r"installed in 0:\d\d, 3 packages new", lines[-1])
    assert not [line for line in lines if "Collecting" in line or "Successfully" in line]
    assert error.getvalue() == ""
    assert called.read_text().endswith(" --editable .[demo]\n")
    assert (tmp_path / "pip.log").read_text().splitlines() == [line for line in WORKING if isinstance(line, str)]


def test_a_terminal_has_one_line_that_is_rewritten(install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "TERMINAL_SECONDS", 0.05)
    fake_pip.write(tmp_path / "fake", WORKING)
    out = Terminal()
    assert install.install([], out, io.StringIO()) == 0
    assert out.getvalue().count("\n") == 3  # what comes (two lines) and what came of it
    assert out.getvalue().count("\r") > 4


def test_how_far_a_download_is_is_told_where_pip_tells(install: ModuleType) -> None:
    activity = install.Activity()
    for line in ("  Downloading torch-2.9.1-cp311-none-any.whl (899.7 MB)", "Progress 0 of 1000", "Progress 420 of 1000"):
        activity.take(line)
    assert str(activity) == "1 packages fetched; fetching torch (899.7 MB), 42 %"
    activity.take("Collecting numpy>=2")
    assert str(activity) == "1 packages fetched; looking for numpy"


def test_a_failure_is_pips_own_error_and_its_exit_code(install: ModuleType, tmp_path: Path) -> None:
    flood = [f"Collecting thing{number}" for number in range(50)]
    refused = ["ERROR: Could not find a version that satisfies the requirement torch", "ERROR: No matching distribution found"]
    fake_pip.write(tmp_path / "fake", ["WARNING: Retrying (Retry(total=4)) after connection broken", *flood, *refused], code=3)
    out, error = io.StringIO(), io.StringIO()
    assert install.install([], out, error) == 3
    assert error.getvalue().splitlines() == refused
    said = out.getvalue().splitlines()
    assert "WARNING: Retrying (Retry(total=4)) after connection broken" in said
    assert said[-1].endswith("all that it said is in pip.log. Its error:")


def test_without_a_line_that_is_called_an_error_the_last_ones_are_shown(install: ModuleType) -> None:
    assert install.telling([f"line {number}" for number in range(20)]) == [f"line {number}" for number in range(5, 20)]
    assert install.telling(["error " + "x" * 500])[0] == "error " + "x" * 194 + " …"


@pytest.mark.slow(seconds=6)
def test_make_demo_installs_once_and_says_what_comes_next(tmp_path: Path) -> None:
    clone, fake = tmp_path / "clone", tmp_path / "fake"
    (clone / "deploy").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "deploy/install.py"):
        shutil.copy(ROOT / name, clone / name)
    called = fake_pip.write(fake, ["Successfully installed a-1"], scripts={"headrace": '#!/bin/sh\necho "here runs $*"\n'})

    def make(*arguments: str) -> list[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        done = subprocess.run(
            ["make", f"PYTHON={sys.executable}", "DISK_GB=0", *arguments],
            cwd=clone, env={**environment, "PYTHONPATH": str(fake)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    first = make("demo", "DEMO_ARGS=--seed 3", "PIP_ARGS=--index-url x")
    assert first[0] == "making .venv"
    assert first[1].startswith("installing Headrace into .venv, once: ")
    assert first[-2].startswith("next: the demo, which fetches Apache Kafka")
    assert first[-1] == "here runs demo --seed 3"
    assert make("demo") == ["here runs demo"]
    assert called.read_text().splitlines()[0].endswith("--index-url x --constraint requirements.lock --editable .[demo]")
    assert make("install", "EXTRAS=dev")[-1].startswith("next: make demo, or `. .venv/bin/activate`")
    assert make("install", "EXTRAS=dev") == []
    (clone / ".venv" / ".installed-demo").unlink()
    assert make("demo") == ["here runs demo"]  # what has more than the demo needs is enough for it
    assert len(called.read_text().splitlines()) == 2
