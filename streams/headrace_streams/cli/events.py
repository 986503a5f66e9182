"""`headrace publish` and `headrace tail`: events into the input topics and out of any. Knows the wire, no stage."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from headrace_streams.cli.common import FAILED, NO, UNREACHABLE, USAGE, CliError, common, emit, note, run
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord, TopicPartition

    from headrace_schemas.events import InputEvent

SHOWN_ERRORS = 20
CLIPPED = 300  # characters of an event in a line for people
PATIENCE = 15.0  # seconds without progress until an outbox counts as stuck
LOOK = 0.5  # seconds between looks at it
_AGO = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command()
@click.argument("files", nargs=-1, metavar="FILE...", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--outbox", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Send what this outbox still holds.")
@common
def publish(settings: Settings, as_json: bool, files: tuple[str, ...], outbox: Path | None) -> int:
    """Send events from files of JSON lines ("-" for standard input).

    All lines are validated first; when one is invalid, each such line is named, nothing is sent and the exit code is 1.
    """
    if not files and outbox is None:
        raise CliError(USAGE, "give a FILE, - for standard input, or --outbox DB")
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
        counts |= run(_drain(settings, outbox))
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
    from headrace_schemas.codec import decode_input
    from headrace_schemas.faults import DecodeError

    for number, line in _lines(stream):
        try:
            decode_input(line, append_time_ms=time.time_ns() // 1_000_000)
        except DecodeError as error:
            yield f"{name}:{number}: {error.code}: {error.message}"


def destination(event: InputEvent) -> tuple[str, str]:
    """(short topic name, key) of an event that others may publish; its ids are filled in, as `decode_input` gives it."""
    from headrace_schemas.events import FeedbackRecorded, FeedbackRetracted, SubjectErased

    if isinstance(event, SubjectErased):
        return "interactions", event.data.data_subject
    if isinstance(event, FeedbackRecorded):
        ref = event.data.ref
        return "feedback", event.data.interaction_id or (f"{ref.system}:{ref.id}" if ref else "")
    return "feedback" if isinstance(event, FeedbackRetracted) else "interactions", event.data.interaction_id or ""


async def _send(settings: Settings, streams: Sequence[BinaryIO]) -> dict[str, int]:
    from headrace_schemas.codec import decode_input
    from headrace_streams import clients
    from headrace_streams.partitioner import partition_for

    counts = await clients.partition_counts(settings, ["interactions", "feedback"])
    sent: Counter[str] = Counter({"interactions": 0, "feedback": 0})
    async with clients.connected(clients.producer(settings, linger_ms=5, max_batch_size=256 * 1024)) as producer:
        waiting: list[asyncio.Future[Any]] = []
        for stream in streams:
            for _, line in _lines(stream):
                topic, text = destination(decode_input(line).event)
                key, name = text.encode(), clients.full_name(settings, topic)
                waiting.append(await producer.send(name, line, key=key, partition=partition_for(key, counts[topic])))
                sent[topic] += 1
                if len(waiting) >= 2000:
                    await asyncio.gather(*waiting)
                    waiting.clear()
        await asyncio.gather(*waiting)
    return dict(sent)


async def _drain(settings: Settings, path: Path) -> dict[str, int]:
    """Sends all that waits in an outbox; gives up when nothing moves for `PATIENCE` seconds."""
    from headrace_streams.outbox import Outbox
    from headrace_streams.sender import Sender

    outbox = Outbox(path)
    before, refused = outbox.pending, outbox.refused
    progress = asyncio.Event()
    sender = Sender(settings, outbox, progress.set)
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
        return {"delivered": before - (outbox.refused - refused), "refused": outbox.refused - refused}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        outbox.close()


@click.command()
@click.argument("topics", nargs=-1, required=True, metavar="TOPIC...")
@click.option("--from", "since", default="end", show_default=True, metavar="start|end|TIME", help="RFC 3339, or 15m, 2h, 3d ago.")
@click.option("-n", "limit", type=click.IntRange(min=1), help="Stop after this many.")
@click.option("--follow/--no-follow", default=True, help="Whether to wait for more at the end.", show_default=True)
@common
def tail(settings: Settings, as_json: bool, topics: tuple[str, ...], since: str, limit: int | None, follow: bool) -> None:
    """Print committed events of topics as they come; order holds within a partition."""
    begin = since if since in ("start", "end") else _moment(since)
    run(_tail(settings, topics, begin, limit, follow, as_json))


def _moment(text: str) -> int:
    """Milliseconds since the epoch of an RFC 3339 time, or of a duration like 15m before now."""
    from headrace_schemas.times import parse_ns

    if ago := _AGO.fullmatch(text):
        return time.time_ns() // 1_000_000 - int(ago[1]) * _SECONDS[ago[2]] * 1000
    try:
        return parse_ns(text) // 1_000_000
    except ValueError as error:
        raise CliError(USAGE, f"--from = {text!r}: not start, end, 15m, or {error}") from None


async def _tail(
    settings: Settings, topics: Sequence[str], since: str | int, limit: int | None, follow: bool, as_json: bool
) -> None:
    from aiokafka import TopicPartition

    from headrace_streams import clients

    counts = await clients.partition_counts(settings, topics)
    partitions = [TopicPartition(clients.full_name(settings, t), p) for t, count in counts.items() for p in range(count)]
    async with clients.connected(clients.consumer(settings, auto_offset_reset="earliest")) as client:
        client.assign(partitions)
        ends: dict[TopicPartition, int] = await client.end_offsets(partitions)
        starts = ends if since == "end" else await client.beginning_offsets(partitions)
        if isinstance(since, int):
            found = await client.offsets_for_times(dict.fromkeys(partitions, since))
            starts = {tp: ends[tp] if at is None else at.offset for tp, at in found.items()}
        for tp, offset in starts.items():
            client.seek(tp, offset)
        left, heard = limit, time.monotonic()
        while follow or any([await client.position(tp) < ends[tp] for tp in partitions]):
            fetched = await client.getmany(timeout_ms=250)
            if fetched:
                heard = time.monotonic()
            elif not follow and time.monotonic() - heard > clients.DEADLINE:
                raise clients.BrokerUnavailable(f"{settings.bootstrap} stopped answering before the end of {', '.join(counts)}")
            for tp, records in fetched.items():
                for record in records:
                    if not follow and record.offset >= ends[tp]:
                        break
                    _print(settings, record, as_json)
                    if left is not None and (left := left - 1) == 0:
                        return


def _print(settings: Settings, record: ConsumerRecord, as_json: bool) -> None:
    import orjson

    from headrace_schemas.times import rfc3339
    from headrace_streams.clients import short_name

    topic, when = short_name(settings, record.topic), rfc3339(record.timestamp)
    event: Any = None
    with contextlib.suppress(orjson.JSONDecodeError):
        event = orjson.loads(record.value or b"")
    if as_json:
        line = {"topic": topic, "partition": record.partition, "offset": record.offset, "timestamp": when}
        line["key"] = None if record.key is None else record.key.decode(errors="replace")
        line["headers"] = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
        if event is None and record.value is not None:
            return emit(line | {"value_base64": base64.b64encode(record.value).decode()})
        return emit(line | {"event": event})
    kind = str(event.get("type", "")).removeprefix("headrace.") if isinstance(event, dict) else ""
    data = event.get("data", event) if isinstance(event, dict) else event
    text = orjson.dumps(data).decode() if event is not None else repr(record.value)
    clipped = text if len(text) <= CLIPPED else text[:CLIPPED] + "…"
    click.echo(f"{topic}/{record.partition}/{record.offset} {when} {kind} {clipped}")
