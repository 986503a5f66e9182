"""The training of a job in several processes of this machine, started and watched as `torchrun` does. Knows processes and the
pipes to them, nothing of what they compute. One of them tells and writes; who starts the job talks to this process alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from headrace_streams.file_lock import locked
from headrace_trainer.job.failures import RankFailed, cause_of, cause_of_exit, out_of_memory
from headrace_trainer.spec import JobProgress, JobSpec, TrainingOutcome

logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what a rank failed of is told in one line
_HERE = "127.0.0.1"
_ORPHANED = 70


def learn_in_ranks(spec: JobSpec, on_progress: Callable[[JobProgress], None]) -> TrainingOutcome:
    """`run.learn` in `spec.processes` processes. RankFailed says what ended the first one that failed."""
    from headrace_trainer.job.process import fork_server  # which loads this module

    server = fork_server()
    pipes = [server.Pipe(duplex=True) for _ in range(spec.processes)]
    listener = _Listener([ours for ours, _ in pipes], on_progress)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=spec.processes, run_id=spec.start.run_id, rdzv_backend="c10d",
        rdzv_endpoint=f"{_HERE}:0", local_addr=_HERE, max_restarts=0, start_method="forkserver",
    )  # fmt: skip
    try:
        results: dict[int, TrainingOutcome] = elastic_launch(config, _rank)(spec, [theirs for _, theirs in pipes])
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        said = f"one of {spec.processes} processes ended with {'exit code' if code >= 0 else 'signal'} {abs(code)}"
        listener.finish(pipes)
        raise listener.failed or RankFailed(said, cause_of_exit(code), killed=code == -signal.SIGKILL) from error
    finally:
        listener.finish(pipes)
    return results[0]


class _Listener(threading.Thread):
    """Hears the ranks: progress goes on to whoever waits for it, the first failure is kept."""

    def __init__(self, connections: Sequence[Connection], on_progress: Callable[[JobProgress], None]) -> None:
        super().__init__(daemon=True)
        self._connections, self._on_progress = list(connections), on_progress
        self.failed: RankFailed | None = None
        self.start()

    def finish(self, pipes: Sequence[tuple[Connection, Connection]]) -> None:
        """Hears what the ranks, which are gone, have said."""
        for _, theirs in pipes:
            theirs.close()
        self.join()
        for ours, _ in pipes:
            ours.close()

    def run(self) -> None:
        while self._connections:
            for ready in wait(self._connections):
                assert isinstance(ready, Connection)
                try:
                    received = ready.recv()
                except (EOFError, OSError):
                    self._connections.remove(ready)
                    continue
                if isinstance(received, JobProgress):
                    self._on_progress(received)
                elif self.failed is None:
                    self.failed = RankFailed(*received[:2], killed=received[2])


def _rank(spec: JobSpec, connections: Sequence[Connection]) -> TrainingOutcome:
    """One of the processes. Raises what ended it, after it has told so."""
    rank = int(os.environ["RANK"])
    connection = connections[rank]
    threading.Thread(target=_watch, args=(connection,), daemon=True).start()
    try:
        return _learn(spec, rank, connection.send if rank == 0 else lambda progress: None)
    except Exception as error:  # whatever it is, the caller is told, and decides whether to try again
        connection.send((f"{type(error).__name__}: {error}"[:2000], cause_of(error), out_of_memory(error)))
        raise


def _learn(spec: JobSpec, rank: int, on_progress: Callable[[JobProgress], None]) -> TrainingOutcome:
    from headrace_trainer.job import run
    from headrace_trainer.model.sharding import Ranks

    on_gpus = spec.device.startswith("cuda")
    own = replace(spec, device=f"cuda:{rank}" if on_gpus else "cpu")
    if on_gpus:
        torch.cuda.set_device(rank)
    elif spec.threads is None:
        torch.set_num_threads(max(1, torch.get_num_threads() // spec.processes))
    run.prepare(own)
    dist.init_process_group("nccl" if on_gpus else "gloo")
    try:
        with locked(spec.folder / f"lock.{rank}"):  # as the job's own lock: of ranks whose job was just killed
            dist.barrier()  # now none of them writes any more: all read the same checkpoint
            return run.learn(own, on_progress, Ranks(rank, spec.processes))
    finally:
        dist.destroy_process_group()


def _watch(connection: Connection) -> None:
    """Nobody ever writes to a rank: the pipe becomes readable when its job is gone."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    os._exit(_ORPHANED)
