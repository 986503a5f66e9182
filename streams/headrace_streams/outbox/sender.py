"""Carries an outbox to the broker: idempotent producer, at least once, for as long as it takes. Knows no event.

A transport error, whatever it is, ends the producer and begins anew after a pause; entries leave the outbox only when the broker
has acknowledged them or refuses them for good. Who is not the one sender of its file waits until that one is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from headrace_streams.backoff import Backoff
from headrace_streams.kafka import clients, compat
from headrace_streams.kafka.failures import FOR_GOOD
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.outbox.outbox import Entry, Outbox
from headrace_streams.settings import Settings

log = logging.getLogger("headrace.sender")

IDLE = 0.5  # seconds between looks at a file to which another process may append, or whose sender may have gone
BACKOFF = (0.1, 5.0)  # first and longest seconds between attempts to reach the broker
ACKNOWLEDGED = 30.0  # seconds until an unanswered window counts as a failure of the connection


class Sender:
    """Sends what is in `outbox`, until it is cancelled. `progressed` is called (in the loop's thread) after every change."""

    def __init__(self, settings: Settings, outbox: Outbox, progressed: Callable[[], None] = lambda: None) -> None:
        self._settings, self._outbox, self._progressed = settings, outbox, progressed
        self._producer: clients.Producer | None = None
        self._counts: dict[str, int] = {}  # partitions of topics, as long as the producer lives
        self._wake = asyncio.Event()
        self.trouble: str | None = None  # why nothing moves at the moment

    def wake(self) -> None:
        """There is something new to send. From the loop's thread."""
        self._wake.set()

    async def run(self) -> None:
        backoff = Backoff(*BACKOFF)
        try:
            while True:
                try:
                    if not self._outbox.try_to_send():
                        await asyncio.sleep(IDLE)
                        continue
                    await self._send_all()
                    self.trouble = None
                    backoff.reset()
                    await self._idle()
                except Exception as error:  # nothing may end the sender but its owner
                    self._report(error)
                    await self._disconnect(broken=True)
                    await backoff.wait()
        finally:
            await self._disconnect(broken=True)

    async def _idle(self) -> None:
        try:
            async with asyncio.timeout(None if self._outbox.path is None else IDLE):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _send_all(self) -> None:
        while True:
            self._wake.clear()
            window = self._outbox.waiting()
            if not window:
                return
            await self._deliver(window)

    async def _deliver(self, window: Sequence[Entry]) -> None:
        """Settles every entry of the window that can be settled, then raises the first error of those that can't, if any."""
        outcomes = await self._send(window)
        self._settle(window, outcomes)
        if len(window) > 1:  # brokers refuse a batch as a whole: find out which record it was
            suspects = [entry for entry in window if isinstance(outcomes[entry.seq], FOR_GOOD)]
            for entry in suspects:
                alone = await self._send([entry])
                self._settle([entry], alone, alone=True)
                outcomes |= alone
        else:
            self._settle(window, outcomes, alone=True)
        for error in outcomes.values():
            if error is not None and not isinstance(error, FOR_GOOD):
                raise error

    def _settle(self, entries: Sequence[Entry], outcomes: dict[int, Exception | None], alone: bool = False) -> None:
        if done := [entry for entry in entries if outcomes[entry.seq] is None]:
            self._outbox.delivered(done)
        for entry in entries if alone else ():
            if isinstance(error := outcomes[entry.seq], FOR_GOOD):
                reason = f"{type(error).__name__}: {error}"
                self._outbox.refuse(entry, reason)
                log.error(
                    "the broker refuses a record of %d bytes for %s (key %s): %s; it is kept in the outbox's table `refused`",
                    entry.size,
                    clients.full_name(self._settings, entry.topic),
                    entry.key.decode(errors="replace"),
                    reason,
                )
        self._progressed()

    async def _send(self, window: Sequence[Entry]) -> dict[int, Exception | None]:
        """Outcome by seq, None for acknowledged. After any failure the producer is gone: its sequence numbers have a hole."""
        outcomes: dict[int, Exception | None] = {}
        futures: dict[int, asyncio.Future[object]] = {}
        producer = self._producer = self._producer or await self._connect()
        try:
            for entry in window:
                partition = partition_for(entry.key, await self._count(entry.topic))
                topic = clients.full_name(self._settings, entry.topic)
                try:
                    futures[entry.seq] = await producer.send(topic, entry.value, entry.key, partition)
                    futures[entry.seq].add_done_callback(_look_at)
                except FOR_GOOD as error:  # by the client itself: larger than any topic takes
                    outcomes[entry.seq] = error
        except Exception as error:
            outcomes |= {entry.seq: error for entry in window if entry.seq not in futures and entry.seq not in outcomes}
        if futures:
            done, _ = await asyncio.wait(futures.values(), timeout=ACKNOWLEDGED)
            for seq, future in futures.items():
                late = TimeoutError(f"no acknowledgement within {ACKNOWLEDGED:g} s")
                failure = future.exception() if future in done else late
                outcomes[seq] = failure if isinstance(failure, Exception | None) else RuntimeError(repr(failure))
        if any(error is not None for error in outcomes.values()):
            await self._disconnect(broken=True)
        return outcomes

    async def _count(self, topic: str) -> int:
        if topic not in self._counts:  # asked of the broker explicitly, as sending would make some brokers create the topic
            self._counts |= await clients.partition_counts(self._settings, [topic])
        return self._counts[topic]

    async def _connect(self) -> clients.Producer:
        producer = clients.producer(self._settings)
        await clients.start(producer)
        return producer

    async def _disconnect(self, broken: bool = False) -> None:
        producer, self._producer = self._producer, None
        self._counts.clear()
        if producer is None:
            return
        try:
            async with asyncio.timeout(2):
                if broken:
                    await compat.abandon(producer)
                await producer.stop()
        except Exception as error:
            log.debug("closing the producer: %r", error)

    def _report(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        if text != self.trouble:
            log.warning("%s cannot be reached or does not take records: %s; they wait", self._settings.bootstrap, text)
        self.trouble = text


def _look_at(future: asyncio.Future[object]) -> None:
    """An exception that nobody waited for is no news: its entry is still in the outbox."""
    if not future.cancelled():
        future.exception()
