"""`headrace kafka`: a local broker for one machine. Knows `broker`, no client."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from headrace_cli.common import FAILED, NO, CliError, common, emit, note
from headrace_streams.settings import Settings

_folder = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the broker's data; default: kafka/ in data_dir.",
)


def _starting(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--wait", default=60.0, show_default=True, help="Seconds until it must answer.")(function)
    text = "Port on 127.0.0.1, 0 for a free one; default: that of --bootstrap if it is on this machine, else 9092."
    return _folder(click.option("--port", type=click.IntRange(0, 65535), help=text)(function))


def _place(settings: Settings, data_dir: Path | None) -> Path:
    return data_dir or settings.data_dir / "kafka"


def _port(settings: Settings, port: int | None) -> int:
    host, _, number = settings.bootstrap.partition(",")[0].rpartition(":")
    if port is None:
        return int(number) if host in ("127.0.0.1", "localhost", "[::1]") else 9092
    return port


@click.group()
def kafka() -> None:
    """A real single-node Apache Kafka on this machine, for when there is none. Data survives restarts."""


@kafka.command()
@_starting
@common
def start(settings: Settings, as_json: bool, data_dir: Path | None, port: int | None, wait: float) -> None:
    """Start it in the background and wait until it answers."""
    from headrace_streams.local_kafka.process import LocalKafka, status

    broker = LocalKafka(_place(settings, data_dir), _port(settings, port), wait=wait, say=note).start(detach=True)
    running = status(broker.data_dir)
    if running is None:
        raise CliError(FAILED, f"Kafka ended right after its start: see {broker.data_dir / 'kafka.log'}")
    if as_json:
        emit(running._asdict() | {"bootstrap": running.bootstrap})
    else:
        click.echo(f"Kafka {running.version} answers on {running.bootstrap} (pid {running.pid}, data in {running.data_dir})")


@kafka.command()
@_folder
@click.option("--wait", default=30.0, show_default=True, help="Seconds until it is killed.")
@common(json=False)
def stop(settings: Settings, data_dir: Path | None, wait: float) -> None:
    """Stop it, cleanly if it lets us."""
    from headrace_streams.local_kafka.process import stop as stop_broker

    place = _place(settings, data_dir)
    click.echo(f"Kafka on {place} is stopped" if stop_broker(place, wait) else f"no Kafka runs on {place}")


@kafka.command()
@_folder
@common
def status(settings: Settings, as_json: bool, data_dir: Path | None) -> int:
    """Say what runs: pid, port, folder, version. Exit 1 when nothing does."""
    from headrace_streams.local_kafka.process import status as broker_status

    place = _place(settings, data_dir)
    running = broker_status(place)
    if as_json:
        emit(running._asdict() | {"running": True, "bootstrap": running.bootstrap} if running else {"running": False})
    elif running:
        click.echo(f"Kafka {running.version} runs on {running.bootstrap} (pid {running.pid}, data in {running.data_dir})")
    else:
        click.echo(f"no Kafka runs on {place}")
    return 0 if running else NO


@kafka.command()
@_starting
@common(json=False)
def run(settings: Settings, data_dir: Path | None, port: int | None, wait: float) -> None:
    """Run it in the foreground; Ctrl-C stops it."""
    from headrace_streams.local_kafka.process import LocalKafka

    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))  # unwinds, so that the broker is stopped
    with LocalKafka(_place(settings, data_dir), _port(settings, port), wait=wait, say=note) as broker:
        click.echo(f"Kafka answers on {broker.bootstrap} (data in {broker.data_dir}); Ctrl-C stops it")
        while broker.alive():
            time.sleep(0.2)
        raise CliError(FAILED, f"Kafka ended by itself: {broker.last_lines()}")
