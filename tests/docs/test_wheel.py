"""What is shipped: one wheel with every package, its data files and the command, nothing of the tests. Built without network."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.readme import ROOT

PACKAGES = sorted(path.parent for path in ROOT.glob("*/headrace*/__init__.py"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    program = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_it_holds_every_file_of_every_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    sources = {
        f"{package.name}/{path.relative_to(package).as_posix()}"
        for package in PACKAGES
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == sources
    assert {f"{package.name}/py.typed" for package in PACKAGES} <= shipped
    assert {"headrace_streams/local_kafka/kafka.lock", "headrace_schemas/asyncapi.yaml"} <= shipped
    assert sum(name.startswith("headrace_schemas/json/") for name in shipped) == len(list(ROOT.glob("tests/goldens/*.json")))


def test_it_brings_the_command_and_the_demos_grader(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    entries = configparser.ConfigParser()
    entries.read_string(wheel.read(name).decode())
    assert dict(entries["console_scripts"]) == {"headrace": "headrace_cli.main:main"}
    assert dict(entries["headrace.graders"]) == {"demo-sql": "headrace_demo.shop.grade:grade"}


def test_it_works_from_where_it_was_unpacked(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Imported from the wheel itself, away from the source tree."""
    wheel.extractall(tmp_path / "site")
    program = (
        "import headrace, headrace_schemas, headrace_streams.local_kafka.jars as jars; "
        "from headrace_cli.main import invoke; assert invoke(['config', '--json']) == 0; "
        "print(headrace.__file__, headrace_schemas.__file__, jars.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); {program}"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert all(path.startswith(str(tmp_path)) for path in done.stdout.splitlines()[-1].split())
