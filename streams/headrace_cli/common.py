"""What all commands share: the common options, output, and which error is which exit code. Knows no command.

Exit: 0 done; 1 the answer is no; 2 wrong usage or settings; 3 broker or store unreachable; 4 the work failed; 5 told to end
and ended hard; 130 interrupted.
"""

from __future__ import annotations

import asyncio
import functools
import getpass
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import click

from headrace_cli.plain_output import control, plain, plain_json
from headrace_schemas.root_error import FAILED, INTERRUPTED, NO, OK, UNREACHABLE, USAGE, HeadraceError

if TYPE_CHECKING:
    from headrace_streams.settings import Loaded

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "NO",
    "OK",
    "PROGRAM",
    "UNREACHABLE",
    "USAGE",
    "CliError",
    "common",
    "emit",
    "end_progress",
    "fail",
    "loaded_settings",
    "note",
    "progress",
    "run",
]

# Errors of others that a command may end with; ours carry their code. By name, so that no module is imported to handle an error
# that it can't have raised.
FOREIGN_EXIT_CODES: tuple[tuple[str, str, int], ...] = (
    ("aiokafka.errors", "KafkaConnectionError", UNREACHABLE),
    ("aiokafka.errors", "NodeNotReadyError", UNREACHABLE),
    ("aiokafka.errors", "KafkaTimeoutError", UNREACHABLE),
    ("aiokafka.errors", "RequestTimedOutError", UNREACHABLE),
    ("aiokafka.errors", "KafkaError", FAILED),
)

PROGRAM = "from headrace_cli.main import main; main()"  # a command line of ours in a child process: for `python -c`

Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")


class CliError(HeadraceError):
    """Ends a command: `code` is the exit code, `message` one line for standard error that says what to do."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = code
        self.message = message


@overload
def common(function: Function) -> Function: ...
@overload
def common(*, json: bool) -> Callable[[Function], Function]: ...
def common(function: Any = None, *, json: bool = True) -> Any:
    """Gives a command --bootstrap, --deployment, --config and, unless `json` is False, --json.

    The function is called with `settings: Settings` and (with `json`) `as_json: bool`; `settings_of()` has the origins too.
    """
    if function is None:
        return functools.partial(common, json=json)

    @functools.wraps(function)
    def wrapper(*args: Any, bootstrap: str | None, deployment: str | None, config: Path | None, **kwargs: Any) -> Any:
        from headrace_streams.settings import load  # pydantic takes its time, and `--help` needs none

        loaded = _with_login(load({"bootstrap": bootstrap, "deployment": deployment}, config))
        click.get_current_context().meta["headrace.loaded"] = loaded
        return function(*args, settings=loaded.settings, **kwargs)

    decorated: Any = wrapper
    if json:
        decorated = click.option("--json", "as_json", is_flag=True, help="Print JSON: one object, or one a line.")(decorated)
    config_file = click.Path(dir_okay=False, path_type=Path)
    decorated = click.option("--config", type=config_file, help="Settings file (TOML); ./headrace.toml if it is there.")(
        decorated
    )
    decorated = click.option("--deployment", help="First part of every topic name.")(decorated)
    return click.option("--bootstrap", help="Kafka, host:port[,host:port ...].")(decorated)


def _with_login(loaded: Loaded) -> Loaded:
    """The settings with the login of the secured local broker that they lead to, unless they say how to get in themselves."""
    if any(origin != "default" for name, origin in loaded.origins.items() if name.startswith("security")):
        return loaded
    from headrace_streams.local_kafka.records import client_file
    from headrace_streams.settings import Loaded, load

    path = client_file(loaded.settings.bootstrap, loaded.settings.data_dir)
    if path is None:
        return loaded
    login = load({}, path)
    origins = {name: origin for name, origin in login.origins.items() if name.startswith("security")}
    return Loaded(loaded.settings.model_copy(update={"security": login.settings.security}), {**loaded.origins, **origins})


def loaded_settings() -> Any:
    """The `settings.Loaded` (settings and origins) of the running command."""
    return click.get_current_context().meta["headrace.loaded"]


def program_name() -> str:
    """How this command was called, as a shell takes it: a line that is printed to be pasted begins with it."""
    called = (
        sys.argv[0] if os.path.basename(sys.argv[0]) == "headrace" else os.path.join(os.path.dirname(sys.executable), "headrace")
    )
    on_path = shutil.which("headrace")
    if not os.path.exists(called) or (on_path and os.path.samefile(on_path, called)):
        return "headrace"
    return shlex.quote(called if os.path.dirname(called) else os.path.join(".", called))


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs a command's coroutine to its end; Ctrl-C cancels it. What it reads may be anybody's, odd header names included."""
    from headrace_streams import stacks
    from headrace_streams.kafka import compat

    async def quietly() -> Result:
        stacks.watch(asyncio.get_running_loop())
        compat.drop_lost_errors(asyncio.get_running_loop())
        return await work

    compat.install()
    return asyncio.run(quietly())


def emit(data: Any) -> None:
    """Prints one JSON value on a line of standard output."""
    import orjson

    click.echo(plain_json(orjson.dumps(data, default=str, option=orjson.OPT_NON_STR_KEYS)))


def note(message: str) -> None:
    """Prints a line for people, on standard error, so that standard output stays data."""
    click.echo(message, err=True)


def progress(text: str) -> None:
    """How far a command is: on a terminal one line of standard error, which the next one is written over, or a line each."""
    if sys.stderr.isatty():
        control(f"\r\033[K{plain(text)}")
    else:
        note(text)


def end_progress() -> None:
    """After the last `progress`: what a command prints next has a line of its own."""
    if sys.stderr.isatty():
        click.echo(err=True)


def fail(error: BaseException) -> tuple[int, str] | None:
    """(exit code, one line) for an error that a command may end with; None for one that is a bug of ours."""
    if isinstance(error, HeadraceError):
        return error.exit_code, str(error) or type(error).__name__
    for module, name, code in FOREIGN_EXIT_CODES:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return code, str(error) or type(error).__name__
    if isinstance(error, OSError):
        return FAILED, f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return None


def who() -> str | None:
    """The user that runs this command, by name; None for one without."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return None
