"""`headrace tail`: committed events of any topic, as they come. Knows the wire, no stage."""

from __future__ import annotations

import base64
import contextlib
import re
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal

import click

from headrace_cli.common import USAGE, CliError, common, emit, run
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from headrace_streams.kafka.reader import KafkaRecord

POLL_MS = 250
CLIPPED = 300  # characters of an event in a line for people
_AGO = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command()
@click.argument("topics", nargs=-1, required=True, metavar="TOPIC...")
@click.option("--from", "since", default="end", show_default=True, metavar="start|end|TIME", help="RFC 3339, or 15m, 2h, 3d ago.")
@click.option("-n", "limit", type=click.IntRange(min=1), help="Stop after this many.")
@click.option("--follow/--no-follow", default=True, help="Whether to wait for more at the end.", show_default=True)
@click.option("--open", "opening", is_flag=True, help="Open sealed texts: for who may read topic keys.")
@common
def tail(
    settings: Settings, as_json: bool, topics: tuple[str, ...], since: str, limit: int | None, follow: bool, opening: bool
) -> None:
    """Print committed events of topics as they come; order holds within a partition. Sealed texts stay sealed unless they are
    to be opened."""
    begin: Literal["start", "end"] | int = "start" if since == "start" else "end" if since == "end" else _moment(since)
    run(_tail(settings, topics, begin, limit, follow, as_json, opening))


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
    settings: Settings,
    topics: Sequence[str],
    since: Literal["start", "end"] | int,
    limit: int | None,
    follow: bool,
    as_json: bool,
    opening: bool,
) -> None:
    from headrace_schemas.sealed_fields import erased
    from headrace_streams.kafka.clients import short_name
    from headrace_streams.kafka.reader import Reader
    from headrace_streams.runtime.sealing import is_erased
    from headrace_streams.sealing.opening import Opener

    left = limit
    async with aclosing(Reader(settings).follow(*topics, since=since, to_end=not follow, poll_ms=POLL_MS)) as batches:
        async for records in batches:
            opener = Opener(settings)  # by the keys of now
            for record in records:
                value = record.value
                if opening and value is not None:
                    opened = await opener.opened(short_name(settings, record.topic), value, record.headers)
                    value = erased(value) if is_erased(opened) else bytes(opened)
                _print(settings, record, value, as_json)
                if left is not None and (left := left - 1) == 0:
                    return


def _print(settings: Settings, record: KafkaRecord, value: bytes | None, as_json: bool) -> None:
    import orjson

    from headrace_schemas.times import rfc3339
    from headrace_streams.kafka.clients import short_name

    topic, when = short_name(settings, record.topic), rfc3339(record.timestamp)
    event: Any = None
    with contextlib.suppress(orjson.JSONDecodeError, orjson.JSONEncodeError):  # what is too deep can be read and not written
        data = orjson.loads(value or b"")
        orjson.dumps(data)
        event = data
    if as_json:
        line = {"topic": topic, "partition": record.partition, "offset": record.offset, "timestamp": when}
        line["key"] = None if record.key is None else record.key.decode(errors="replace")
        line["headers"] = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
        if event is None and value is not None:
            return emit(line | {"value_base64": base64.b64encode(value).decode()})
        return emit(line | {"event": event})
    kind = str(event.get("type", "")).removeprefix("headrace.") if isinstance(event, dict) else ""
    data = event.get("data", event) if isinstance(event, dict) else event
    text = orjson.dumps(data).decode() if event is not None else repr(value)
    clipped = text if len(text) <= CLIPPED else text[:CLIPPED] + "…"
    click.echo(f"{topic}/{record.partition}/{record.offset} {when} {kind} {clipped}")
