"""`headrace tail`: committed events of any topic, as they come. Knows the wire, no stage."""

from __future__ import annotations

import base64
import contextlib
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from headrace_cli.common import USAGE, CliError, common, emit, run
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord, TopicPartition

CLIPPED = 300  # characters of an event in a line for people
_AGO = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


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

    from headrace_streams.kafka import clients

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
    from headrace_streams.kafka.clients import short_name

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
