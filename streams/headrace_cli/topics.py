"""`headrace topics`: declares and checks the table of topics. Knows `admin`, no client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from headrace_cli.acls import acls
from headrace_cli.common import NO, common, emit, note, run
from headrace_schemas.topology import ALL_TOPICS
from headrace_streams.settings import Settings


def _numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--replication-factor", type=click.IntRange(1, 100), help="Copies of each partition.")(function)
    return click.option("--partitions", type=click.IntRange(1, 1000), help="Partitions of each topic.")(function)


def _with(settings: Settings, partitions: int | None, replication_factor: int | None) -> Settings:
    given = {"partitions": partitions, "replication_factor": replication_factor}
    return settings.model_copy(update={name: value for name, value in given.items() if value is not None})


@click.group()
def topics() -> None:
    """All topics of a deployment, changelogs included."""


@topics.command()
@_numbers
@common
def create(settings: Settings, as_json: bool, partitions: int | None, replication_factor: int | None) -> None:
    """Declare every topic: creates what is missing, lets inputs grow, mends configurations that somebody made otherwise, where
    nothing is lost by it. Changes nothing else, and no partition count falls."""
    from headrace_streams.kafka import admin

    settings = _with(settings, partitions, replication_factor)
    declared = run(admin.declare(settings))
    if as_json:
        return emit(declared._asdict())
    for line in declared.mended:
        click.echo(f"mended {line}")
    for line in declared.left:
        note(f"not mended {line}")
    click.echo(f"{len(declared.created)} created, {len(declared.grown)} grown, {len(declared.kept)} were there")
    if declared.kept and (differences := run(admin.check(settings))):
        note(f"{len(differences)} differences to what was asked for remain: headrace topics check names them")


@topics.command()
@_numbers
@common
def check(settings: Settings, as_json: bool, partitions: int | None, replication_factor: int | None) -> int:
    """Name each difference between the broker and the table; exit 1 when there is one."""
    from headrace_streams.kafka import admin

    settings = _with(settings, partitions, replication_factor)
    differences = run(admin.check(settings))
    if as_json:
        emit({"differences": differences})
    else:
        for difference in differences:
            click.echo(difference)
        click.echo(f"{len(differences)} differences" if differences else f"{len(ALL_TOPICS)} topics are as declared")
    return NO if differences else 0


topics.add_command(acls)
