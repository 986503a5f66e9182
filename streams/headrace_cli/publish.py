"""`headrace publish`: events from JSON lines, or what an outbox still holds, into the input topics. Knows the wire, no stage."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import click

from headrace_cli.common import FAILED, NO, UNREACHABLE, USAGE, CliError, common, emit, note, run
from headrace_streams.settings import Settings

SHOWN_ERRORS = 20
PATIENCE = 15.0  # seconds without progress until an outbox counts as stuck
LOOK = 0.5  # seconds between looks at it


@click.command()
@click.argument("files", nargs=-1, metavar="FILE...", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--outbox", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Send what this outbox still holds.")
@click.option("--requeue", is_flag=True, help="With --outbox: first put back what the broker had refused.")
@click.option(
    "--rebind", is_flag=True, help="With --outbox: send it here, though it was written for another deployment or broker."
)
@common
def publish(settings: Settings, as_json: bool, files: tuple[str, ...], outbox: Path | None, requeue: bool, rebind: bool) -> int:
    """Send events from files of JSON lines ("-" for standard input).

    All lines are validated first; when one is invalid, each such line is named, nothing is sent and the exit code is 1.
    """
    if not files and outbox is None:
        raise CliError(USAGE, "give a FILE, - for standard input, or --outbox DB")
    if (requeue or rebind) and outbox is None:
        raise CliError(USAGE, f"{'--requeue' if requeue else '--rebind'} needs --outbox DB")
    counts: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        inputs = [(name, stack.enter_context(_open(name))) for name in files]
        faults = [fault for name, stream in inputs for fault in _faults(name, stream)]
        if faults:
            for fault in faults[:SHOWN_ERRORS]:
                note(fault)
            raise CliError(NO, f"{len(faults)} lines are no valid events; nothing was sent")
        if inputs:
            counts = run(_send(settings, [stream for _, stream in inputs]))
    if outbox is not None:
        counts |= run(_drain(settings, outbox, requeue, rebind))
    if as_json:
        emit(counts)
    else:
        click.echo(", ".join(f"{count} {name}" for name, count in counts.items()))
    return FAILED if counts.get("refused") else 0


def _open(name: str) -> BinaryIO:
    if name != "-":
        return Path(name).open("rb")
    spool = tempfile.SpooledTemporaryFile(max_size=16 << 20)  # noqa: SIM115 - the caller's exit stack closes it; read twice
    shutil.copyfileobj(sys.stdin.buffer, spool)
    return spool  # type: ignore[return-value]


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    stream.seek(0)
    for number, line in enumerate(stream, 1):
        if line := line.strip():
            yield number, line


def _faults(name: str, stream: BinaryIO) -> Iterator[str]:
    from headrace_schemas.errors import DecodeError
    from headrace_schemas.published import decode_published

    for number, line in _lines(stream):
        try:
            decode_published(line, append_time_ms=time.time_ns() // 1_000_000, sessions=True)
        except DecodeError as error:
            yield f"{name}:{number}: {error.code}: {error.message}"


async def _send(settings: Settings, streams: Sequence[BinaryIO]) -> dict[str, int]:
    from headrace_schemas.codec import decode_input
    from headrace_schemas.topics import route
    from headrace_streams.kafka.publisher import publishing

    sent: Counter[str] = Counter({"interactions": 0, "feedback": 0})
    async with publishing(settings, *sent, linger_ms=5, max_batch_size=256 * 1024) as publisher:
        waiting: list[asyncio.Future[Any]] = []
        for stream in streams:
            for _, line in _lines(stream):
                topic, key = route(decode_input(line).event)
                waiting.append(await publisher.send(topic, key, line))
                sent[topic] += 1
                if len(waiting) >= 2000:
                    await asyncio.gather(*waiting)
                    waiting.clear()
        await asyncio.gather(*waiting)
    return dict(sent)


async def _drain(settings: Settings, path: Path, requeue: bool, rebind: bool) -> dict[str, int]:
    """Sends all that waits in an outbox; gives up when nothing moves for `PATIENCE` seconds."""
    from headrace_schemas.constraints import due
    from headrace_streams.outbox.outbox import Destination, Outbox
    from headrace_streams.outbox.sender import Sender

    outbox = Outbox(path, destination=Destination(settings.deployment, settings.bootstrap), rebind=rebind)
    requeued = {"requeued": outbox.requeue()} if requeue else {}
    before, refused = outbox.pending, outbox.refused
    progress = asyncio.Event()
    sender = Sender(settings, outbox, progress.set, due=due)
    task = asyncio.create_task(sender.run())
    try:
        first, since = outbox.oldest, time.monotonic()
        while (oldest := outbox.oldest) is not None:
            if oldest != first:
                first, since = oldest, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                reason = sender.trouble or "another process sends from it and makes no progress"
                raise CliError(UNREACHABLE, f"{outbox.pending} records still wait in {path}: {reason}")
            progress.clear()
            with contextlib.suppress(TimeoutError):  # nobody tells us when the sender is another process
                async with asyncio.timeout(LOOK):
                    await progress.wait()
        return {**requeued, "delivered": before - (outbox.refused - refused), "refused": outbox.refused - refused}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        outbox.close()
