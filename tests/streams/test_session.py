"""What a session says of itself at moments when it has a consumer and nothing of it yet. No broker."""

from __future__ import annotations

import asyncio

from headrace_streams.kafka import clients
from headrace_streams.runtime.session import Session
from headrace_streams.settings import Settings
from support.counting import COUNTING


def test_there_is_no_lag_to_tell_while_the_consumer_starts() -> None:
    """Found by the fuzzer on a busy machine: a report that was asked for in that moment ended the whole trainer."""

    async def asked() -> None:
        session = Session(Settings(bootstrap="127.0.0.1:1"), COUNTING, {"step": 1}, "signals", 0)
        session._consumer = clients.consumer(Settings(bootstrap="127.0.0.1:1"), auto_offset_reset="none")
        try:
            assert session.lag() is None
            assert session.lag_seconds(None) is None
        finally:
            await clients.close(session._consumer)

    asyncio.run(asked())
