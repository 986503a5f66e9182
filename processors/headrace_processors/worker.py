"""The worker process: Faust hosts it (application, services); the supervisor's tasks do the work. Decides nothing.

Faust's own consumer, producer and tables stay switched off: every stage runs on partition tasks (ARCHITECTURE.md says why).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any

import faust
from faust.app import BootStrategy
from mode import Service
from msgspec.structs import replace

from headrace_processors.observer.policy import SilencePolicy
from headrace_processors.observer.watch import SilenceObserver
from headrace_processors.reward.policy import RewardPolicy
from headrace_streams import process_end
from headrace_streams.monitoring.site import Site
from headrace_streams.process_end import when_told
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.stage import FoldStage
from headrace_streams.runtime.startup import wait_for_topics
from headrace_streams.runtime.status import WorkerReport
from headrace_streams.runtime.supervisor import MakeTask, Supervisor
from headrace_streams.settings import Settings

log = logging.getLogger("headrace")

COLLECT = 10_000, 10, 20  # objects more than before, collections of the youngest until those of the next, and of that until all


class _Host(BootStrategy):
    """Faust's services without its Kafka clients."""

    enable_kafka = False


class App(faust.App):
    """A Faust application that keeps nothing on disk."""

    BootStrategy = _Host

    async def on_first_start(self) -> None:
        """Faust would make folders for tables here; there are none."""


class Pipeline(Service):
    """A supervisor as a service. `stopping` ends its tasks after the transaction that each is in."""

    def __init__(self, supervisor: Supervisor, **options: Any) -> None:
        self._work = supervisor  # `supervisor` means something else to mode
        self._running: asyncio.Task[None] | None = None
        super().__init__(**options)

    async def on_start(self) -> None:
        self._running = asyncio.create_task(self._work.run(), name="supervisor")
        self._running.add_done_callback(self._ended)

    async def on_stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def _ended(self, running: asyncio.Task[None]) -> None:
        error = None if running.cancelled() else running.exception()
        if error is not None:
            self.add_future(self.crash(error))


def tasks_of(settings: Settings, stages: Sequence[FoldStage], bodies: Mapping[str, Mapping[str, Any]]) -> dict[str, MakeTask]:
    """What makes the task of each input topic: `bodies` are policy bodies by stage name."""
    return {topic: functools.partial(_make, stage, bodies[stage.name], settings) for stage in stages for topic in stage.inputs}


def _make(stage: FoldStage, body: Mapping[str, Any], settings: Settings, topic: str, partition: int) -> FoldTask:
    return FoldTask(stage, body, topic, partition, settings)


def make_app(settings: Settings, supervisor: Supervisor) -> App:
    """The Faust application around `supervisor`."""
    app = App(
        f"{settings.deployment}-worker",
        broker=f"kafka://{settings.bootstrap.split(',')[0]}",
        key_serializer="raw",
        value_serializer="raw",
        autodiscover=False,
        store="memory://",
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        stream_wait_empty=False,
        consumer_auto_offset_reset="earliest",
        web_enabled=False,  # our own site is there before the topics are, and the trainer has the same
        loop=asyncio.get_running_loop(),
        worker_redirect_stdouts=False,
    )

    @app.service
    class Running(Pipeline):
        def __init__(self, **options: Any) -> None:
            super().__init__(supervisor, **options)

    return app


async def serve(
    settings: Settings,
    stages: Sequence[FoldStage],
    bodies: Mapping[str, Mapping[str, Any]],
    *,
    site: Site | None = None,
    group: str | None = None,
    silence: SilencePolicy | None = None,
) -> int:
    """Runs a worker until SIGTERM (returns 0) or SIGINT (returns 130), or until the process that started it is gone. With a
    `site`, which says what it waits for, missing topics are waited for."""
    supervisor = Supervisor(settings, group or f"{settings.deployment}.worker", tasks_of(settings, stages, bodies))
    observer: SilenceObserver | None = None
    if silence is not None and silence.observe and "reward" in bodies:
        base_of = RewardPolicy.model_validate(bodies["reward"]).base_of
        observer = SilenceObserver(settings, silence, base_of, supervisor.describe)
    if site is None:
        return await _serve(settings, stages, supervisor, observer, patient=False)

    def report() -> WorkerReport:
        return replace(supervisor.describe(), silences={} if observer is None else observer.counts)

    site.serve(report)
    try:
        return await _serve(settings, stages, supervisor, observer, patient=True)
    finally:
        site.close()


async def _serve(
    settings: Settings,
    stages: Sequence[FoldStage],
    supervisor: Supervisor,
    observer: SilenceObserver | None,
    *,
    patient: bool,
) -> int:
    stop: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(code: int) -> None:
        if not stop.done():
            stop.set_result(code)

    _end_with_parent(functools.partial(end, 0))
    with when_told({signal.SIGTERM: functools.partial(end, 0), signal.SIGINT: functools.partial(end, 130)}):
        return await _host(settings, stages, supervisor, observer, stop, patient=patient)


async def _host(
    settings: Settings,
    stages: Sequence[FoldStage],
    supervisor: Supervisor,
    observer: SilenceObserver | None,
    stop: asyncio.Future[int],
    *,
    patient: bool,
) -> int:
    for noisy in ("faust", "mode", __name__):  # mode logs every service's start and stop under the name of its module
        logging.getLogger(noisy).setLevel(logging.WARNING)
    waiting = asyncio.create_task(
        wait_for_topics(settings, [stage.topology for stage in stages], patient=patient, note=supervisor.waits)
    )
    either: list[asyncio.Future[Any]] = [stop, waiting]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if stop.done():
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return stop.result()
    await waiting
    spare_collector()
    app = make_app(settings, supervisor)
    looking = None if observer is None else asyncio.create_task(observer.run(), name="observer")
    try:
        await app.start()
        names = ", ".join(stage.name for stage in stages)
        log.info("worker runs %s on %s as %s", names, settings.bootstrap, settings.deployment)
        await app.wait(stop)
    finally:
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        await app.stop()
    if app.crash_reason is not None:
        raise app.crash_reason
    return stop.result()


def spare_collector() -> None:
    """Has garbage collection leave out what a worker has imported, which never goes, and look less often at what is young: tasks
    make few cycles. Collecting was 2 to 6 % of a worker's CPU, and a full one held all of its transactions up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT)


def _end_with_parent(end: Callable[[], None]) -> None:
    """Begins the end of this process when the one that started it is gone."""
    parent, loop = multiprocessing.parent_process(), asyncio.get_running_loop()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        process_end.begin()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(end)

    threading.Thread(target=watch, name="headrace-end-with-parent", daemon=True).start()
