"""Which end a journal comes to for which answer of the broker, however aiokafka wraps it; and its position record."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    NotEnoughReplicasError,
    OutOfOrderSequenceNumber,
    PolicyViolationError,
    ProducerFenced,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownProducerId,
)
from hypothesis import given
from hypothesis import strategies as st

from headrace_streams.runtime.journal import (
    Fenced,
    Journal,
    Position,
    ProducerLost,
    Refused,
    Rules,
    Transport,
    decode_position,
    encode_position,
    stop,
)
from headrace_streams.settings import Settings

INT64 = st.integers(-(2**63), 2**63 - 1)


def wrapped(error: Exception) -> Exception:
    outer: Exception = KafkaError("Unexpected error during batch delivery")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize("wrap", [lambda error: error, wrapped], ids=["plain", "wrapped"])
@pytest.mark.parametrize(
    ("error", "end"),
    [
        (ProducerFenced(), Fenced),
        (InvalidProducerEpoch(), Fenced),
        (InvalidProducerIdMapping(), ProducerLost),
        (UnknownProducerId(), ProducerLost),
        (OutOfOrderSequenceNumber(), ProducerLost),
        (InvalidTxnState(), ProducerLost),
        (KafkaConnectionError(), Transport),
        (MessageSizeTooLargeError(), Refused),
        (TopicAuthorizationFailedError({"headrace.signals"}), Refused),
        (TransactionalIdAuthorizationFailed("headrace.reward.signals.3"), Refused),
        (PolicyViolationError(), Refused),
        (NotEnoughReplicasError(), Transport),
        (ConnectionResetError(), Transport),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
def test_errors_have_the_end_that_the_supervisor_acts_on(wrap: object, error: Exception, end: type[Exception]) -> None:
    assert callable(wrap)
    with pytest.raises(end, match=r"reward/signals/3"):
        Journal(Settings(), "reward", "signals", 3)._fail(wrap(error))


POSITIONS = st.builds(
    Position,
    next_offset=INT64,
    now=INT64,
    partitions=st.integers(0, 1000),
    counters=st.dictionaries(st.text(), INT64),
    rules=st.none() | st.builds(Rules, INT64, st.text()),
)


@given(POSITIONS)
def test_position_survives_its_record(position: Position) -> None:
    assert decode_position(encode_position(position)) == position


def test_a_client_whose_own_task_was_cancelled_cancels_nobody() -> None:
    """Seen by the chaos rig: the partition then had no task any more, and nobody was told."""

    class Leaking:
        """A producer whose sender was cancelled twice."""

        client = None

        async def stop(self) -> None:
            sender = asyncio.create_task(asyncio.sleep(60))
            await asyncio.sleep(0)
            sender.cancel()
            await sender

    asyncio.run(stop(Leaking()))


@pytest.mark.parametrize("swallowed", [False, True], ids=["in the moment of its end", "swallowed by the client"])
def test_a_cancellation_that_comes_as_a_client_closes_is_not_lost(swallowed: bool) -> None:
    class Closing:
        """A consumer whose close ends in the very moment of the cancellation, or takes it for that of a task of its own, as
        aiokafka's does while it waits for those to end."""

        def __init__(self) -> None:
            self.closing, self.ended = asyncio.Event(), asyncio.Event()

        async def stop(self) -> None:
            self.closing.set()
            with contextlib.suppress(*[asyncio.CancelledError] * swallowed):
                await self.ended.wait()

    async def main() -> bool:
        client = Closing()
        stopping = asyncio.create_task(stop(client))
        await client.closing.wait()
        if not swallowed:
            client.ended.set()
        stopping.cancel()
        await asyncio.wait({stopping}, timeout=5)
        return stopping.cancelled()

    assert asyncio.run(main())
