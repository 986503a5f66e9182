"""`headrace keys`: make and show the keys with which releases are signed and believed. Knows files, no topic."""

from __future__ import annotations

from pathlib import Path

import click

from headrace_cli.common import NO, CliError, common, emit, note
from headrace_streams.settings import Settings

_file = click.argument("file", metavar="FILE", type=click.Path(path_type=Path))


@click.group()
def keys() -> None:
    """Keys with which a worker signs releases (`signing_key`), and which readers trust (`trusted_keys`)."""


@keys.command()
@_file
@common
def create(settings: Settings, as_json: bool, file: Path) -> None:
    """Write a new Ed25519 key to FILE, for its user alone (0600). Exit 1 when FILE is there: no key is overwritten."""
    from headrace_streams import signing

    try:
        made = signing.create(file)
    except FileExistsError:
        raise CliError(NO, f"{file} is there already, and no key is overwritten: name another file") from None
    if as_json:
        return emit({"id": made, "file": str(file)})
    click.echo(f"wrote {file}, key {made}")
    note(f"next: signing_key = {str(file)!r} for the worker, `headrace keys show {file}` into a file for readers")


@keys.command()
@_file
@common
def show(settings: Settings, as_json: bool, file: Path) -> None:
    """Print the public key of FILE, a private or a public one, as PEM; its id goes to standard error."""
    from headrace_streams import signing

    name, pem = signing.public_pem(file)
    if as_json:
        return emit({"id": name, "public_key": pem})
    note(f"key {name}")
    click.echo(pem, nl=False)
