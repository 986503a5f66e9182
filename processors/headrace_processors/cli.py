"""`headrace worker`: which stages, how many processes, how it ends. Knows no task and no topic."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from typing import Any

import click

from headrace_cli.common import USAGE, CliError, common, run
from headrace_cli.web import site, web
from headrace_schemas.root_error import STUCK, HeadraceError
from headrace_streams import process_end
from headrace_streams.settings import Settings
from headrace_streams.stacks import dump_on_signal

log = logging.getLogger("headrace")

RESTART_SECONDS = 1.0


@click.command()
@common(json=False)
@click.option("--stages", metavar="A,B", help="Which stages to run; all of them unless given.")
@click.option("--processes", default=1, type=click.IntRange(1, 256), show_default=True, help="Worker processes of this command.")
@web
def worker(settings: Settings, stages: str | None, processes: int, web_port: int | None, web_host: str) -> int:
    """Run the stages: validate, join, reward, curate and release, exactly once each.

    Partitions are shared among all workers of a deployment, on any number of machines. Ends on SIGTERM or Ctrl-C after the
    transactions that are under way, at the latest after 25 s. With a web port it also waits for topics that are not there yet; of
    several processes each has its own port, from the one given upwards.
    """
    names = _chosen(stages)
    _policies(settings)  # what is wrong with them is said once, here
    _signing(settings, names)
    ports = [None] * processes if web_port is None else [web_port + number for number in range(processes)]
    if processes == 1:
        return run(_serve(settings, names, ports[0], web_host))
    if web_port is None:
        run(_wait(settings, names))
    for port in filter(None, ports):  # a child that can't have its port would be started again for ever
        site(settings, port, web_host).close()
    return _supervise(settings, names, ports, web_host)


def _chosen(stages: str | None) -> tuple[str, ...]:
    from headrace_processors.stages import STAGES

    known = [stage.name for stage in STAGES]
    names = tuple(known) if stages is None else tuple(name.strip() for name in stages.split(","))
    for name in names:
        if name not in known:
            raise CliError(USAGE, f"--stages: there is no stage {name!r}; known: {', '.join(known)}")
    return names


def _policies(settings: Settings) -> Any:
    from headrace_processors.policy_file import load

    return load(settings.policy)


def _signing(settings: Settings, names: Sequence[str]) -> None:
    """Says how releases are signed. SettingsError for a key that can't be used."""
    from headrace_streams import signing

    if "release" in names and (key := signing.signing_key(settings)) is not None:
        _log_to_stderr()
        log.info("releases are signed by key %s", key.id)


async def _wait(settings: Settings, names: tuple[str, ...]) -> None:
    from headrace_schemas.topology import STAGES_BY_NAME
    from headrace_streams.runtime.startup import wait_for_topics

    _log_to_stderr()
    await wait_for_topics(settings, [STAGES_BY_NAME[name] for name in names])


async def _serve(settings: Settings, names: tuple[str, ...], web_port: int | None, web_host: str) -> int:
    from headrace_processors.stages import STAGES
    from headrace_processors.worker import serve

    stages = [stage for stage in STAGES if stage.name in names]
    policies = _policies(settings)
    bodies = {stage.name: getattr(policies, stage.name).body() for stage in stages}
    _log_to_stderr()
    page = None if web_port is None else site(settings, web_port, web_host)
    return await serve(settings, stages, bodies, site=page, silence=policies.silence)


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs each failed attempt; the supervisor says it once
    logging.getLogger("asyncio").setLevel(logging.ERROR)


def _child(settings: Settings, names: tuple[str, ...], web_port: int | None, web_host: str) -> None:
    dump_on_signal()
    try:
        raise SystemExit(run(_serve(settings, names, web_port, web_host)))
    except HeadraceError as error:
        log.error("%s", error)
        raise SystemExit(error.exit_code) from None


def _supervise(settings: Settings, names: tuple[str, ...], ports: Sequence[int | None], web_host: str) -> int:
    """Keeps a child for each of `ports` running until a signal; one that dies is started again. All end with this process."""
    _log_to_stderr()
    context = multiprocessing.get_context("spawn")
    ended: list[int] = []
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        signal.signal(number, lambda *_, code=code: ended.append(code))
    children: list[Any] = [None] * len(ports)
    try:
        while not ended:
            for place, child in enumerate(children):
                if child is not None and child.is_alive():
                    continue
                if child is not None:
                    log.error("worker process %d ended with %s and is started again", place, child.exitcode)
                    time.sleep(RESTART_SECONDS)
                given = (settings, names, ports[place], web_host)
                children[place] = context.Process(target=_child, args=given, name=f"headrace-worker-{place}")
                children[place].start()
            wait([child.sentinel for child in children], timeout=0.5)
    finally:
        hard = _end(children)
    return STUCK if hard else ended[0] if ended else 1


def _end(children: Sequence[Any]) -> bool:
    """Has all children end, which they do by themselves, if need be hard. Whether one had to."""
    running = [child for child in children if child is not None]
    for child in running:
        child.terminate()
    until = time.monotonic() + process_end.HARD_SECONDS + 2 * process_end.LAST_SECONDS
    for child in running:
        child.join(max(0.0, until - time.monotonic()))
        if child.is_alive():
            log.error("%s does not end and is killed", child.name)
            child.kill()
            child.join()
    return any(child.exitcode in (STUCK, -signal.SIGKILL) for child in running)
