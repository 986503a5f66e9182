"""What those who work on the code rely on: the lock holds what pyproject.toml asks for, hook and workflows run the gate."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from support.readme import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]


def pins() -> dict[str, list[Version]]:
    """Versions of each package; more than one where markers choose."""
    found: dict[str, list[Version]] = {}
    for line in LOCK:
        pin = Requirement(line)
        (specifier,) = pin.specifier
        assert specifier.operator == "==", line
        found.setdefault(canonicalize_name(pin.name), []).append(Version(specifier.version))
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_the_lock_holds_every_requirement_within_its_range(group: str) -> None:
    locked = pins()
    for requirement in map(Requirement, GROUPS[group]):
        if requirement.name == "headrace":  # an extra that stands for other extras
            assert requirement.extras <= GROUPS.keys()
            continue
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement} is not in requirements.lock: run `make lock`"
        assert all(version in requirement.specifier for version in versions), f"{requirement}, locked {versions}: run `make lock`"


def test_the_lock_leaves_the_choice_of_index_and_of_torch_builds_to_those_who_install() -> None:
    """A pin without a local version takes `2.9.0+cpu` too; hashes would not, nor would they allow an editable install."""
    assert not [line for line in LOCK if "://" in line or line.startswith("-") or "--hash" in line or "+" in line]


def test_what_judges_the_code_is_pinned_exactly() -> None:
    dev = {requirement.name: requirement for requirement in map(Requirement, GROUPS["dev"])}
    for name in ("ruff", "mypy", "import-linter"):
        assert [specifier.operator for specifier in dev[name].specifier] == ["=="], name


def test_make_installs_what_is_locked() -> None:
    makefile = (ROOT / "Makefile").read_text()
    installs = re.findall(r".*--editable.*", makefile)
    assert installs
    assert all("--constraint requirements.lock" in line for line in installs)


def test_the_hook_is_make_check() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (hook,) = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert (hook["entry"], hook["language"], hook["always_run"]) == ("make check", "system", True)


def test_nothing_is_published_that_did_not_pass_the_gate() -> None:
    workflows = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
    for name, workflow in workflows.items():
        steps = {job: [step.get("run") or step["uses"] for step in body["steps"]] for job, body in workflow["jobs"].items()}
        assert any(".ci/run" in lines for lines in steps.values()), name
        for job, lines in steps.items():
            if any("pypi-publish" in line for line in lines):
                needed = workflow["jobs"][job]["needs"]
                assert ".ci/run" in steps[needed]
                assert steps[needed].index(".ci/run") < steps[needed].index(".venv/bin/hatchling build")
                assert workflow["jobs"][job]["permissions"] == {"id-token": "write"}
