"""The options of commands with a web site, and the site that they name. Knows no page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headrace_cli.common import USAGE, CliError
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from headrace_streams.monitoring.site import Site

Function = TypeVar("Function", bound=Callable[..., Any])
LAST_PORT = 65535


def web(function: Function) -> Function:
    """Gives a command --web-port and --web-host."""
    host = click.option("--web-host", default="127.0.0.1", show_default=True, help="Address that the web port listens on.")
    port = click.option(
        "--web-port",
        type=click.IntRange(1, LAST_PORT),
        help="Serve /healthz, /readyz, /status and /metrics there; off unless given.",
    )
    return port(host(function))


def site(settings: Settings, port: int, host: str) -> Site:
    """A site that listens. CliError, PortTaken."""
    import prometheus_client  # noqa: F401 (missing libraries are told before anything runs)

    from headrace_streams.monitoring.site import Site

    if port > LAST_PORT:
        raise CliError(USAGE, f"--web-port: process by process it counts up to {port}, and {LAST_PORT} is the last port")
    return Site(host, port, settings.deployment)
