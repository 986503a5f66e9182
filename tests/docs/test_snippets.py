"""What README and the pages show is true: Python runs, policies and settings load, events are taken, commands exist."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import orjson
import pytest

from headrace_cli.main import headrace
from headrace_processors import policy_file
from headrace_schemas.codec import decode_input
from headrace_streams import settings as headrace_settings
from headrace_streams.settings import Settings
from headrace_trainer import policy as trainer_policy
from support.pages import BROKER, PAGES, blocks, command_lines

ALL = [pytest.param(path, id=name) for name, path in PAGES.items()]
WITH_PYTHON = [pytest.param(path, id=name) for name, path in PAGES.items() if blocks(path, "python")]
WITH_A_BROKER = [
    pytest.param(path, id=name) for name, path in PAGES.items() if any(BROKER in block for block in blocks(path, "python"))
]


def test_there_is_something_to_run() -> None:
    for language, least in {"python": 6, "toml": 4, "json": 2}.items():
        assert sum(len(blocks(path, language)) for path in PAGES.values()) >= least, language
    assert sum(len(command_lines(path)) for path in PAGES.values()) >= 40


def run(program: str, folder: Path) -> None:
    """Runs Python in a process of its own, in `folder`; AssertionError with what it said when it fails."""
    environment = {**os.environ, "HEADRACE_DATA_DIR": str(folder / "data"), "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), program


@pytest.mark.parametrize("path", WITH_PYTHON)
def test_the_python_of_a_page_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    """Each block goes on from those before it; what needs a broker is only compiled here."""
    shown = blocks(path, "python")
    for block in shown:
        compile(block, str(path), "exec")
    run("\n".join(block for block in shown if BROKER not in block), tmp_path)


@pytest.mark.kafka
@pytest.mark.parametrize("path", WITH_A_BROKER)
def test_the_python_that_needs_a_broker_runs(path: Path, settings: Settings, tmp_path: Path) -> None:
    for block in blocks(path, "python"):
        if BROKER in block:
            run(block.replace(f'"{BROKER}"', f'"{settings.bootstrap}", deployment="{settings.deployment}"'), tmp_path)


@pytest.mark.parametrize("path", ALL)
def test_policies_and_settings_load(path: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(path, "toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(block, encoding="utf-8")
        if block.startswith("# headrace.toml"):
            headrace_settings.load(config=file)
        else:
            policy_file.load(file)
            trainer_policy.load(file)


@pytest.mark.parametrize("path", ALL)
def test_events_are_taken(path: Path) -> None:
    for block in blocks(path, "json"):
        decode_input(orjson.dumps(orjson.loads(block)), append_time_ms=1_800_000_000_000)


@pytest.mark.parametrize("path", ALL)
def test_commands_exist_and_take_what_is_shown(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed by the command itself, not run. A command that is only mentioned needs no arguments."""
    monkeypatch.chdir(tmp_path)
    for name in ("events.jsonl", "outbox.db"):
        (tmp_path / name).touch()
    for line in command_lines(path):
        words = shlex.split(line)[1:]
        context = click.Context(headrace)
        command: click.Command = headrace
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            name, *words = words
            inner = command.get_command(context, name)
            assert inner is not None, line
            command, context = inner, click.Context(command, info_name=name, parent=context)
        if words:
            try:
                command.make_context(context.info_name, words)
            except click.exceptions.MissingParameter:
                assert all(word.startswith("-") for word in words), line
            except click.exceptions.Exit:
                assert words == ["--help"], line
