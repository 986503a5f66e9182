"""`headrace kafka`: a local broker for one machine. Knows `local_kafka`, no client."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace_cli.common import FAILED, NO, USAGE, CliError, common, emit, loaded_settings, note
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from headrace_streams.local_kafka.process import Running

_folder = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the broker's data; default: kafka/ in data_dir.",
)
_running_folder = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the broker's data; default: wherever `kafka start` or `kafka run` started it.",
)


def _wait(seconds: float, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--wait [SECONDS]: without a number the default."""
    return click.option(
        "--wait", type=click.FloatRange(min=0), is_flag=False, flag_value=seconds, default=seconds, show_default=True,
        metavar="[SECONDS]", help=text,
    )  # fmt: skip


def _starting(function: Callable[..., Any]) -> Callable[..., Any]:
    function = _wait(60.0, "How long it may take until it answers.")(function)
    text = "Port on 127.0.0.1, 0 for a free one; default: that of --bootstrap if it is on this machine, else 9092."
    function = click.option("--port", type=click.IntRange(0, 65535), help=text)(function)
    secure = "Whoever connects must log in: makes credentials, once; commands find them by themselves."
    return _folder(click.option("--secure", is_flag=True, help=secure)(function))


def _own_folder(settings: Settings, data_dir: Path | None) -> Path:
    return data_dir or settings.data_dir / "kafka"


def _port(settings: Settings, port: int | None) -> int:
    host, _, number = settings.bootstrap.partition(",")[0].rpartition(":")
    if port is None:
        return int(number) if host in ("127.0.0.1", "localhost", "[::1]") else 9092
    return port


def _remember(settings: Settings, folder: Path) -> None:
    from headrace_streams.local_kafka.records import remember

    try:
        remember(folder, settings.data_dir)
    except OSError as error:
        note(f"{error.filename}: {error.strerror}: `kafka stop` will need --data-dir {folder}")


def _running(settings: Settings, data_dir: Path | None) -> list[Running]:
    """What runs on `data_dir`, or without one on the settings' own folder and on every folder that was recorded.

    Whoever set `data_dir` has a world of their own: then only what was started under it counts."""
    from headrace_streams.local_kafka.process import status
    from headrace_streams.local_kafka.records import recorded

    own = status(_own_folder(settings, data_dir))
    if data_dir is not None:
        return [own] if own else []
    by_default = loaded_settings().origins["data_dir"] == "default"
    others = recorded(None if by_default else settings.data_dir)
    return ([own] if own else []) + [other for other in others if other != own]


def _nothing_runs(settings: Settings, data_dir: Path | None) -> str:
    return f"no Kafka runs on {_own_folder(settings, data_dir)}" + ("" if data_dir else " or where `kafka start` started one")


def _text(running: Running) -> str:
    return f"Kafka {running.version} runs on {running.bootstrap} (pid {running.pid}, data in {running.data_dir})"


@click.group()
def kafka() -> None:
    """A real single-node Apache Kafka on this machine, for when there is none. Data survives restarts."""


@kafka.command()
@_starting
@common
def start(settings: Settings, as_json: bool, data_dir: Path | None, port: int | None, secure: bool, wait: float) -> None:
    """Start it in the background and wait until it answers."""
    from headrace_streams.local_kafka.credentials import CLIENT
    from headrace_streams.local_kafka.process import LocalKafka, status

    folder, number = _own_folder(settings, data_dir), _port(settings, port)
    broker = LocalKafka(folder, number, secure=secure, wait=wait, say=note).start(detach=True)
    running = status(broker.data_dir)
    if running is None:
        raise CliError(FAILED, f"Kafka ended right after its start: see {broker.data_dir / 'kafka.log'}")
    _remember(settings, broker.data_dir)
    if as_json:
        return emit(running._asdict() | {"bootstrap": running.bootstrap})
    click.echo(_text(running))
    if running.secure:
        click.echo(f"It wants a login; commands find theirs in {broker.data_dir / CLIENT}, agents pass it on as kafka={{…}}")
    if running.bootstrap != settings.bootstrap or loaded_settings().origins["bootstrap"].startswith("--"):
        click.echo("Other commands find it with `bootstrap` in headrace.toml, or after:")
        click.echo(f"export HEADRACE_BOOTSTRAP={running.bootstrap}")


@kafka.command()
@_running_folder
@_wait(30.0, "How long it may take to end before it is killed.")
@common(json=False)
def stop(settings: Settings, data_dir: Path | None, wait: float) -> None:
    """Stop it, cleanly if it lets us. Exit 1 when none runs, 2 when several do and --data-dir doesn't say which."""
    from headrace_streams.local_kafka.process import stop as stop_broker

    found = _running(settings, data_dir)
    if len(found) > 1:
        for running in found:
            note(_text(running))
        raise CliError(USAGE, f"{len(found)} brokers run: name one with --data-dir")
    if not found or not stop_broker(Path(found[0].data_dir), wait):
        raise CliError(NO, _nothing_runs(settings, data_dir))
    click.echo(f"Kafka on {found[0].data_dir} is stopped")


@kafka.command()
@_running_folder
@common
def status(settings: Settings, as_json: bool, data_dir: Path | None) -> int:
    """Say what runs, a line for each broker: pid, port, folder, version. Exit 1 when nothing does."""
    found = _running(settings, data_dir)
    for running in found:
        if as_json:
            emit(running._asdict() | {"running": True, "bootstrap": running.bootstrap})
        else:
            click.echo(_text(running))
    if not found:
        emit({"running": False}) if as_json else click.echo(_nothing_runs(settings, data_dir))
    return 0 if found else NO


@kafka.command()
@_starting
@common(json=False)
def run(settings: Settings, data_dir: Path | None, port: int | None, secure: bool, wait: float) -> None:
    """Run it in the foreground; Ctrl-C stops it."""
    from headrace_streams.local_kafka.process import LocalKafka

    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))  # unwinds, so that the broker is stopped
    folder, number = _own_folder(settings, data_dir), _port(settings, port)
    with LocalKafka(folder, number, secure=secure, wait=wait, say=note) as broker:
        _remember(settings, broker.data_dir)
        click.echo(f"Kafka answers on {broker.bootstrap} (data in {broker.data_dir}); Ctrl-C stops it")
        while broker.alive():
            time.sleep(0.2)
        raise CliError(FAILED, f"Kafka ended by itself: {broker.last_lines()}")
