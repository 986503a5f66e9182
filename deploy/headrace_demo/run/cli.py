"""`headrace demo`: puts the whole ring on this machine, shows it, and ends when the model has learnt. Decides nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace_cli.common import FAILED, INTERRUPTED, NO, OK, PROGRAM, CliError, common, loaded_settings, program_name, run

if TYPE_CHECKING:
    from headrace_demo.run.children import Children
    from headrace_demo.run.folder import Place
    from headrace_demo.show.picture import Control, Picture
    from headrace_demo.show.view import Screen
    from headrace_streams.settings import Settings

LEARNING = ("agent", "trainer")  # children without which nothing new is learnt


@click.command()
@click.option(
    "--releases", default=2, show_default=True, type=click.IntRange(1, 100), help="End after so many promoted releases."
)
@click.option("--minutes", default=15.0, show_default=True, type=click.FloatRange(0.1), help="Give up after so long (exit 1).")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31), help="Which shop, questions and base model.")
@click.option(
    "--corrected",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of wrong answers that somebody corrects; of the others is only known that they are wrong.",
)
@click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder that keeps it all; default: demo/ in data_dir."
)
@click.option("--console", is_flag=True, help="Open the console beside it; both stay until Ctrl-C.")
@common
def demo(
    settings: Settings,
    as_json: bool,
    releases: int,
    minutes: float,
    seed: int,
    corrected: float,
    data_dir: Path | None,
    console: bool,
) -> int:
    """The whole loop on this machine: Kafka, worker, trainer and a small SQL agent that gets better while you watch.

    Needs no data, no GPU and no running broker: it starts one of its own, unless --bootstrap names one. The log, the adapters and
    the base model stay in the data folder; each run is a deployment of its own there (demo-1, demo-2 …, or --deployment).
    Exit 1: not enough releases in time.
    """
    from headrace_demo.run.children import ChildDied
    from headrace_demo.run.folder import Place

    flags = [name for name, origin in loaded_settings().origins.items() if origin.startswith("--")]
    place = Place(data_dir or settings.data_dir / "demo", seed, settings.deployment if "deployment" in flags else None)
    bootstrap = settings.bootstrap if "bootstrap" in flags else None
    try:
        return run(_demo(place, bootstrap, releases, minutes * 60, corrected, as_json, console))
    except asyncio.CancelledError:
        return INTERRUPTED
    except ChildDied as error:
        raise CliError(FAILED, f"demo: {error}; logs are in {place.run}") from error


async def _demo(
    place: Place, bootstrap: str | None, releases: int, limit: float, corrected: float, as_json: bool, console: bool
) -> int:
    from rich.console import Console

    from headrace_demo.run.children import ChildDied, Children
    from headrace_demo.run.policy import BUCKETS, MAIN, OVERRIDES, targets
    from headrace_demo.shop import database as shop
    from headrace_demo.shop.exam import ExamPaper
    from headrace_demo.show.picture import Picture
    from headrace_demo.show.view import Dashboard, Json, Lines, summary, summary_tables

    began = time.monotonic()
    terminal = Console()
    if not terminal.is_terminal:
        terminal = Console(width=80)
    screen: Screen = Json() if as_json else Dashboard(terminal) if terminal.is_terminal else Lines()
    paper = ExamPaper(place.seed)
    picture = Picture(MAIN, targets(), {bucket: paper.columns(bucket.partition("/")[0]) for bucket in BUCKETS})

    def seconds() -> float:
        return time.monotonic() - began

    def note(line: str) -> None:
        screen.note(seconds(), line)

    def conclude(address: str | None) -> None:
        """The last lines."""
        screen.close()
        table, program = summary(picture), program_name()
        afterwards = place.afterwards(program, own_broker=bootstrap is None)
        if isinstance(screen, Json):
            told = {"releases": table, "done": done, "seconds": round(seconds(), 1), "afterwards": afterwards}
            return screen.emit(told if address is None else {**told, "console": address})
        terminal.print(summary_tables(picture))
        if not done:
            terminal.print(f"{len(picture.rows_of(MAIN)) - 1} of {releases} releases in {limit / 60:g} minutes", highlight=False)
        ends = f" (`{place.command(program, 'kafka stop')}` ends the broker that it starts)" if bootstrap is None else ""
        print(f"Everything is kept. This line looks around{ends}:\n{afterwards}")
        if address is not None:
            again = place.command(program, "console")
            print(f"The console is open until Ctrl-C (`{again}` opens it again):\n{address}", flush=True)

    _end_on_signals()
    done = False
    address: str | None = None
    try:
        with Children(place.run) as children:
            note(f"run {place.deployment} in {place.data_dir}, seed {place.seed}")
            screen.tell("policy: the defaults, but for")
            for override in OVERRIDES:
                screen.tell(str(override))
            building = asyncio.ensure_future(_base(children, place, note))
            shop.create(place.database, place.seed)
            try:
                async with _ring(children, place, bootstrap, note) as settings:
                    if console:
                        address = await _start_console(children, place)
                        note(f"the console: {address}")
                    await building
                    _start(children, place, "trainer", "--device", "cpu")
                    _start_agent(children, place, settings, corrected)
                    note(f"the agent answers; {corrected:.0%} of what is wrong is corrected, the rest only marked as wrong")
                    done = await _watch(settings, picture, screen, children, seconds, lambda: picture.complete(releases), limit)
                    if len(picture.rows_of(MAIN)) > 1:
                        note("the control arm: what led to release 1 once more, with the targets shuffled, and the same exam …")
                        children.stop(*LEARNING if console else ())  # nothing is learnt or released any more
                        try:
                            picture.control = await _control(children, place, picture)
                        except ChildDied as error:  # what was learnt is shown all the same
                            note(f"there is no control arm: {error}")
                    if address is not None:
                        children.stop(*LEARNING)
                        conclude(address)
                        await _until_told(children)
            finally:
                building.cancel()
                children.stop()
    finally:
        screen.close()
    if address is None:
        conclude(None)
    return OK if done else NO


async def _until_told(children: Children) -> None:
    """Until Ctrl-C or a signal, which is no failure then. ChildDied when the console or the worker ends before."""
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0.5)
            children.check()


async def _start_console(children: Children, place: Place) -> str:
    """The console's address, which holds its token: it is in no log, but in what this process prints. ChildDied."""
    from msgspec.json import decode

    arguments = ("console", "--config", str(place.config), "--port", "0", "--json")
    child = children.start("console", "-c", PROGRAM, *arguments, environment=_threads("1"), output=subprocess.PIPE)
    assert child.stdout is not None
    line = await asyncio.to_thread(child.stdout.readline)
    if not line:
        children.wait("console")
    return str(decode(line)["address"])


def _end_on_signals() -> None:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does."""
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


async def _watch(
    settings: Settings,
    picture: Picture,
    screen: Screen,
    children: Children,
    seconds: Callable[[], float],
    complete: Callable[[], bool],
    limit: float,
) -> bool:
    """Shows the log until `complete` (True) or `limit` seconds are over (False). ChildDied when a part of the ring ends."""
    from headrace_demo.show.watch import follow

    async with aclosing(follow(settings)) as news:
        async for events in news:
            for event in events:
                picture.take(event, seconds())
            screen.draw(picture, seconds())
            if complete():
                return True
            if seconds() > limit:
                return False
            children.check()
    return False


@asynccontextmanager
async def _ring(children: Children, place: Place, bootstrap: str | None, note: Callable[[str], None]) -> AsyncIterator[Settings]:
    """A broker with all topics, and a worker; ends in the other order. Yields the settings."""
    from headrace_streams.kafka import admin

    async with _broker(place, bootstrap, note) as address:
        settings = place.settings(address)
        await admin.declare(settings)
        _start(children, place, "worker")
        try:
            yield settings
        finally:
            children.stop()


@asynccontextmanager
async def _broker(place: Place, bootstrap: str | None, note: Callable[[str], None]) -> AsyncIterator[str]:
    """Where a broker answers: the one of `bootstrap`, or one of our own on the data folder, which is stopped at the end."""
    from headrace_streams.local_kafka.process import LocalKafka

    if bootstrap is not None:
        yield bootstrap
        return
    kafka = LocalKafka(place.kafka, say=note)
    starting = asyncio.ensure_future(asyncio.to_thread(kafka.start))
    try:
        await asyncio.shield(starting)
        note(f"Kafka answers on {kafka.bootstrap}")
        yield kafka.bootstrap
    finally:
        with suppress(Exception):  # what went wrong is under way already
            await starting  # a broker that is half started cannot be stopped
        await asyncio.to_thread(kafka.stop)


async def _base(children: Children, place: Place, note: Callable[[str], None]) -> None:
    """Builds the base model in a process of its own, or finds it from an earlier start."""
    if place.base.exists():
        return note("the base model is there from an earlier start")
    threads = str(min(2, os.cpu_count() or 1))
    command = ("-m", "headrace_demo.base_model.build", str(place.seed), str(place.data_dir), threads)
    child = children.start("base", *command, environment=_threads(threads), output=subprocess.PIPE)
    began = time.monotonic()
    note("building the base model … once for this seed, in a minute or two")
    tenth = 0
    while child.stdout is not None and (line := await asyncio.to_thread(child.stdout.readline)):
        step, steps, loss = line.split()
        if int(step) * 10 // int(steps) > tenth:
            tenth = int(step) * 10 // int(steps)
            note(f"building the base model … step {int(step)} of {int(steps)}, loss {float(loss):.2f}")
    children.wait("base")
    note(f"the base model is built, in {time.monotonic() - began:.0f} s")


async def _control(children: Children, place: Place, picture: Picture) -> Control:
    """What the control arm of the main bucket's first release got right."""
    from msgspec.json import decode

    from headrace_demo.show.picture import Control

    first = picture.rows_of(picture.main)[1]
    arguments = (place.config, place.database, place.seed, place.run / "control", first.version)
    child = children.start(
        "control", "-m", "headrace_demo.run.control", *map(str, arguments), environment=_threads("1"), output=subprocess.PIPE
    )
    assert child.stdout is not None
    line = await asyncio.to_thread(child.stdout.readline)
    children.wait("control")
    found = decode(line)
    text = (
        f"the {found['steps']} steps of release {first.sequence} on its prompts with targets shuffled; "
        f"{found['seconds']:.0f} s of CPU; not released"
    )
    return Control(first.bucket, first.sequence, found["right"], found["asked"], text)


def _start(children: Children, place: Place, command: str, *arguments: str) -> None:
    """One of our own commands, with the run's settings and nobody else's."""
    children.start(command, "-c", PROGRAM, command, "--config", str(place.config), *arguments, environment=_threads("1"))


def _start_agent(children: Children, place: Place, settings: Settings, corrected: float) -> None:
    arguments = {
        "--bootstrap": settings.bootstrap, "--deployment": place.deployment, "--base": place.base, "--database": place.database,
        "--outbox": place.run / "outbox.db", "--store": settings.store, "--cache": place.data_dir / "cache", "--seed": place.seed,
        "--corrected": corrected,
    }  # fmt: skip
    flat = [str(part) for pair in arguments.items() for part in pair]
    children.start("agent", "-m", "headrace_demo.agent.agent", *flat, environment=_threads("1"))


def _threads(count: str) -> dict[str, str]:
    """Threads of torch that sleep while they wait: spinning ones made pretraining ten times slower beside other work."""
    return {"OMP_NUM_THREADS": count, "OMP_WAIT_POLICY": "PASSIVE"}
