"""A task's transaction that its coordinator completed without a marker in every partition: was it committed, and how it is ended.

A broker that starts again completes what it finds in its transaction log, and skips partitions whose leader it does not know yet.
There the records hang: nobody reads past them, and the next commit of the same producer id would commit them too, whatever had
been decided. What was decided, the task's own log tells, as each of its transactions ends with its position in its changelog:

- The last position is committed: the records that its stamp counts belong to it, so they are committed. Others came later and are
  aborted.
- The position hangs itself: it is committed if a marker in its own epoch ended it elsewhere. Only a commit leaves that (a task
  never aborts, and who aborts in its place raises the epoch). Without one nobody has read any of it, and it is aborted.

Only one transaction can hang, as a task begins none before the last one has ended everywhere (`wait_until_ended`). Knows
partitions and stamps, not what is in a record.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaError,
    TopicAuthorizationFailedError,
)

from headrace_streams.kafka import compat
from headrace_streams.kafka.transactions import ProducerState, producers, write_markers
from headrace_streams.runtime.errors import Refused, Transport
from headrace_streams.runtime.position import Stamp

log = logging.getLogger("headrace")

SETTLE_SECONDS = 10.0  # for a broker that has just started to learn its partitions, and for its markers to be written
RETRY_SECONDS = 0.1

States = Mapping[TopicPartition, ProducerState]


class HangingTransactions:
    """A started producer's transactions in its task's changelog partition and in the partitions that it may write to."""

    def __init__(self, producer: Any, label: str, changelog: TopicPartition, outputs: Sequence[TopicPartition]) -> None:
        self._producer, self._label, self._changelog, self._outputs = producer, label, changelog, outputs

    async def states(self) -> States:
        """The task's producer where it is known. Nobody else writes to a changelog, so every producer there is this one, or was
        before its id changed. Raises KafkaError."""
        everyone = await producers(self._producer.client, [self._changelog, *self._outputs])
        ours = {state.producer_id for state in everyone[self._changelog]} | {compat.producer_id(self._producer)}
        found: dict[TopicPartition, ProducerState] = {}
        for tp, states in everyone.items():
            mine = [state for state in states if state.producer_id in ours]
            if mine:
                found[tp] = max(mine, key=lambda state: (state.open_from is not None, state.epoch))
        return found

    async def wait_until_ended(self, connections: compat.ConnectionWatch) -> None:
        """Between transactions, after a lost connection: waits for the broker, however long that takes, and until it has ended
        the last one everywhere. Transport when it does not, or another KafkaError for good."""
        deadline = None
        while connections.lost:
            connections.lost = False
            try:
                open_in = hanging(await self.states())
            except (KafkaError, OSError) as error:
                if not getattr(error, "retriable", True):
                    raise
                connections.lost = True
                await self._producer.client.force_metadata_update()  # one that has just started knows no leaders
            else:
                if not open_in:
                    continue
                connections.lost = True
                deadline = deadline or time.monotonic() + SETTLE_SECONDS
                if time.monotonic() > deadline:
                    raise Transport(f"{self._label}: the broker has not ended the last transaction in {names(open_in)}")
            await asyncio.sleep(RETRY_SECONDS)

    async def end_hanging(self, stamps: Callable[[int | None], Awaitable[tuple[Stamp | None, Stamp | None]]]) -> None:
        """Ends what hangs, and sees that it is ended; the producer has begun nothing yet. `stamps(offset)` reads the stamps of
        the last committed position, and of the last one behind `offset`. Raises Refused, Transport or KafkaError."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            open_in: States = {}
            try:
                states = await self.states()
                open_in = hanging(states)
                if not open_in:
                    return
                if time.monotonic() > deadline:
                    raise Transport(f"{self._label}: the transaction that hangs in {names(open_in)} could not be ended")
                own = open_in.get(self._changelog)
                decisions = was_committed(states, self._changelog, *await stamps(None if own is None else own.open_from))
                for committed in (True, False):
                    await self._end({tp: open_in[tp] for tp, decided in decisions.items() if decided is committed}, committed)
            except IncompatibleBrokerVersion as error:
                raise Refused(
                    f"{self._label}: the broker can't tell of unended transactions: it takes Kafka 3.0 or newer"
                ) from error
            except TopicAuthorizationFailedError as error:
                raise Refused(
                    f"{self._label}: no right to READ {error}, without which unended transactions can't be seen"
                ) from error
            except ClusterAuthorizationFailedError as error:
                raise Refused(
                    f"{self._label}: a transaction of a producer id that is no longer its own hangs in {names(open_in)}: let an "
                    f"administrator end it with `kafka-transactions.sh abort`"
                ) from error
            except KafkaError as error:
                if not error.retriable or time.monotonic() > deadline:
                    raise
                await self._producer.client.force_metadata_update()
            await asyncio.sleep(RETRY_SECONDS)

    async def _end(self, open_in: States, committed: bool) -> None:
        if not open_in:
            return
        decided = "committed" if committed else "aborted"
        log.warning("%s: its last transaction was not ended in %s: it is %s", self._label, names(open_in), decided)
        try:
            await write_markers(self._producer.client, open_in, committed=committed)
        except ClusterAuthorizationFailedError:
            # An empty transaction of our own leaves the same markers. Should we die between its two requests it is aborted, which
            # a committed one must not be; so this comes second.
            if any(state.producer_id != compat.producer_id(self._producer) for state in open_in.values()):
                raise
            await compat.empty_transaction(self._producer, open_in, committed=committed)


def hanging(states: States) -> States:
    """Where a transaction is open; of a producer that has none under way, that is one that hangs."""
    return {tp: state for tp, state in states.items() if state.open_from is not None}


def was_committed(
    states: States, changelog: TopicPartition, last: Stamp | None, open_: Stamp | None
) -> dict[TopicPartition, bool]:
    """For each partition where records hang, whether they are to be committed. `last` is the stamp of the changelog's last
    committed position, `open_` that of the position which hangs there, if one does."""
    open_in = hanging(states)
    if changelog not in open_in:
        return {tp: last is not None and last.is_newest_in(tp, state) for tp, state in open_in.items()}
    ended = open_ is not None and any(open_.is_newest_in(tp, state) for tp, state in states.items() if tp not in open_in)
    return dict.fromkeys(open_in, ended)


def names(partitions: Iterable[TopicPartition]) -> str:
    """topic/partition of each, for a message."""
    return ", ".join(f"{tp.topic}/{tp.partition}" for tp in partitions)
