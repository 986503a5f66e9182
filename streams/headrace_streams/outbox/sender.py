"""Carries an outbox to the broker: idempotent producer, at least once, for as long as it takes. Knows no event.

A transport error, whatever it is, ends the producer and begins anew after a pause; entries leave the outbox only when the broker
has acknowledged them or refuses them for good. What is wrong with one topic keeps back that topic alone. Who is not the one
sender of its file waits until that one is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from headrace_streams.backoff import Backoff
from headrace_streams.broker_clock import BrokerClock
from headrace_streams.kafka import clients, compat
from headrace_streams.kafka.failures import FOR_GOOD, OF_ONE_TOPIC, UNKNOWN
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.outbox.outbox import Entry, Outbox, OutboxError
from headrace_streams.settings import Settings

log = logging.getLogger("headrace.sender")

IDLE = 0.5  # seconds between looks at a file to which another process may append, or whose sender may have gone
BACKOFF = (0.1, 5.0)  # first and longest seconds between attempts to reach the broker, or a topic
ACKNOWLEDGED = 30.0  # seconds until an unanswered window counts as a failure of the connection
SILENCE = 2.0  # seconds without an answer until `trouble` says so
UNKNOWN_IN_A_ROW = 20  # records tried alone, none taken, until an unknown error counts as the broker's and not as theirs
_LOG_APPEND_TIME = 1  # the kind of a record's timestamp that is the broker's


class Outcome(NamedTuple):
    """What came of one entry: `error` None for acknowledged. `partition` None when it was not even found out."""

    error: Exception | None
    partition: int | None = None


class _Parked(NamedTuple):
    """A topic that takes nothing at the moment; it is tried again at `until` (of the loop's clock)."""

    backoff: Backoff
    until: float


class Sender:
    """Sends what is in `outbox`, until it is cancelled. `progressed` is called (in the loop's thread) after every change.

    `due` is asked only while this machine's clock is known to be far ahead: whether a value, at that time of the broker's clock
    (milliseconds), would be taken. What is not due waits in the outbox until it is."""

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        progressed: Callable[[], None] = lambda: None,
        *,
        clock: BrokerClock | None = None,
        due: Callable[[bytes, int], bool] = lambda value, broker_ms: True,
    ) -> None:
        self._settings, self._outbox, self._progressed = settings, outbox, progressed
        self._clock, self._due = clock or BrokerClock(), due
        self._producer: clients.Producer | None = None
        self._counts: dict[str, int] = {}  # partitions of topics, as long as the producer lives
        self._parked: dict[str, _Parked] = {}
        self._passing: set[tuple[str, int]] = set()  # partitions that took something of this window
        self._turn = 0  # with which suspect the next search for a bad record begins
        self._asked = False  # whether the broker ever answered, and so had a chance to tell its time
        self._writable = True  # whether all could be written to the outbox in this pass
        self._wake = asyncio.Event()
        self.unaware = True  # whether a `wake` would tell something new: since then no pass has begun
        self._troubles: dict[str, str] = {}  # by what they are about

    @property
    def trouble(self) -> str | None:
        """Why nothing, or not everything, moves at the moment. From any thread."""
        return "; ".join(list(self._troubles.values())) or None

    def wake(self) -> None:
        """There is something new to send. From the loop's thread."""
        self._wake.set()

    async def run(self) -> None:
        backoff = Backoff(*BACKOFF)
        try:
            while True:
                try:
                    if not self._outbox.try_to_send():
                        self._troubles.clear()  # the other one's now
                        await asyncio.sleep(IDLE)
                        continue
                    await self._send_all()
                    if self._writable:
                        backoff.reset()
                        await self._idle()
                    else:
                        await backoff.wait()
                except OutboxError as error:
                    self._say("outbox", str(error))
                    await backoff.wait()
                except Exception as error:  # nothing may end the sender but its owner
                    self._say("broker", f"{self._settings.bootstrap} cannot be reached or does not take records: {_text(error)}")
                    await self._disconnect(broken=True)
                    await backoff.wait()
        finally:
            await self._disconnect(broken=True)

    async def _idle(self) -> None:
        forever = self._outbox.path is None and not self._troubles
        try:
            async with asyncio.timeout(None if forever else IDLE):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _send_all(self) -> None:
        """One pass over all that waits, but for topics that are parked."""
        now = asyncio.get_running_loop().time()
        self._wake.clear()
        self.unaware = True  # before the first look, or what is accepted just after the last one would wait until IDLE is over
        self._writable = True
        self._write_down()
        tried = {topic for topic, parked in self._parked.items() if parked.until <= now}
        after, held = 0, 0
        while window := self._outbox.waiting(after=after, without=[topic for topic in self._parked if topic not in tried]):
            if not self._asked:
                window = window[:1]  # were this machine's clock wrong, all would be refused later: the answer tells
            after = window[-1].seq
            if self._clock.ahead_ms() is not None and (broker_ms := self._clock.broker_ms()) is not None:
                due = [entry for entry in window if self._due(entry.value, broker_ms)]
                held += len(window) - len(due)
                window = due
            if window:
                tried -= await self._deliver(window)
        for topic in tried:  # nothing of it failed in this pass
            self._unpark(topic)
        self._say("broker", None)
        self._say_clock(held)
        if self._writable:
            self._say("outbox", None)

    def _write_down(self, done: Sequence[Entry] = ()) -> None:
        """Takes acknowledged entries out of the file. When that fails they are not sent again, and it is tried at each pass."""
        try:
            self._outbox.delivered(done)
        except OutboxError as error:
            self._unwritable(error)

    def _unwritable(self, error: OutboxError) -> None:
        self._writable = False
        self._say("outbox", str(error))

    async def _deliver(self, window: Sequence[Entry]) -> set[str]:
        """Settles every entry of the window that can be settled and parks topics that take nothing: their names. Raises the
        first error that is of neither."""
        self._passing.clear()
        outcomes = await self._send(window)
        self._settle(window, outcomes)
        suspects = [entry for entry in window if isinstance(outcomes[entry.seq].error, FOR_GOOD)]
        if len(window) > 1:  # brokers refuse a batch as a whole: find out which record it was
            for entry in suspects:
                alone = await self._send([entry])
                self._settle([entry], alone)
                outcomes |= alone
        for entry in suspects:
            if isinstance(error := outcomes[entry.seq].error, FOR_GOOD):
                self._refuse(entry, error)
        outcomes |= await self._try_alone([entry for entry in window if isinstance(outcomes[entry.seq].error, UNKNOWN)], outcomes)
        parked: dict[str, Exception] = {}
        for entry in window:
            error = outcomes[entry.seq].error
            if isinstance(error, (*OF_ONE_TOPIC, *UNKNOWN)):
                parked.setdefault(entry.topic, error)
            elif error is not None and not isinstance(error, FOR_GOOD):
                raise error
        for topic, error in parked.items():
            self._park(topic, error)
        return set(parked)

    async def _try_alone(self, suspects: Sequence[Entry], outcomes: dict[int, Outcome]) -> dict[int, Outcome]:
        """An unknown error may be the broker's or the record's. It is the record's when it comes again although others of its
        partition have passed, and only then is the record refused. What is now known of the suspects."""
        known: dict[int, Outcome] = {entry.seq: outcomes[entry.seq] for entry in suspects}
        tried: list[Entry] = []
        in_a_row, first = 0, self._turn % max(len(suspects), 1)
        for entry in [*suspects[first:], *suspects[:first]] if len(outcomes) > 1 else ():
            if in_a_row == UNKNOWN_IN_A_ROW:
                self._turn += UNKNOWN_IN_A_ROW
                break
            tried.append(entry)
            known |= await self._send([entry])
            self._settle([entry], known)
            in_a_row = 0 if known[entry.seq].error is None else in_a_row + 1
        for entry in tried:
            error, partition = known[entry.seq]
            if not isinstance(error, UNKNOWN) or partition is None or (entry.topic, partition) not in self._passing:
                continue
            known |= await self._send([entry])  # once more: a broker may have got well since
            self._settle([entry], known)
            if isinstance(error := known[entry.seq].error, UNKNOWN):
                self._refuse(entry, error)
                known[entry.seq] = Outcome(None, partition)
        return known

    def _settle(self, entries: Sequence[Entry], outcomes: dict[int, Outcome]) -> None:
        done = [entry for entry in entries if outcomes[entry.seq].error is None]
        for entry in done:
            if (partition := outcomes[entry.seq].partition) is not None:
                self._passing.add((entry.topic, partition))
        if done:
            self._say("broker", None)
            self._write_down(done)
            self._progressed()

    def _refuse(self, entry: Entry, error: Exception) -> None:
        reason = _text(error)
        try:
            self._outbox.refuse(entry, reason)
        except OutboxError as failure:
            self._unwritable(failure)
            return
        log.error(
            "the broker refuses a record of %d bytes for %s (key %s): %s; it is kept in %s, "
            "`headrace publish --outbox FILE --requeue` sends it again",
            entry.size,
            clients.full_name(self._settings, entry.topic),
            entry.key.decode(errors="replace"),
            reason,
            self._outbox.path or "memory",
        )
        self._progressed()

    def _park(self, topic: str, error: Exception) -> None:
        backoff = self._parked[topic].backoff if topic in self._parked else Backoff(*BACKOFF)
        self._parked[topic] = _Parked(backoff, asyncio.get_running_loop().time() + backoff.seconds())
        self._say(topic, f"{clients.full_name(self._settings, topic)} takes no records: {_text(error)}")

    def _unpark(self, topic: str) -> None:
        self._parked.pop(topic, None)
        self._say(topic, None)

    async def _send(self, window: Sequence[Entry]) -> dict[int, Outcome]:
        """Outcome by seq. After any failure the producer is gone: its sequence numbers have a hole."""
        outcomes: dict[int, Outcome] = {}
        places: dict[int, int] = {}
        futures: dict[int, asyncio.Future[Any]] = {}
        missing: dict[str, Exception] = {}
        with self._listening():
            producer = self._producer = self._producer or await self._connect()
            try:
                for entry in window:
                    if entry.topic in missing:
                        outcomes[entry.seq] = Outcome(missing[entry.topic])
                        continue
                    try:
                        place = places[entry.seq] = partition_for(entry.key, await self._count(entry.topic))
                        topic = clients.full_name(self._settings, entry.topic)
                        futures[entry.seq] = await producer.send(topic, entry.value, entry.key, place)
                        futures[entry.seq].add_done_callback(_look_at)
                    except FOR_GOOD as error:  # by the client itself: larger than any topic takes
                        outcomes[entry.seq] = Outcome(error)
                    except OF_ONE_TOPIC as error:
                        outcomes[entry.seq] = Outcome(error)
                        missing[entry.topic] = error
            except Exception as error:
                outcomes |= {
                    entry.seq: Outcome(error) for entry in window if entry.seq not in futures and entry.seq not in outcomes
                }
            if futures:
                done, _ = await asyncio.wait(futures.values(), timeout=ACKNOWLEDGED)
                self._asked = self._asked or bool(done)
        for seq, future in futures.items():
            late = TimeoutError(f"no acknowledgement within {ACKNOWLEDGED:g} s")
            failure = future.exception() if future in done else late
            outcomes[seq] = Outcome(
                failure if isinstance(failure, Exception | None) else RuntimeError(repr(failure)), places[seq]
            )
            if failure is None:
                self._listen_to(future.result())
        if any(outcome.error not in (None, *missing.values()) for outcome in outcomes.values()):
            await self._disconnect(broken=True)
        return outcomes

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Says that nothing is heard as soon as that lasts; the library itself would try on for longer, without a word."""
        words = f"{self._settings.bootstrap} has not answered for {SILENCE:g} s"

        def silence() -> None:
            if "broker" not in self._troubles:
                self._say("broker", words)

        timer = asyncio.get_running_loop().call_later(SILENCE, silence)
        try:
            yield
        finally:
            timer.cancel()

    def _listen_to(self, acknowledged: Any) -> None:
        if acknowledged.timestamp_type == _LOG_APPEND_TIME:
            self._clock.heard(acknowledged.timestamp)

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

    def _say_clock(self, held: int) -> None:
        ahead = self._clock.ahead_ms()
        if ahead is None:
            self._say("clock", None)
            return
        words = f"this machine's clock is about {round(ahead / 60_000)} minutes ahead of the broker's"
        if held:
            words += f"; {held} records wait, as their time is further ahead of it than anybody takes"
        self._say("clock", words)

    def _say(self, about: str, words: str | None) -> None:
        """Takes what is wrong into `trouble`, and into the log when it is news; None: nothing is."""
        if words is None:
            self._troubles.pop(about, None)
        elif words != self._troubles.get(about):
            if about not in self._troubles or about != "clock":  # how many wait changes all the time
                log.warning("%s%s", words, "" if about == "clock" else "; records wait")
            self._troubles[about] = words


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _look_at(future: asyncio.Future[object]) -> None:
    """An exception that nobody waited for is no news: its entry is still in the outbox."""
    if not future.cancelled():
        future.exception()
