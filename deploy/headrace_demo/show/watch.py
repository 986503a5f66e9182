"""Reads the log for the demo's picture: committed records of the topics that it is made of, from their beginning."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from headrace_schemas.events import Event
from headrace_streams.kafka.reader import Reader, event_of
from headrace_streams.settings import Settings

TOPICS = ("examples", "rejections", "batches", "runs", "outcomes", "releases.history")
WAIT_MS = 250


async def follow(settings: Settings) -> AsyncGenerator[list[Event], None]:
    """What has come since the last time, at least four times a second; an empty list when nothing has. Never ends by itself."""
    async with aclosing(Reader(settings).follow(*TOPICS, poll_ms=WAIT_MS)) as batches:
        async for records in batches:
            yield [event for record in records if (event := event_of(record)) is not None]
