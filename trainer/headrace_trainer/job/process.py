"""A job in a process of its own: started from a fork server that has torch loaded, watched through a pipe, killed at will.

Knows processes, not what a job does. The job ends itself when the process that started it is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any, NamedTuple

from msgspec import Struct

from headrace_schemas.derived import Surroundings
from headrace_schemas.root_error import HeadraceError
from headrace_streams.stacks import dump_on_signal
from headrace_trainer.job.failures import Cause, RankFailed, cause_of, cause_of_exit
from headrace_trainer.spec import JobProgress, JobResult, JobSpec

PROGRESS_SECONDS = 0.2
_ORPHANED = 70


class JobFailed(HeadraceError):
    """What ended a job, in one line: the exception's type and message, or the signal; whose fault that is; and whether it was
    killed, which is what a system does that is out of memory, or one of its processes ran out of it."""

    def __init__(self, message: str, cause: Cause = "unknown", *, killed: bool = False) -> None:
        super().__init__(message)
        self.cause, self.killed = cause, killed


class FailureMessage(Struct, frozen=True):
    """What a child sends instead of its result."""

    text: str
    cause: Cause = "unknown"
    killed: bool = False


def fork_server() -> ForkServerContext:
    """The fork server loads the libraries once; a job then starts in 0.2 s instead of 3."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["headrace_trainer.job.run", "transformers.models.auto.modeling_auto"])
    return server


class Hardware(NamedTuple):
    """What jobs will run on: torch's device, the precision that "auto" means there, and what else makes results differ."""

    device: str
    precision: str
    surroundings: Surroundings | None = None


async def probe_hardware(device: str, threads: int | None, processes: int = 1) -> Hardware:
    """The device and the precision that "auto" means on it, found out where jobs run, with `threads` and `processes` of the
    policy; this also makes the fork server load the libraries, so that the first batch need not wait for them. JobFailed, also
    when there are fewer GPUs than processes."""
    return Hardware(*await in_child(_probe, device, threads, processes))


async def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function`, of a module that the child loads, gives there. JobFailed when it raises or its process dies."""
    server = fork_server()
    ours, theirs = server.Pipe(duplex=False)
    process = server.Process(target=_call, args=(theirs, function, arguments), daemon=True)
    await asyncio.to_thread(process.start)
    theirs.close()
    try:
        received = await asyncio.to_thread(ours.recv)
    except EOFError:
        await asyncio.to_thread(process.join)
        ended = _ended(process.exitcode)
        if ended.cause == "surroundings":
            raise ended from None
        raise JobFailed("the job processes do not start: is torch installed and working?") from None
    finally:
        await asyncio.to_thread(process.join)
    if isinstance(received, FailureMessage):
        raise JobFailed(received.text, received.cause)
    return received


def _call(connection: Connection, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    try:
        connection.send(function(*arguments))
    except Exception as error:  # whatever it is, the caller is told, and decides whether to try again
        said = str(error) if isinstance(error, RankFailed) else f"{type(error).__name__}: {error}"
        connection.send(FailureMessage(said[:2000], cause_of(error), isinstance(error, RankFailed) and error.killed))


def _ended(code: int | None) -> JobFailed:
    """Of a process that ended without a word."""
    return JobFailed(
        f"the job's process ended with {'exit code' if (code or 0) >= 0 else 'signal'} {abs(code or 0)}",
        cause_of_exit(code),
        killed=code == -signal.SIGKILL,
    )


def _probe(device: str, threads: int | None, processes: int) -> tuple[str, str, Surroundings]:
    import torch

    from headrace_trainer.model.precision import device_for, precision_for, surroundings_of

    try:
        chosen = device_for(device)
        gpus = torch.cuda.device_count() if chosen == "cuda" else 1
        if chosen.startswith("cuda") and processes > gpus:
            raise ValueError(f"processes = {processes}: each needs a GPU of its own, and there is {gpus}")
        return chosen, precision_for("auto", chosen), surroundings_of(chosen, threads, processes)
    except Exception as error:
        raise RuntimeError(f"device {device}: {type(error).__name__}: {error}") from error


class JobProcess:
    """One job. `events` ends with its JobResult; `kill` may come at any time from the same loop."""

    def __init__(self, spec: JobSpec) -> None:
        server = fork_server()
        self._connection, theirs = server.Pipe(duplex=True)
        self._process = server.Process(target=_main, args=(theirs, spec), name=f"job {spec.start.run_id[:8]}")
        self._process.daemon = spec.processes == 1  # one that starts others may not be one; all of them watch for their parent
        self._theirs = theirs

    async def events(self) -> AsyncGenerator[JobProgress | JobResult, None]:
        """Progress, at most five times a second, then the result. Raises JobFailed. Leaving early kills the job."""
        starting = asyncio.ensure_future(asyncio.to_thread(self._process.start))  # the first waits for torch to be loaded
        try:
            try:
                await asyncio.shield(starting)
            finally:
                await asyncio.wait({starting})  # a start can't be cancelled, and what was started must be killed
                self._theirs.close()
            while True:
                try:
                    received = await asyncio.to_thread(self._connection.recv)
                except (EOFError, OSError):
                    await asyncio.to_thread(self._process.join, 5)
                    raise _ended(self._process.exitcode) from None
                if isinstance(received, FailureMessage):
                    raise JobFailed(received.text, received.cause, killed=received.killed)
                yield received
                if isinstance(received, JobResult):
                    return
        finally:
            self.kill()

    def kill(self) -> None:
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()


def _main(connection: Connection, spec: JobSpec) -> None:
    from headrace_trainer.job.run import run  # loaded already, in the fork server

    dump_on_signal()
    threading.Thread(target=_watch, args=(connection,), daemon=True).start()
    sent_at = 0.0

    def send(progress: JobProgress) -> None:
        nonlocal sent_at
        now = time.monotonic()
        if progress.phase != "training" or progress.step in (1, progress.steps) or now - sent_at >= PROGRESS_SECONDS:
            sent_at = now
            connection.send(progress)

    _call(connection, run, (spec, send))


def _watch(connection: Connection) -> None:
    """Nobody ever writes to a job: the pipe becomes readable when its trainer is gone."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    os._exit(_ORPHANED)
