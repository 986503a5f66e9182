"""`headrace config`: the settings in force and where each comes from. Reads no broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from headrace_cli.common import common, emit, loaded_settings
from headrace_streams.settings import Settings


@click.command()
@common
def config(settings: Settings, as_json: bool) -> None:
    """Print every setting with its origin: a flag, a HEADRACE_* variable, a file or the default. Secrets are masked."""
    origins = loaded_settings().origins
    rows = [(name, value, origins.get(name, "default")) for name, value in _flat(settings.model_dump(mode="json"))]
    if as_json:
        return emit({name: {"value": value, "origin": origin} for name, value, origin in rows})
    wide, wider = max(len(name) for name, _, _ in rows), max(len(str(value)) for _, value, _ in rows)
    for name, value, origin in rows:
        click.echo(f"{name:<{wide}}  {'-' if value is None else str(value):<{wider}}  {origin}")


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value  # a SecretStr dumps as asterisks
