"""A task's hold on its input partition, one for all stages: fence, restore, rules, seek, fetch, commit, settle. Knows no fold.

async with session.held() as state:      # changelog form, at the stage's state version
    ...                                  # load it
    await session.begin()                # the rules are on the log before the first output made with them; then seek
    while True:
        records = await session.fetch(...)
        await session.commit(produced, changes, position)  # or `launch`, and `landed` before the next
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from headrace_schemas import derived
from headrace_schemas.canonical import digest
from headrace_schemas.codec import encode
from headrace_schemas.events import RulesActivated, make
from headrace_schemas.ids import derive_id
from headrace_schemas.topics import may_grow
from headrace_schemas.topology import changelog
from headrace_streams import signing
from headrace_streams.cancellation import cancelled_by_somebody
from headrace_streams.kafka import clients, compat
from headrace_streams.kafka.failures import remedy
from headrace_streams.kafka.partition_fetcher import PartitionFetcher
from headrace_streams.kafka.reader import Reader
from headrace_streams.runtime import meters
from headrace_streams.runtime.journal import Ends, Journal, Position, Refused, Rules, Transport, stop
from headrace_streams.runtime.provenance import origin_without_input, writer_of
from headrace_streams.runtime.sealing import is_sealed_state
from headrace_streams.runtime.stage import Stage, StoredRecord, UnknownVersion
from headrace_streams.runtime.status import RestoreReport
from headrace_streams.runtime.step import Produced
from headrace_streams.settings import Settings, SettingsError

SETTLE_SECONDS = 1.0  # idle time after which a position that moved over transaction markers only is committed too


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Session:
    """One partition of one input topic of `stage`, under policy `body`. `position` is what was committed last."""

    def __init__(self, settings: Settings, stage: Stage[Any], body: Mapping[str, Any], topic: str, partition: int) -> None:
        if topic not in stage.inputs:
            raise ValueError(f"topic {topic!r} is no input of stage {stage.name!r}")
        self.label = f"{stage.name}/{topic}/{partition}"
        self.stage, self.topic, self.partition = stage, topic, partition
        self.rules = Rules(stage.version, digest(body))
        self.position = self._launched = Position(state_version=stage.state_version)
        self._settings, self._body = settings, body
        self._form = f"state {stage.state_version}, rules {stage.version}"
        self._journal = Journal(settings, stage.name, topic, partition, stage.outputs, self._form)
        self._tp = TopicPartition(clients.full_name(settings, topic), partition)
        self._consumer: Any = None
        self._fetcher: PartitionFetcher | None = None
        self._committed = time.monotonic()
        self.meter = meters.of(stage.name, topic)
        self.restore: RestoreReport | None = None
        self.committed_at: float | None = None
        self.last_flight = 0.0, 0.0  # when the last transaction that was committed began and ended, by the monotonic clock
        self._opened = time.monotonic()
        self._lagging: float | None = None
        self._signing: signing.SigningKey | None = None
        self._upcasted = False

    @property
    def partitions(self) -> dict[str, int]:
        """Counts of the input topic, outputs, `rules` and `dead-letters` by short name; empty until held."""
        return self._journal.partitions

    def writes_to(self, topics: Iterable[str]) -> None:
        """`topics`, too, beside the stage's outputs: before it is held."""
        self._journal.writes_to(topics)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[dict[str, bytes]]:
        """Fences any predecessor and yields the state. Closed at the end, however that comes. What the body raises of Kafka's
        errors, and what goes wrong here, is Refused (somebody has to look), Fenced, ProducerLost or Transport."""
        try:
            self._opened = time.monotonic()
            self._signing = self._signing_key()
            await self._journal.open()
            state = await self._restore()
            size = sum(map(len, state)) + sum(map(len, state.values()))
            self.restore = RestoreReport(seconds=0, records=self._journal.restored_records, keys=len(state), bytes=size)
            yield state
        except OffsetOutOfRangeError as error:
            raise Refused(f"{self.label}: position {self.position.next_offset} is outside the log: {error}") from error
        except (KafkaError, OSError) as error:
            if (what := remedy(error)) is not None:
                raise Refused(f"{self.label}: {what}") from error
            raise Transport(f"{self.label}: {error!r}") from error
        except asyncio.CancelledError as error:
            if cancelled_by_somebody():
                raise
            raise RuntimeError(f"{self.label}: something within was cancelled, and nobody has asked for that") from error
        finally:
            consumer, fetcher, self._consumer, self._fetcher = self._consumer, self._fetcher, None, None
            if fetcher is not None:
                await fetcher.close()
            if consumer is not None:
                await stop(consumer)
            await self._journal.close()

    @property
    def unchecked(self) -> Collection[str] | None:
        """Keys whose values this version of the stage may never have read; None: any."""
        return None if self._upcasted else self._journal.unchecked

    def loaded(self) -> None:
        """The state has been read, all of it."""
        self._journal.checked()

    async def begin(self) -> None:
        """Activates the rules, if others were in force, and seeks to the position. Refused when that is outside the log."""
        if self.position.rules != self.rules:
            await self.commit([self._activation()], {}, self.moved(rules=self.rules))
        self._consumer = clients.consumer(self._settings, auto_offset_reset="none")
        await self._consumer.start()
        await compat.connection_of(self._consumer).add_topic(self._tp.topic)  # or the next line would wait 0.1 s for that
        begin = (await self._consumer.beginning_offsets([self._tp]))[self._tp]
        end = (await self._consumer.end_offsets([self._tp]))[self._tp]
        position = self.position.next_offset
        if not begin <= position <= end:
            what = f"{begin - position} records were removed unread" if position < begin else "the log has lost its end"
            raise Refused(f"{self.label}: position {position} is outside the log of {self._tp.topic} [{begin}, {end}): {what}")
        self._fetcher = PartitionFetcher(self._consumer, self._tp, position)
        if self.restore is not None:
            self.restore = msgspec.structs.replace(self.restore, seconds=time.monotonic() - self._opened)

    async def fetch(self, timeout_ms: int, max_records: int) -> list[StoredRecord]:
        """The next committed records, if any come in time: at most `max_records`, and about GIVEN_BYTES."""
        assert self._fetcher is not None
        return await self._fetcher.fetch(timeout_ms, max_records)

    def prefetch(self) -> None:
        """Asks for what follows, while the caller sees to what it was given."""
        assert self._fetcher is not None
        self._fetcher.prefetch()

    @property
    def next_offset(self) -> int:
        """Behind what was fetched, and behind the transaction markers that follow it."""
        assert self._fetcher is not None
        return self._fetcher.position

    @property
    def left(self) -> bool:
        """Whether more has been fetched than was given out."""
        return self._fetcher is not None and self._fetcher.left

    async def end_offset(self) -> int:
        """Where committed readers stop now."""
        return int((await self._consumer.end_offsets([self._tp]))[self._tp])

    def lag(self) -> int | None:
        """Offsets between the position and what is committed; None until the first fetch."""
        end = None if self._fetcher is None else self._fetcher.end
        return None if end is None else max(0, end - self.position.next_offset)

    def lag_seconds(self, first_ms: int | None) -> float | None:
        """How long the first record that is not folded has waited; `first_ms` is its append time. None as `lag`.

        Before it is fetched its append time is not known: then, for how long there has been a lag whenever this was asked."""
        lag, clock = self.lag(), time.monotonic()
        if not lag:
            self._lagging = None
            return None if lag is None else 0.0
        if self._lagging is None:
            self._lagging = clock
        return clock - self._lagging if first_ms is None else max(0.0, time.time() - first_ms / 1000)

    @property
    def flight(self) -> asyncio.Task[Ends] | None:
        """The transaction under way; `landed` says how it ended."""
        return self._journal.flight

    def launch(
        self,
        produced: Iterable[Produced],
        changes: Mapping[str, bytes | None],
        position: Position,
        append_times: Sequence[int] = (),
    ) -> None:
        """Begins to write outputs, changed state and the new position as one transaction, while the caller goes on.
        `append_times`: in ms, of the input records that it is the end of. Releases are signed here, if there is a key: folds and
        replay need none."""
        records, began = list(produced if self._signing is None else map(self._signed, produced)), time.monotonic()
        self._journal.launch(records, changes, position)
        self._launched = position

        def measure(flight: asyncio.Future[Ends]) -> None:
            if not flight.cancelled() and flight.exception() is None:
                self.committed_at, self.last_flight = time.time(), (began, time.monotonic())
                self.meter.committed(self.last_flight[1] - began, records)
                self.meter.folded(append_times, now_ms())

        if self._journal.flight is not None:
            self._journal.flight.add_done_callback(measure)  # when it ends: who waits for it may come later

    async def landed(self) -> Ends:
        """Waits for the transaction under way, if there is one. Returns and raises as Journal.landed."""
        if self._journal.flight is None:
            return {}
        ends = await self._journal.landed()
        self.position = self._launched
        self._committed = time.monotonic()
        return ends

    async def commit(self, produced: Iterable[Produced], changes: Mapping[str, bytes | None], position: Position) -> Ends:
        """Both, one after the other."""
        self.launch(produced, changes, position)
        return await self.landed()

    async def broker_ms(self) -> int:
        """The broker's time, never too late. Before anything was written here, the position is, to hear it."""
        if self._journal.clock.broker_ms() is None:
            await self.commit([], {}, self.position)
        now = self._journal.clock.broker_ms()
        if now is None:
            name = changelog(self.stage.name, self.topic).name
            raise Refused(
                f"{self.label}: topic {name} has no times of the broker: set message.timestamp.type=LogAppendTime on it"
            )
        return now

    async def settle(self) -> None:
        """While idle: transaction markers count as read, or retention would one day leave the position outside the log. What a
        broker that went away has left of the last transaction is seen to as well."""
        await self._journal.check()
        if time.monotonic() - self._committed < SETTLE_SECONDS:
            return
        position = self.next_offset
        if position > self.position.next_offset:
            await self.commit([], {}, self.moved(next_offset=position))

    def moved(self, **changed: Any) -> Position:
        """The position with other fields."""
        return msgspec.structs.replace(self.position, **changed)

    def unreadable(self, key: str, error: Exception) -> Refused:
        """What to raise for a state value that the stage can't load."""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Refused(
            f"{self.label}: state {key[:200]!r} can't be read: {reason}: run `headrace positions rebuild {self.label}`"
        )

    def _signing_key(self) -> signing.SigningKey | None:
        if signing.SIGNED_TOPICS.isdisjoint(self.stage.outputs):
            return None
        try:
            return signing.signing_key(self._settings)
        except SettingsError as error:
            raise Refused(f"{self.label}: {error}") from error

    def _signed(self, item: Produced) -> Produced:
        if self._signing is None or item.topic not in signing.SIGNED_TOPICS:
            return item
        return item._replace(headers=(*item.headers, self._signing.header(item.topic, item.key, item.value)))

    async def _restore(self) -> dict[str, bytes]:
        count = self.partitions[self.topic]
        recorded = self._journal.position
        if recorded is not None and recorded.partitions != count:
            if not may_grow(self.topic) or count < recorded.partitions:
                raise Refused(
                    f"{self.label}: topic {self._tp.topic} has {count} partitions, its state was made with "
                    f"{recorded.partitions}: keys would meet elsewhere; restore the count or start another deployment"
                )
        elif recorded is None and count <= self.partition:
            raise Refused(f"{self.label}: topic {self._tp.topic} has only {count} partitions")
        elif recorded is None and await self._has_run():
            raise Refused(
                f"{self.label}: its changelog has no position, but `rules` says that it has run: the changelog was lost: run "
                f"`headrace positions rebuild {self.label}`"
            )
        self.position = msgspec.structs.replace(recorded or self.position, partitions=count)
        state, self._journal.state = self._journal.state, {}
        if self.position.state_version != self.stage.state_version:
            self._upcasted, state = True, await self._upcast(state)
        return state

    async def _has_run(self) -> bool:
        """Whether `rules` knows the task; its first activation is one transaction with its first position."""
        async with aclosing(Reader(self._settings).read_topic("rules")) as records:
            async for record in records:
                if record.key == self.label.encode() and writer_of(record.headers) is not None:
                    return True
        return False

    async def _upcast(self, state: dict[str, bytes]) -> dict[str, bytes]:
        """State of an older version becomes today's, in the changelog too, before anything is made of it."""
        if any(map(is_sealed_state, state.values())):
            # Nobody but the fold knows what stands for a value, so a state with sealed ones is made anew from the log.
            raise Refused(
                f"{self.label}: its state is of version {self.position.state_version} and partly sealed: run "
                f"`headrace positions rebuild {self.label}`"
            )
        try:
            upcast = self.stage.upcast_state(self.position.state_version, state)
        except UnknownVersion as error:
            raise Refused(f"{self.label}: {error}: run `headrace positions rebuild {self.label}`") from error
        changes: dict[str, bytes | None] = {key: value for key, value in upcast.items() if state.get(key) != value}
        changes |= dict.fromkeys(state.keys() - upcast.keys())
        await self.commit([], changes, self.moved(state_version=self.stage.state_version, watched=msgspec.UNSET))
        return upcast

    def _activation(self) -> Produced:
        name, rules, offset = self.stage.name, self.rules, self.position.next_offset
        event = make(
            RulesActivated,
            derived.RulesActivation(
                stage=name,
                topic=self.topic,
                partition=self.partition,
                from_offset=offset,
                version=rules.version,
                digest=rules.digest,
                body=dict(self._body),
            ),
            id=derive_id("rules", name, self.topic, self.partition, offset, rules.version, rules.digest),
            writer=name,
            time_ms=now_ms(),
        )
        return Produced("rules", 0, self.label.encode(), encode(event), origin_without_input(f"{name}.rules"))
