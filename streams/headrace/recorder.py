"""The Recorder: accepts what an agent did and how good it was, and gets it to the broker. Knows the outbox and its sender.

*Accepted* (a call returned) means: validated, sized, id and time fixed, and, with an outbox file, on disk. Delivery is at least
once; the ids make duplicates harmless downstream.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

from headrace.awaiting import AwaitedEvents
from headrace.fields import Call, EventTime, FeedbackFields, InteractionFields, Ref
from headrace.library_log import hush_this_thread
from headrace.publishing import EventFactory, OutgoingEvent
from headrace_schemas.constraints import due
from headrace_schemas.root_error import HeadraceError
from headrace_streams.background import Background
from headrace_streams.broker_clock import BrokerClock
from headrace_streams.outbox.outbox import MAX_BYTES, MAX_ROWS, Destination, Outbox, Refusal
from headrace_streams.settings import Settings, from_arguments

log = logging.getLogger("headrace.recorder")

CLOSE = 5.0  # seconds that a close waits for the broker unless told otherwise
STOP = 5.0  # seconds for the thread to end; it needs some milliseconds


class Undelivered(HeadraceError):
    """A Recorder without an outbox was closed with events that no broker had acknowledged: they are lost."""


class _Engine:
    """The outbox and the thread that empties it. Holds no reference to the Recorder, so that a forgotten one can be collected."""

    def __init__(self, settings: Settings, outbox: Outbox, clock: BrokerClock) -> None:
        self._settings, self._clock = settings, clock
        self.outbox = outbox
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._changed = threading.Condition()
        self._awaited = AwaitedEvents(self.accept_all)
        self._sender: Any = None  # made in its own thread, as aiokafka takes a moment to import
        self._background = Background("headrace-recorder", self._main)

    async def _main(self) -> None:
        from headrace_streams.outbox.sender import Sender

        hush_this_thread()
        self._sender = Sender(self._settings, self.outbox, self._progressed, clock=self._clock, due=due)
        await self._sender.run()

    def _progressed(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _restart_after_fork(self) -> None:
        """In a forked child the thread is missing; the outbox has looked after itself."""
        if not self._background.here and not self._closed:
            self._start()

    @property
    def trouble(self) -> str | None:
        return None if self._sender is None else self._sender.trouble

    def accept(self, event: OutgoingEvent) -> None:
        if not self._background.here:
            self._restart_after_fork()
        self.outbox.append(event.topic, event.key, event.value)
        self._wake()

    def accept_all(self, events: Sequence[OutgoingEvent]) -> Sequence[BaseException | None]:
        """Of each, None when it is accepted, or why it is not."""
        if not self._background.here:
            self._restart_after_fork()
        outcomes = self.outbox.append_all([(event.topic, event.key, event.value) for event in events])
        self._wake()
        return outcomes

    async def accept_awaited(self, event: OutgoingEvent) -> None:
        """As `accept`, for a task: where there is a disk to wait for, its loop does not."""
        if self.outbox.path is None:
            self.accept(event)
        else:
            if not self._background.here:  # or it might wait for a thread that stayed behind
                self._restart_after_fork()
            await self._awaited.accept(event)

    def _wake(self) -> None:
        sender = self._sender
        if sender is not None and sender.unaware:  # once a pass: to wake a thread costs as much as to write an event
            sender.unaware = False
            self._background.call(sender.wake)

    def flush(self, timeout: float | None) -> bool:
        self._restart_after_fork()
        target = self.outbox.newest
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while (oldest := self.outbox.oldest) is not None and oldest <= target:
                left = 1.0 if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 0.1))  # another process may be the sender: then nobody notifies us
        return True

    def close(self, timeout: float) -> int:
        """How many events are left behind."""
        if self._closed:
            return 0
        if self._background.here and timeout > 0:
            self.flush(timeout)
        self._closed = True
        self._background.stop(STOP)
        left = self.outbox.pending
        self.outbox.close()
        return left


def _close_abandoned(engine: _Engine, pid: int) -> None:
    """At interpreter exit, or when a Recorder is collected that nobody closed."""
    if os.getpid() != pid:
        return
    try:
        lost = engine.close(CLOSE if engine.outbox.path is None else 0)
        if lost and engine.outbox.path is None:
            log.error("%d events were never acknowledged and are lost: close the Recorder, or give it an outbox", lost)
    except Exception:
        log.exception("closing a Recorder that nobody closed")


class _Base:
    """What both Recorders have in common. `pending` and `refused` count this outbox's events, of all processes that use it."""

    def __init__(
        self,
        bootstrap: str = "127.0.0.1:9092",
        *,
        agent: str | Mapping[str, Any],
        outbox: str | Path | None = None,
        deployment: str = "headrace",
        kafka: Mapping[str, Any] | None = None,
        source: str | None = None,
        max_bytes: int = MAX_BYTES,
        max_rows: int = MAX_ROWS,
        rebind_outbox: bool = False,
    ) -> None:
        """`kafka`: security settings {protocol, sasl_mechanism, sasl_username, sasl_password, ssl_cafile, ssl_certfile,
        ssl_keyfile}. `max_bytes`, `max_rows`: how much may wait before OutboxFull. `rebind_outbox`: what waits in the file for
        another deployment, or at other brokers, shall go to this one. Raises SettingsError for settings that can't be,
        OutboxError for a file that can't be used or holds what is for somebody else; a broker that is away is no error."""
        settings = from_arguments(bootstrap, deployment, kafka)
        destination = Destination(settings.deployment, settings.bootstrap)
        clock = BrokerClock()
        self._events = EventFactory(agent, source, clock.trusted_ns)
        file = Outbox(outbox, max_bytes=max_bytes, max_rows=max_rows, destination=destination, rebind=rebind_outbox)
        self._engine = _Engine(settings, file, clock)
        self._finalizer = weakref.finalize(self, _close_abandoned, self._engine, os.getpid())

    @property
    def pending(self) -> int:
        """Accepted, but not yet acknowledged by a broker."""
        return self._engine.outbox.pending

    @property
    def refused(self) -> int:
        """Refused by the broker for good; `refusals` tells which and why."""
        return self._engine.outbox.refused

    @property
    def refusals(self) -> list[Refusal]:
        return self._engine.outbox.refusals()

    @property
    def trouble(self) -> str | None:
        """Why nothing, or not everything, gets through at the moment; None when nothing is known to be wrong."""
        return self._engine.trouble

    def _close(self, timeout: float) -> None:
        self._finalizer.detach()
        in_memory = self._engine.outbox.path is None
        trouble = self._engine.trouble
        left = self._engine.close(timeout)
        if left and in_memory:
            raise Undelivered(
                f"{left} events were not acknowledged within {timeout:g} s and are lost ({trouble or 'no answer yet'})"
            )
        if left:
            log.warning("%d events stay in %s for the next start", left, self._engine.outbox.path)


class Recorder(_Base):
    """Records from any thread. A method returns when the event is accepted, or raises InvalidEvent, OutboxFull or OutboxError.

    `time` is the event's time (RFC 3339 text with offset, or an aware datetime; default now), `traceparent` a W3C trace context.
    """

    def interaction(
        self,
        *,
        parent: Call | None = None,
        time: EventTime = None,
        traceparent: str | None = None,
        **fields: Unpack[InteractionFields],
    ) -> Call:
        """An agent did something: the fields of docs/contract.md by name. The call is what feedback refers to.

        `parent` is the call that this one follows or was made by: this one has its id as `parent_interaction_id`, and its
        `session_id` and `prompt_group` unless they are given. Where the stages derive the parent's group from its question,
        that is handed on (unless the question holds something private, which they do not see)."""
        event, call = self._events.interaction(fields, time, traceparent, parent)
        self._engine.accept(event)
        return call

    def feedback(
        self,
        call: Call | str | None = None,
        *,
        time: EventTime = None,
        traceparent: str | None = None,
        **fields: Unpack[FeedbackFields],
    ) -> str:
        """Somebody or something judged an interaction: `call` (or its id), `interaction_id`, or `ref` = (system, id); or a whole
        session: `session_id`, which policy credits to its interactions. The feedback's id, by which it can be retracted."""
        return self._accept(self._events.feedback(call, fields, time, traceparent))

    def link(self, call: Call | str, ref: Ref, *, time: EventTime = None, traceparent: str | None = None) -> str:
        """The interaction is also known as `ref` = (system, id). The event's id, as of all methods below."""
        return self._accept(self._events.link(call, ref, time, traceparent))

    def retract(
        self, call: Call | str, reason: str | None = None, *, time: EventTime = None, traceparent: str | None = None
    ) -> str:
        """The interaction shall not be learnt from any more."""
        return self._accept(self._events.retract(call, reason, time, traceparent))

    def retract_feedback(
        self,
        feedback_id: str,
        call: Call | str | None = None,
        reason: str | None = None,
        *,
        session_id: str | None = None,
        time: EventTime = None,
    ) -> str:
        """A feedback of this source, on an interaction or on a session, does not count any more."""
        return self._accept(self._events.retract_feedback(feedback_id, call, reason, time, None, session_id))

    def forget(self, data_subject: str, *, time: EventTime = None) -> str:
        """All interactions of this `data_subject` are to be erased."""
        return self._accept(self._events.forget(data_subject, time, None))

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until all that was accepted before is acknowledged (or refused for good): True; False when time ran out."""
        return self._engine.flush(timeout)

    def close(self, timeout: float = CLOSE) -> None:
        """Waits up to `timeout` seconds as `flush` does; the rest stays in the outbox for the next start. Without an outbox the
        rest is lost: Undelivered."""
        self._close(timeout)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _accept(self, event: OutgoingEvent) -> str:
        self._engine.accept(event)
        return event.id


class AsyncRecorder(_Base):
    """The Recorder for asyncio: the same methods, awaited; the loop never waits for a disk. Sending has a thread of its own."""

    async def interaction(
        self,
        *,
        parent: Call | None = None,
        time: EventTime = None,
        traceparent: str | None = None,
        **fields: Unpack[InteractionFields],
    ) -> Call:
        """As `Recorder.interaction`."""
        event, call = self._events.interaction(fields, time, traceparent, parent)
        await self._engine.accept_awaited(event)
        return call

    async def feedback(
        self,
        call: Call | str | None = None,
        *,
        time: EventTime = None,
        traceparent: str | None = None,
        **fields: Unpack[FeedbackFields],
    ) -> str:
        """As `Recorder.feedback`."""
        return await self._accept(self._events.feedback(call, fields, time, traceparent))

    async def link(self, call: Call | str, ref: Ref, *, time: EventTime = None, traceparent: str | None = None) -> str:
        """As `Recorder.link`."""
        return await self._accept(self._events.link(call, ref, time, traceparent))

    async def retract(
        self, call: Call | str, reason: str | None = None, *, time: EventTime = None, traceparent: str | None = None
    ) -> str:
        """As `Recorder.retract`."""
        return await self._accept(self._events.retract(call, reason, time, traceparent))

    async def retract_feedback(
        self,
        feedback_id: str,
        call: Call | str | None = None,
        reason: str | None = None,
        *,
        session_id: str | None = None,
        time: EventTime = None,
    ) -> str:
        """As `Recorder.retract_feedback`."""
        return await self._accept(self._events.retract_feedback(feedback_id, call, reason, time, None, session_id))

    async def forget(self, data_subject: str, *, time: EventTime = None) -> str:
        """As `Recorder.forget`."""
        return await self._accept(self._events.forget(data_subject, time, None))

    async def flush(self, timeout: float | None = None) -> bool:
        """As `Recorder.flush`."""
        return await asyncio.to_thread(self._engine.flush, timeout)

    async def close(self, timeout: float = CLOSE) -> None:
        """As `Recorder.close`."""
        await asyncio.to_thread(self._close, timeout)

    async def __aenter__(self) -> AsyncRecorder:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _accept(self, event: OutgoingEvent) -> str:
        await self._engine.accept_awaited(event)
        return event.id
