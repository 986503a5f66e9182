"""`headrace init`: a policy and a settings file to begin with. Knows by name where the policies' models are; no key of theirs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from headrace_cli.common import NO, CliError, common, loaded_settings
from headrace_streams.settings import CONFIG_FILE, Settings

POLICY_FILE = "policy.toml"
# Where the tables of the policy file are described, and the table ("": each field is a table of its own).
POLICIES = (("headrace_processors.policy_file:Policies", ""), ("headrace_trainer.policy:TrainerPolicy", "train"))
_POLICY_HEAD = """\
# What decides anything: a table for each stage. Written by `headrace init`; yours from here on.
# A line like `#key = value` shows a default: take its # away to change it. An unknown key is an error.
# Which values held when is on the log (topic `rules`).
"""
_SETTINGS_HEAD = """\
# Where everything is. Written by `headrace init`; yours from here on. `headrace config` prints what is in force.
# A line like `#key = value` shows a default: take its # away to change it. Flags and HEADRACE_* variables win over this file.
# Paths are relative to this file.
"""


class BaseOption(click.ParamType):
    """NAME=WEIGHTS."""

    name = "NAME=WEIGHTS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, equals, weights = str(value).partition("=")
        if not (equals and name.strip() and weights.strip()):
            self.fail(f"{value!r} is not NAME=WEIGHTS", param, ctx)
        return name.strip(), weights.strip()


@click.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--base",
    "bases",
    type=BaseOption(),
    multiple=True,
    help="A base by name (the `model` that agents give) and its weights, a folder or a hub name. May be repeated.",
)
@common(json=False)
def init(settings: Settings, folder: Path, bases: Sequence[tuple[str, str]]) -> None:
    """Write policy.toml and headrace.toml to begin with into DIR (default: here): every key with its default, explained.

    What --bootstrap, --deployment and --base say is filled in. Exit 1 when one of the files is there: nothing is overwritten.
    """
    weights: dict[str, str] = {}
    for name, where in bases:
        if weights.setdefault(name, where) != where:
            raise click.BadParameter(f"{name!r} is given as {weights[name]!r} and as {where!r}", param_hint="'--base'")
    given = {
        name: getattr(settings, name) for name in ("bootstrap", "deployment") if loaded_settings().origins[name].startswith("--")
    }
    texts = {
        folder / POLICY_FILE: policy_text({name: _from(folder, where) for name, where in weights.items()}),
        folder / CONFIG_FILE: settings_text(given),
    }
    write_new(texts)
    click.echo(f"wrote {' and '.join(map(str, texts))}")
    if not weights:
        click.echo(f"next: name a base and its weights in {folder / POLICY_FILE}, as [train.bases.NAME]")


def policy_text(weights: Mapping[str, str]) -> str:
    """All tables of a policy file, with those bases filled in."""
    from pydantic import BaseModel

    from headrace_cli.toml_template import render

    parts = [_POLICY_HEAD]
    for path, table in POLICIES:
        module, _, name = path.partition(":")
        policy: BaseModel = getattr(importlib.import_module(module), name)()
        if table:
            parts.append(render(policy, table, {"bases": {base: {"weights": where} for base, where in weights.items()}}))
            continue
        for field in type(policy).model_fields:
            inner = getattr(policy, field)
            if isinstance(inner, BaseModel):
                parts.append(render(inner, field))
    return "\n".join(parts)


def settings_text(given: Mapping[str, Any]) -> str:
    """All settings, with the policy file beside it and what is `given` filled in."""
    from headrace_cli.toml_template import render

    return f"{_SETTINGS_HEAD}\n{render(Settings(), given={**given, 'policy': POLICY_FILE})}"


def write_new(texts: Mapping[Path, str]) -> None:
    """Writes all of them or none. CliError when one is there, OSError when one can't be written."""
    for path in texts:
        if path.exists() or path.is_symlink():
            raise CliError(NO, f"{path} is there already, and nothing is overwritten: name another folder, or move it away")
    with ExitStack() as undo:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with path.open("x", encoding="utf-8") as file:
                    undo.callback(path.unlink, missing_ok=True)
                    file.write(text)
            except FileExistsError:
                raise CliError(NO, f"{path} is there already, and nothing is overwritten") from None
        undo.pop_all()


def _from(folder: Path, weights: str) -> str:
    """Weights as the policy file in `folder` names them: a folder that was given relative to here is looked for from there."""
    here = Path(weights).expanduser()
    if here.is_dir() and folder.resolve() != Path.cwd():
        return str(here.resolve())
    return weights
