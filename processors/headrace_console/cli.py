"""`headrace console`: pages about a deployment, in a process of its own. Knows options and their refusals; shows nothing."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace_cli.common import OK, USAGE, CliError, common, emit, note, run, who
from headrace_lake.lake_cli import folder_of, lake_option
from headrace_streams.process_end import when_told
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from headrace_console.access import ConsoleAccess

PORT = 8470


@click.command()
@lake_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address that it listens on; any but this machine's own needs a proxy."
)
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="Port; 0 takes a free one.")
@click.option(
    "--allow-host",
    "names",
    multiple=True,
    metavar="NAME",
    help="Name (and port) by which browsers call it, e.g. through a proxy.",
)
@click.option(
    "--proxy-network",
    "networks",
    multiple=True,
    metavar="CIDR",
    help="Network of a proxy that says who comes; several may be given.",
)
@click.option(
    "--proxy-secret",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File (0600) with the secret that the proxy sends as X-Headrace-Secret.",
)
@click.option("--user-header", default="X-Forwarded-User", show_default=True, help="Header in which the proxy names the visitor.")
@click.option(
    "--roles-header",
    default="X-Forwarded-Groups",
    show_default=True,
    help="Header with the visitor's roles: viewer, operator, privacy.",
)
@click.option("--no-follow", is_flag=True, help="Do not feed the lake; show what it holds.")
@common
def console(
    settings: Settings,
    as_json: bool,
    folder: Path | None,
    host: str,
    port: int,
    names: Sequence[str],
    networks: Sequence[str],
    proxy_secret: Path | None,
    user_header: str,
    roles_header: str,
    no_follow: bool,
) -> int:
    """Show the deployment in a browser: what flows, what was learnt and released, and why.

    The pages are read from the lake, which this command feeds unless another process does. Its address holds a token (made once,
    in the data folder, for your user alone) that signs your browser in. Any address but this machine's own is refused without a
    proxy that says who comes. Ends on Ctrl-C or SIGTERM."""
    from headrace_console.access import is_loopback

    if (proxy_secret is None) != (not networks):
        raise CliError(USAGE, "--proxy-network and --proxy-secret go together: a proxy is believed by its address and its secret")
    if proxy_secret is None and not is_loopback(host):
        raise CliError(
            USAGE,
            f"--host {host}: others could come in, and only a token in clear text would stop them: take 127.0.0.1, or a proxy "
            "that says who comes (--proxy-network, --proxy-secret)",
        )
    access = _access(settings, port, networks, proxy_secret, user_header, roles_header)
    arguments = None if no_follow else _same(folder)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    return run(_serve(settings, as_json, folder, host, port, names, access, arguments))


def _access(
    settings: Settings, port: int, networks: Sequence[str], proxy_secret: Path | None, user_header: str, roles_header: str
) -> ConsoleAccess:
    from headrace_console.access import ProxyAccess, TokenAccess, secret_of, token_of

    if proxy_secret is not None:
        return ProxyAccess(secret_of(proxy_secret), networks, user_header, roles_header)
    token = token_of(settings.data_dir / "console" / f"{settings.deployment}.token")
    return TokenAccess(token, f"headrace-{settings.deployment}", who() or "somebody")


def _same(folder: Path | None) -> list[str]:
    """Options that give a child of this command the same settings."""
    given = {**click.get_current_context().params, "lake": folder}
    named = ((f"--{name}", given.get(name)) for name in ("bootstrap", "deployment", "config", "lake"))
    return [part for name, value in named if value is not None for part in (name, str(value))]


async def _serve(
    settings: Settings,
    as_json: bool,
    folder: Path | None,
    host: str,
    port: int,
    names: Sequence[str],
    access: ConsoleAccess,
    arguments: Sequence[str] | None,
) -> int:
    from aiohttp import web

    from headrace_cli.doctor import examine
    from headrace_console.access import TokenAccess
    from headrace_console.doctor_watch import DoctorWatch
    from headrace_console.follower import LakeFollower
    from headrace_console.key_watch import KeyWatch
    from headrace_console.reading import LakeReader
    from headrace_console.server import ConsoleSite
    from headrace_console.status_watch import StatusWatch
    from headrace_lake.opening import opener_if_allowed

    stop: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(code: int) -> None:
        if not stop.done():
            stop.set_result(code)

    socket = _listening(host, port)
    port = socket.getsockname()[1]
    own = [f"{name}:{port}" for name in {"127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host}]
    reader = LakeReader(folder_of(settings, folder), settings.deployment)
    status = StatusWatch(lambda: _status(settings))
    follower = None if arguments is None else LakeFollower(reader.folder, arguments)
    site = ConsoleSite(
        settings,
        reader,
        access,
        [*own, *names],
        status,
        doctor=DoctorWatch(lambda: examine(settings)),
        keys=KeyWatch(lambda: opener_if_allowed(settings)),
        feeder=lambda: "not fed by this console" if follower is None else follower.state,
    )
    runner = web.AppRunner(site.app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    tasks = [asyncio.create_task(each.run()) for each in (status, follower) if each is not None]
    try:
        await web.SockSite(runner, socket).start()
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        if isinstance(access, TokenAccess):
            address += f"#token={access.token}"
        if as_json:
            emit({"address": address})
        else:
            click.echo(f"console: {address}")
            note("headrace: the address signs you in; keep it to yourself. Ctrl-C ends it")
        with when_told({signal.SIGTERM: lambda: end(OK), signal.SIGINT: lambda: end(130)}):
            return await stop
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        await runner.cleanup()
        reader.close()


def _listening(host: str, port: int) -> Any:
    import socket

    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise CliError(USAGE, f"--port {port}: {host} can't be listened on: {error.strerror}: choose another port") from error
    return made


def _status(settings: Settings) -> tuple[dict[str, Any], dict[str, int]]:
    """As `headrace status --json` has it, and where the log ends; from a thread without a loop."""
    from headrace_lake.cli import BEHIND_SECONDS, status_report
    from headrace_lake.kafka_log import KafkaLog
    from headrace_lake.manifest import LAKE_TOPICS

    async def ask() -> tuple[dict[str, Any], dict[str, int]]:
        report = await status_report(settings, BEHIND_SECONDS)
        spans = await KafkaLog(settings).offsets(LAKE_TOPICS)
        return report, {f"{topic}/{partition}": span.end for (topic, partition), span in spans.items()}

    return asyncio.run(ask())
