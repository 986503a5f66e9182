"""The memory of a task: its fenced transactional producer, its changelog and its position in one. Knows Kafka, but no fold.

There is one Journal per (stage, input topic, partition). `open` takes the producer id first, which fences any predecessor and
settles its open transaction; where a broker skipped that, it is ended (`hanging.py`). Then it commits a barrier to the changelog
and reads up to that: nobody else can add to what was read, and nothing hangs below it. `launch` writes outputs, changed state and
the new position as one transaction, while its owner goes on. After any error a Journal is of no more use: close it, open another.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import zip_longest
from typing import Any, NoReturn

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    KafkaError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    UnknownProducerId,
)
from aiokafka.structs import RecordMetadata

from headrace_schemas.topics import BY_NAME
from headrace_schemas.topology import changelog
from headrace_streams.broker_clock import BrokerClock
from headrace_streams.kafka import clients, compat
from headrace_streams.kafka.clients import stop
from headrace_streams.kafka.direct_transaction import DirectTransaction
from headrace_streams.kafka.failures import remedy
from headrace_streams.runtime.changelog_state import LOG_APPEND_TIME, ChangelogState
from headrace_streams.runtime.errors import Fenced, JournalError, ProducerLost, Refused, Transport
from headrace_streams.runtime.hanging import HangingTransactions
from headrace_streams.runtime.position import (
    POSITION_KEY,
    Position,
    Rules,
    Stamp,
    decode_position,
    encode_position,
)
from headrace_streams.runtime.step import Produced
from headrace_streams.runtime.topic_check import refuse_wrong_topics
from headrace_streams.settings import Settings

__all__ = [
    "POSITION_KEY",
    "Fenced",
    "Journal",
    "JournalError",
    "Position",
    "ProducerLost",
    "Refused",
    "Rules",
    "Transport",
    "decode_position",
    "encode_position",
    "stop",
]

BARRIER_KEY = "@barrier"  # only ever a deletion: a reader that does not know it notices nothing
BATCH_BYTES = 1024 * 1024
FLUSH_SECONDS = 5.0
APPEAR_SECONDS = 5.0
_NO_HEADERS: list[tuple[str, bytes]] = []
_LOST = (InvalidProducerIdMapping, UnknownProducerId, OutOfOrderSequenceNumber, InvalidTxnState)


Ends = Mapping[tuple[str, int], int]  # offset behind the last record, by topic and partition


class Journal:
    """`state` (key -> bytes) and `position` are what `open` found; `state` is the opener's to take. `form` names how the opener
    reads and writes values; those of `state` but `unchecked` (None: but all) are known to be so. `partitions` has the
    counts of the input topic, `outputs`, `rules` and `dead-letters` by short name; `clock` follows the broker's by what it
    acknowledges."""

    def __init__(
        self, settings: Settings, stage: str, topic: str, partition: int, outputs: Iterable[str] = (), form: str = ""
    ) -> None:
        self.label = f"{stage}/{topic}/{partition}"
        self.state: dict[str, bytes] = {}
        self.position: Position | None = None
        self.partitions: dict[str, int] = {}
        self.restored_records = 0
        self._settings = settings
        self._topic, self._partition = topic, partition
        self._changelog_topic = changelog(stage, topic).name
        self._changelog_partition = TopicPartition(clients.full_name(settings, self._changelog_topic), partition)
        self._changelog = ChangelogState(settings, changelog(stage, topic), self._changelog_partition, self.label, form)
        self._output_topics = sorted({*outputs, "rules", "dead-letters"})
        self._topics = [changelog(stage, topic), *(BY_NAME[name] for name in (topic, *self._output_topics) if name in BY_NAME)]
        self._transactional_id = f"{settings.deployment}.{stage}.{topic}.{partition}"
        self._producer: Any = None
        self._connections: Any = None
        self._transaction: Any = None
        self._own: Any = None
        self._written: Counter[str] = Counter()  # records of this producer by partition, as `Stamp` has them
        self.clock = BrokerClock()
        self.flight: asyncio.Task[Ends] | None = None  # the transaction under way, or waiting to begin
        self._begun = False  # the transaction under way

    def writes_to(self, topics: Iterable[str]) -> None:
        """Other topics of the table beside its outputs: before `open`."""
        added = [topic for topic in topics if topic not in self._output_topics]
        self._output_topics += added
        self._topics += [BY_NAME[topic] for topic in added]

    async def open(self, *, mend: bool = False) -> None:
        """Fences any predecessor, ends what it left, then reads the changelog to its end. Raises Refused, Fenced, ProducerLost or
        Transport. `mend`: a position that can't be read is passed over for the one before it, by whoever makes the state anew."""
        self._producer = clients.producer(
            self._settings,
            transactional_id=self._transactional_id,
            max_batch_size=BATCH_BYTES,
        )
        self._connections = compat.ConnectionWatch(self._producer)
        self._transaction = DirectTransaction(self._producer, self._connections)
        try:
            await self._producer.start()
            await self._count_partitions()
            await refuse_wrong_topics(self._producer, self._settings, self.label, self._topics)
            self._connections.lost = False
            self._own = HangingTransactions(self._producer, self.label, self._changelog_partition, self._outputs())
            await self._own.end_hanging(self._changelog.reader.stamps)
            await self._changelog.read(self._producer, await self._barrier(), mend=mend)
        except (KafkaError, OSError) as error:
            self._fail(error)
        self.state, self._changelog.values = self._changelog.values, {}
        self.position, self.restored_records = self._changelog.position, self._changelog.records

    @property
    def unchecked(self) -> set[str] | None:
        return self._changelog.unchecked

    def checked(self) -> None:
        """The opener has read all of `state`, which is of its form. The next one need not look at all of it again."""
        self._changelog.checked()

    async def check(self) -> None:
        """After a lost connection: waits until the broker answers and has ended the last transaction everywhere. Until then no
        other can begin. Raises as `commit`."""
        try:
            await self._own.wait_until_ended(self._connections)
            self._changelog.tidy(self.clock.broker_ms())
        except (KafkaError, OSError) as error:
            self._fail(error)

    def launch(self, produced: Iterable[Produced], changes: Mapping[str, bytes | None], position: Position) -> None:
        """Begins to write everything as one transaction, or nothing. One at a time: `landed` first."""
        assert self.flight is None, f"{self.label}: a transaction is under way"
        self.flight = asyncio.create_task(self._commit(produced, changes, position), name=f"{self.label} commit")

    async def landed(self) -> Ends:
        """The end of the transaction under way, if there is one: the offset behind what was written, by short topic name and
        partition. A cancelled caller leaves it going; `close` sees it to its end.

        Raises Fenced, ProducerLost or Transport; after that the outcome is known to the next `open` only."""
        if self.flight is None:
            return {}
        try:
            return await asyncio.shield(self.flight)
        finally:
            if self.flight.done():
                self.flight = None

    async def commit(self, produced: Iterable[Produced], changes: Mapping[str, bytes | None], position: Position) -> Ends:
        """Both, one after the other."""
        self.launch(produced, changes, position)
        return await self.landed()

    async def close(self) -> None:
        """Waits for the transaction under way, gives up one that does not end, and closes the connections; never raises and never
        waits long.

        What is given up stays open until the next `open`, or its timeout: a marker that says aborted in the epoch of its records
        would look like a commit's (see `hanging.py`)."""
        flight, self.flight = self.flight, None
        if flight is not None:
            if self._begun:
                await asyncio.wait({flight}, timeout=FLUSH_SECONDS)
            if not flight.done():
                flight.cancel()
            elif not flight.cancelled():
                flight.exception()  # seen: nobody goes on with this journal
        self._changelog.close()
        producer, self._producer = self._producer, None
        if producer is None:
            return
        await stop(producer)
        compat.retrieve_errors(producer)  # what mattered of them has been raised

    async def _count_partitions(self) -> None:
        topics = (*self._output_topics, self._topic, self._changelog_topic)
        names = {topic: clients.full_name(self._settings, topic) for topic in topics}
        deadline = time.monotonic() + APPEAR_SECONDS
        while True:
            cluster = await self._producer.client.fetch_all_metadata()
            self.partitions = {topic: len(cluster.partitions_for_topic(name) or ()) for topic, name in names.items()}
            missing = [names[topic] for topic, count in self.partitions.items() if not count]
            if not missing:
                break
            if time.monotonic() > deadline:
                raise Refused(f"{self.label}: topic {missing[0]} is missing: run `headrace topics create`")
            await asyncio.sleep(0.2)  # a topic that was just created takes a moment to be seen
        kept = self.partitions.pop(self._changelog_topic)
        if kept <= self._partition:
            raise Refused(
                f"{self.label}: topic {names[self._changelog_topic]} has {kept} partitions, fewer than its input "
                f"{self._topic}: run `headrace topics create`"
            )
        for name in names.values():
            await self._producer.partitions_for(name)  # known before the first batch

    def _outputs(self) -> list[TopicPartition]:
        """Every partition that may be written to beside the changelog; of the input only its own, for what it tells itself."""
        found = {TopicPartition(clients.full_name(self._settings, self._topic), self._partition): None}
        for topic in self._output_topics:
            name = clients.full_name(self._settings, topic)
            found.update((TopicPartition(name, number), None) for number in range(self.partitions[topic]))
        return list(found)

    async def _barrier(self) -> RecordMetadata:
        """Of a record that this producer has committed: whoever shows it knows all that was written before."""
        topic, partition = self._changelog_partition
        await self._producer.begin_transaction()
        sent = await self._producer.send(topic, value=None, key=BARRIER_KEY.encode(), partition=partition)
        written: RecordMetadata = await sent
        await self._producer.commit_transaction()
        if written.offset < 0:  # it was sent twice, over a connection that broke
            raise Transport(f"{self.label}: the broker did not tell where it wrote")
        return written

    async def _commit(self, produced: Iterable[Produced], changes: Mapping[str, bytes | None], position: Position) -> Ends:
        self._begun = False
        await self.check()
        self._begun = True
        batches = _Batches(self._producer)
        for topic, partition, key, value, headers in produced:
            batches.add((topic, partition), key, value, list(headers))
        written = {
            f"{clients.full_name(self._settings, topic)}/{part}": count for (topic, part), count in batches.counts().items()
        }
        self._written.update(written)
        stamp = Stamp(compat.producer_epoch(self._producer), {place: self._written[place] for place in written})
        position = msgspec.structs.replace(position, stamp=stamp)
        changelog, encoded, no_headers = (self._changelog_topic, self._partition), encode_position(position), _NO_HEADERS
        for name, state in changes.items():
            batches.add(changelog, name.encode(errors="surrogateescape"), state, no_headers)
        batches.add(changelog, POSITION_KEY.encode(), encoded, no_headers)
        try:
            ends = await batches.commit(self._transaction, functools.partial(clients.full_name, self._settings), self.clock)
        except (KafkaError, OSError) as error:
            self._fail(error)
        self._changelog.committed(changes, encoded, ends[changelog], batches.appended_ms[changelog])
        self.position = position
        return ends

    def _fail(self, error: BaseException) -> NoReturn:
        cause: BaseException | None = error
        while cause is not None:  # aiokafka wraps what ended its sender
            if isinstance(cause, ProducerFenced | InvalidProducerEpoch):
                raise Fenced(f"{self.label}: another owner has taken over {self._transactional_id}") from error
            if isinstance(cause, compat.ConnectionLost):
                raise Transport(f"{self.label}: {cause.args[0]}") from error
            if isinstance(cause, _LOST):
                raise ProducerLost(f"{self.label}: the broker has lost {self._transactional_id}: {cause!r}") from error
            if (what := remedy(cause)) is not None:
                raise Refused(f"{self.label}: {what}") from error
            cause = cause.__cause__
        raise Transport(f"{self.label}: {error!r}") from error


class _Batches:
    """Records of one transaction by short topic and partition: sent one by one they cost 3.5 times as much. What is done for each
    record is kept short: 0.6 us, where names and counters for each made it 2.9."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._packed: dict[tuple[str, int], list[Any]] = {}
        self.appended_ms: dict[tuple[str, int], int] = {}  # by the broker's clock, once they are sent

    def add(self, place: tuple[str, int], key: bytes, value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
        builders = self._packed.get(place)
        if builders is None or builders[-1].append(timestamp=None, key=key, value=value, headers=headers) is None:
            topic = BY_NAME.get(place[0])
            packed = topic is None or topic.packed  # changelogs are
            builder = compat.PackedBatch(self._producer) if packed else self._producer.create_batch()
            builder.append(timestamp=None, key=key, value=value, headers=headers)  # the first one fits, whatever its size
            self._packed.setdefault(place, []).append(builder)

    def counts(self) -> dict[tuple[str, int], int]:
        """How many records each partition gets."""
        return {place: sum(builder.record_count() for builder in builders) for place, builders in self._packed.items()}

    async def commit(self, transaction: DirectTransaction, full_name: Callable[[str], str], clock: BrokerClock) -> Ends:
        """Writes all as one transaction; the offset behind each partition's records. Each acknowledgement is told `clock`."""
        places = {place: TopicPartition(full_name(place[0]), place[1]) for place in self._packed}
        await transaction.begin(places.values())
        ends: dict[tuple[str, int], int] = {}
        for round_ in zip_longest(*self._packed.values()):  # a partition's second batch waits for its first
            batches = {place: batch for place, batch in zip(self._packed, round_, strict=True) if batch is not None}
            written = await transaction.write({places[place]: batch for place, batch in batches.items()})
            for place, batch in batches.items():
                result = written[places[place]]
                ends[place] = result.offset + batch.record_count()
                self.appended_ms[place] = result.timestamp
                if result.timestamp_type == LOG_APPEND_TIME:
                    clock.heard(result.timestamp)
        await transaction.commit()
        return ends
