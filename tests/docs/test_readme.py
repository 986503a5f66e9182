"""The README says what is: its policy is one; its commands, make targets, links and folders exist. Its tables are drawn."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click

from headrace_cli.main import COMMANDS, headrace
from headrace_processors import policy_file
from headrace_trainer import policy as trainer_policy
from support import readme


def test_the_policy_shown_is_one(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(readme.block("# policy.toml", "toml"))
    (tmp_path / "models" / "tiny-sql").mkdir(parents=True)
    policies = policy_file.load(path)
    assert (policies.curate.target_effective_size, policies.release.mode) == (32, "auto")
    assert trainer_policy.load(path).bases["tiny-sql"].weights == str(tmp_path / "models" / "tiny-sql")


def test_make_targets_that_are_shown_exist() -> None:
    makefile = (readme.ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:^|`)make ([a-z]+)", readme.README, re.MULTILINE))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    done = subprocess.run(["make", "-n", "help"], cwd=readme.ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_links_and_folders_that_are_named_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", readme.README)
    folders = [readme.names(row[0])[0] for row in readme.table("## The folders")]
    assert folders
    for target in [*targets, *folders]:
        assert "://" in target or (readme.ROOT / target).exists(), target
    packages = {path.parent.relative_to(readme.ROOT) for path in readme.ROOT.glob("[a-z]*/headrace*/__init__.py")}
    assert packages <= {Path(folder) for folder in folders}


def test_every_command_and_option_has_a_help_text() -> None:
    def walk(name: str, command: click.Command) -> None:
        assert command.help, name
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, f"{name} {parameter.opts}"
        if isinstance(command, click.Group):
            for child, inner in command.commands.items():
                walk(f"{name} {child}", inner)

    for name, entry in COMMANDS.items():
        assert entry.help
        command = headrace.get_command(click.Context(headrace), name)
        assert command is not None
        walk(name, command)
