"""The table of commands and what happens around each: loaded when called, errors as one line, exit codes. Does no work itself."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import click

from headrace_cli.common import FAILED, INTERRUPTED, OK, USAGE, CliError, fail
from headrace_cli.plain_output import plain_output
from headrace_streams.stacks import dump_on_signal


class Command(NamedTuple):
    """Where a command is ("module:attribute"), the extra that brings its libraries ("" = none) and its line in `--help`."""

    path: str
    extra: str
    help: str


SECTIONS: dict[str, dict[str, Command]] = {  # as they stand in `--help`
    "To begin": {
        "init": Command("headrace_cli.init:init", "all", "A policy and a settings file to begin with."),
        "demo": Command("headrace_demo.run.cli:demo", "demo", "The whole loop on this machine, with a live view."),
        "kafka": Command("headrace_cli.kafka:kafka", "broker", "A local single-node Apache Kafka: start, stop, status, run."),
        "topics": Command("headrace_cli.topics:topics", "", "Declare all topics on a broker, or check them."),
    },
    "What runs": {
        "worker": Command("headrace_processors.cli:worker", "worker", "Run every stage but train."),
        "trainer": Command("headrace_trainer.cli:trainer", "trainer", "Run the train stage."),
    },
    "The log": {
        "publish": Command("headrace_cli.publish:publish", "", "Validate and send events from JSON lines."),
        "tail": Command("headrace_cli.tail:tail", "", "Print events as they come."),
        "status": Command("headrace_lake.cli:status", "worker", "Every stage's lag and counts, buckets, releases."),
        "console": Command("headrace_console.cli:console", "console", "The deployment in a browser: what flows, and why."),
        "silence": Command("headrace_cli.silence:silence", "", "Who should speak and does not; mute one for a while."),
        "replay": Command("headrace_lake.cli:replay", "worker", "Verify what the stages wrote, or rebuild it from signals."),
        "positions": Command(
            "headrace_lake.cli:positions", "worker", "Where tasks stand; a task's state made anew from the log."
        ),
        "dataset": Command("headrace_lake.dataset_cli:dataset", "worker", "Write a bucket's training data to files."),
        "lake": Command("headrace_lake.lake_cli:lake", "lake", "The log as Parquet at one cut: follow, status, compact."),
        "sql": Command("headrace_lake.lake_cli:sql", "lake", "Answer one SELECT over the lake."),
        "explain": Command(
            "headrace_lake.lineage_cli:explain", "lake", "What something is made of; what became of an interaction."
        ),
        "impact": Command("headrace_lake.lineage_cli:impact", "lake", "What came of an event, up to releases."),
    },
    "Another policy": {
        "whatif": Command("headrace_lake.whatif.cli:whatif", "lake", "What another policy would have made of the recorded log."),
    },
    "Training by hand": {
        "batches": Command("headrace_lake.batches:batches", "worker", "Batches: list, show, and have one trained again."),
        "quality": Command(
            "headrace_lake.quality_cli:quality", "worker", "How good the data of a batch is; a sample of it for people."
        ),
        "train": Command("headrace_trainer.cli:train", "trainer", "Train one batch in the foreground."),
        "evaluate": Command("headrace_trainer.cli:evaluate", "trainer", "Evaluate one model version, or ask any model a suite."),
        "evaluations": Command(
            "headrace_cli.evaluations:evaluations",
            "worker",
            "What was evaluated: list, both answers to each test row, remove those.",
        ),
    },
    "The store": {
        "export": Command(
            "headrace_trainer.artifacts.cli:export", "trainer", "A release as files: adapter, merged, GGUF, Ollama."
        ),
        "store": Command("headrace_trainer.store_cli:store", "trainer", "The store of adapters: what nothing needs any more."),
    },
    "Releases": {
        "releases": Command("headrace_cli.releases:releases", "", "List, follow or show releases."),
        "evidence": Command(
            "headrace_cli.evidence:evidence", "", "What waits for evidence in a bucket, and what is still needed."
        ),
        "promote": Command("headrace_cli.releases:promote", "", "Ask for a model version to be served."),
        "rollback": Command("headrace_cli.releases:rollback", "", "Ask for an earlier release, or the base, to be served again."),
        "revoke": Command("headrace_cli.releases:revoke", "", "Ask that an adapter is never served again."),
        "pause": Command("headrace_cli.releases:pause", "", "Stop promotions of a bucket."),
        "resume": Command("headrace_cli.releases:resume", "", "Allow promotions of a bucket again."),
    },
    "Taking things back": {
        "retract": Command("headrace_cli.releases:retract", "", "Take an interaction back; lists the releases that it touches."),
        "forget": Command("headrace_cli.releases:forget", "", "Erase a person's data; lists the releases that it touches."),
        "dead-letters": Command(
            "headrace_cli.dead_letters:dead_letters", "", "What could not be processed: groups, list, show, redrive."
        ),
    },
    "Surroundings": {
        "keys": Command("headrace_cli.keys:keys", "signing", "Keys with which releases are signed and believed: create, show."),
        "config": Command("headrace_cli.config:config", "", "Print the settings and where each comes from."),
        "doctor": Command("headrace_cli.doctor:doctor", "", "Check the surroundings: broker, versions, disk, Java, GPU, store."),
    },
}
COMMANDS = {name: command for commands in SECTIONS.values() for name, command in commands.items()}


class Table(click.Group):
    """A group whose commands are imported when they are called; its help comes from the table alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        ctx.meta["headrace.command"] = cmd_name
        module, _, attribute = entry.path.partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise missing_library(cmd_name, error) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", command.help) for name, command in commands.items()])


def missing_library(command: str, error: ModuleNotFoundError) -> Exception:
    """What to say when a library of `command` is not installed; the error itself when what is missing is our own."""
    entry, library = COMMANDS.get(command), (error.name or "").partition(".")[0]
    if entry is None or not entry.extra or library.startswith("headrace"):
        return error
    from headrace_streams.pip_line import pip_line

    return CliError(USAGE, f"headrace {command} needs {library}, which is not installed: {pip_line(entry.extra)}")


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"headrace {version('headrace')}")
        ctx.exit()


@click.group(cls=Table, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version.")
def headrace() -> None:
    """Feedback on Kafka becomes evaluated adapters that agents follow.

    Settings come from flags, HEADRACE_* variables, ./headrace.toml and defaults, in this order.
    """


def invoke(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; errors are one line on standard error. `arguments` without the program.
    Whatever it prints is plain text."""
    with plain_output():
        return _invoke(arguments)


def _invoke(arguments: Sequence[str]) -> int:
    meta: dict[str, Any] = {}
    try:
        with headrace.make_context("headrace", list(arguments)) as ctx:
            meta = ctx.meta
            result = headrace.invoke(ctx)
        return result if isinstance(result, int) else OK
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as help_wanted:
        click.echo(help_wanted.format_message())
        return USAGE
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else _called(arguments)
        return _say(USAGE, f"{error.format_message().rstrip('.')}; see {command} --help")
    except click.ClickException as error:
        return _say(USAGE, error.format_message())
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough; nothing may be flushed into the broken pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if isinstance(error, ModuleNotFoundError):
            error = missing_library(meta.get("headrace.command", ""), error)
        known = fail(error)
        if known is not None:
            return _say(*known)
        if os.environ.get("HEADRACE_DEBUG"):
            raise
        return _say(FAILED, f"{type(error).__name__}: {error} (HEADRACE_DEBUG=1 shows where)")


def _called(arguments: Sequence[str]) -> str:
    """The command that `arguments` call, e.g. "headrace kafka start": not every usage error of click's knows it."""
    path, command = "headrace", cast(click.Command, headrace)
    for word in arguments:
        inner = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
        if inner is None:
            break
        path, command = f"{path} {word}", inner
    return path


def _say(code: int, message: str) -> int:
    line = " ".join(message.split())
    click.echo(line if line.startswith("headrace ") else f"headrace: {line}", err=True)
    return code


def main() -> None:
    dump_on_signal()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs each failed attempt; we say once what came of it
    sys.exit(invoke(sys.argv[1:]))
