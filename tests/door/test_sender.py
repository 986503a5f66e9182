"""The sender against a broker that answers as a test wants: what it does about each kind of failure, and what it says of it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import MessageSizeTooLargeError, TopicAuthorizationFailedError, UnknownError

from headrace_streams.broker_clock import BrokerClock
from headrace_streams.kafka import clients, compat
from headrace_streams.outbox import sender as module
from headrace_streams.outbox.outbox import Destination, Outbox
from headrace_streams.outbox.sender import Sender
from headrace_streams.settings import Settings

SETTINGS = Settings(bootstrap="broker:9092", deployment="shop")
Answer = Callable[[str, bytes], Exception | None]


class Broker:
    """Takes what `answer(topic, value)` has no error for. One failure in a request fails all of its partition, as with Kafka."""

    def __init__(self) -> None:
        self.partitions = {"interactions": 1, "feedback": 1}
        self.answer: Answer = lambda topic, value: None
        self.silent = False
        self.append_ms: Callable[[], int] | None = None
        self.taken: list[bytes] = []
        self.asked = 0

    async def counts(self, settings: Settings, topics: Iterable[str]) -> dict[str, int]:
        self.asked += 1
        topics = list(topics)
        if missing := [topic for topic in topics if topic not in self.partitions]:
            raise clients.TopicMissing(
                f"{missing[0]}: UnknownTopicOrPartitionError; `headrace topics create` declares all topics"
            )
        return {topic: self.partitions[topic] for topic in topics}

    def producer(self, settings: Settings) -> _Producer:
        return _Producer(self)


class _Producer:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.batches: dict[tuple[str, int], list[tuple[bytes, asyncio.Future[Any]]]] = {}

    async def send(self, topic: str, value: bytes, key: bytes, partition: int) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if not self.batches:
            loop.call_soon(self.answer)
        self.batches.setdefault((topic.removeprefix("shop."), partition), []).append((value, future))
        return future

    def answer(self) -> None:
        batches, self.batches = self.batches, {}
        for (topic, _), batch in batches.items():
            errors = [error for value, _ in batch if (error := self.broker.answer(topic, value)) is not None]
            for value, future in batch:
                if self.broker.silent or future.done():
                    continue
                if errors:
                    future.set_exception(errors[0])
                    continue
                self.broker.taken.append(value)
                appended = self.broker.append_ms() if self.broker.append_ms else -1
                future.set_result(SimpleNamespace(timestamp=appended, timestamp_type=0 if appended < 0 else 1))

    async def stop(self) -> None:
        pass


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker()

    async def nothing(_: object) -> None:
        pass

    monkeypatch.setattr(clients, "producer", broker.producer)
    monkeypatch.setattr(clients, "partition_counts", broker.counts)
    monkeypatch.setattr(clients, "start", nothing)
    monkeypatch.setattr(compat, "abandon", nothing)
    monkeypatch.setattr(module, "IDLE", 0.01)
    monkeypatch.setattr(module, "BACKOFF", (0.001, 0.02))
    monkeypatch.setattr(module, "SILENCE", 0.02)
    return broker


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox.db", destination=Destination("shop", "broker:9092"))


def fill(outbox: Outbox, topic: str, *values: bytes) -> None:
    for value in values:
        outbox.append(topic, b"k", value)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another task or thread
            await asyncio.sleep(0.002)


def while_sending(outbox: Outbox, scene: Callable[[Sender], Awaitable[None]], **options: Any) -> None:
    """Plays `scene` beside a running sender."""

    async def play() -> None:
        sender = Sender(SETTINGS, outbox, **options)
        task = asyncio.create_task(sender.run())
        try:
            await scene(sender)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(play())


def test_a_missing_topic_keeps_back_nothing_of_another(broker: Broker, outbox: Outbox) -> None:
    del broker.partitions["interactions"]
    fill(outbox, "interactions", *(b"i%d" % n for n in range(700)))  # more than a window
    fill(outbox, "feedback", b"f1")

    async def scene(sender: Sender) -> None:
        await until(lambda: broker.taken == [b"f1"])
        assert sender.trouble is not None
        assert "shop.interactions takes no records" in sender.trouble
        assert "topics create" in sender.trouble
        fill(outbox, "feedback", b"f2")
        await until(lambda: broker.taken == [b"f1", b"f2"])
        broker.partitions["interactions"] = 1
        await until(lambda: outbox.pending == 0 and sender.trouble is None)

    while_sending(outbox, scene)
    assert Counter(broker.taken) == Counter([b"f1", b"f2", *(b"i%d" % n for n in range(700))])


def test_a_topic_that_may_not_be_written_to_keeps_back_nothing_of_another(broker: Broker, outbox: Outbox) -> None:
    broker.answer = lambda topic, value: TopicAuthorizationFailedError(topic) if topic == "interactions" else None
    fill(outbox, "interactions", *(b"i%d" % n for n in range(700)))  # more than a window
    fill(outbox, "feedback", b"f1")

    async def scene(sender: Sender) -> None:
        await until(lambda: outbox.pending == 700)
        assert "TopicAuthorizationFailedError" in (sender.trouble or "")

    while_sending(outbox, scene)
    assert (broker.taken, outbox.pending, outbox.refused) == ([b"f1"], 700, 0)


def test_an_unknown_error_of_the_broker_sets_nothing_aside(broker: Broker, outbox: Outbox) -> None:
    broker.answer = lambda topic, value: UnknownError()
    fill(outbox, "feedback", *(b"%d" % n for n in range(100)))
    values = [entry.value for entry in outbox.waiting()]

    async def scene(sender: Sender) -> None:
        await until(lambda: "UnknownError" in (sender.trouble or ""))
        fill(outbox, "feedback", b"more")
        asked = broker.asked
        await until(lambda: broker.asked > asked + 50)
        assert (outbox.pending, outbox.refused) == (101, 0)
        broker.answer = lambda topic, value: None
        await until(lambda: outbox.pending == 0 and sender.trouble is None)

    while_sending(outbox, scene)
    assert sorted(broker.taken) == sorted([*values, b"more"])


def test_an_unknown_error_of_one_record_among_others_sets_that_one_aside(
    broker: Broker, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    broker.answer = lambda topic, value: UnknownError() if value == b"odd" else None
    fill(outbox, "feedback", b"1", b"odd", b"2")

    async def scene(sender: Sender) -> None:
        await until(lambda: outbox.pending == 0)

    while_sending(outbox, scene)
    assert [refusal.entry.value for refusal in outbox.refusals()] == [b"odd"]
    assert sorted(broker.taken) == [b"1", b"2"]
    assert "publish --outbox FILE --requeue" in caplog.text
    assert outbox.requeue() == 1
    assert outbox.pending == 1


def test_many_odd_records_at_the_front_are_found_out_as_good_ones_come(broker: Broker, outbox: Outbox) -> None:
    broker.answer = lambda topic, value: UnknownError() if value.startswith(b"odd") else None
    odd = [b"odd%d" % n for n in range(45)]
    good: list[bytes] = []
    fill(outbox, "feedback", *odd)

    async def scene(sender: Sender) -> None:
        while outbox.pending:
            good.append(b"%d" % len(good))
            fill(outbox, "feedback", good[-1])
            await until(lambda: good[-1] in broker.taken)

    while_sending(outbox, scene)
    assert sorted(broker.taken) == sorted(good)
    assert sorted(refusal.entry.value for refusal in outbox.refusals()) == sorted(odd)


def test_a_record_that_the_broker_refuses_steps_aside_and_the_others_arrive(broker: Broker, outbox: Outbox) -> None:
    broker.answer = lambda topic, value: MessageSizeTooLargeError() if value == b"large" else None
    fill(outbox, "feedback", b"1", b"large", b"2")

    async def scene(sender: Sender) -> None:
        await until(lambda: outbox.pending == 0)

    while_sending(outbox, scene)
    assert outbox.refused == 1
    assert sorted(broker.taken) == [b"1", b"2"]


def test_what_is_acknowledged_is_sent_once_though_the_file_can_not_be_written(
    broker: Broker, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    values = [b"%d" % n for n in range(1200)]
    fill(outbox, "feedback", *values)
    connection = outbox._database.connection
    connection.execute("PRAGMA query_only = 1")

    async def scene(sender: Sender) -> None:
        await until(lambda: len(broker.taken) == len(values))
        await until(lambda: "can't be written" in (sender.trouble or ""))
        for _ in range(20):  # more passes
            await asyncio.sleep(0.01)
        assert outbox.pending == 0
        connection.execute("PRAGMA query_only = 0")
        await until(lambda: sender.trouble is None)

    while_sending(outbox, scene)
    assert broker.taken == values
    assert (outbox.unwritten, outbox.pending) == (0, 0)
    assert caplog.text.count("can't be written") == 1


def test_a_lock_that_can_not_be_taken_is_said(broker: Broker, outbox: Outbox, tmp_path: Path) -> None:
    (tmp_path / "outbox.db.sender").mkdir()

    async def scene(sender: Sender) -> None:
        await until(lambda: "can't be locked" in (sender.trouble or ""))
        (tmp_path / "outbox.db.sender").rmdir()
        fill(outbox, "feedback", b"1")
        await until(lambda: broker.taken == [b"1"] and sender.trouble is None)

    while_sending(outbox, scene)


def test_a_broker_that_is_silent_is_said_to_be(broker: Broker, outbox: Outbox) -> None:
    broker.silent = True
    fill(outbox, "feedback", b"1")

    async def scene(sender: Sender) -> None:
        assert sender.trouble is None
        await until(lambda: sender.trouble is not None)
        assert sender.trouble == "broker:9092 has not answered for 0.02 s"

    while_sending(outbox, scene)


class Clock:
    """A machine's clock that somebody set wrong; time passes for it by hand."""

    def __init__(self, ahead: float) -> None:
        self.ahead, self.passed = ahead, 1_000_000.0

    def wall(self) -> float:
        return self.passed + self.ahead

    def monotonic(self) -> float:
        return self.passed

    def broker_ms(self) -> int:
        return int(self.passed * 1000)


@pytest.mark.parametrize("ahead", [-3600, 0, 240])
def test_a_clock_that_is_about_right_is_trusted(ahead: float) -> None:
    clock = Clock(ahead)
    heard = BrokerClock(clock.wall, clock.monotonic)
    assert heard.trusted_ns() / 1e9 == clock.wall()
    heard.heard(clock.broker_ms())
    clock.passed += 10
    assert (heard.ahead_ms(), heard.broker_ms()) == (None, clock.broker_ms())
    assert heard.trusted_ns() / 1e9 == clock.wall()


def test_a_clock_far_ahead_is_not_and_when_it_is_set_right_it_is() -> None:
    clock = Clock(660)
    heard = BrokerClock(clock.wall, clock.monotonic)
    heard.heard(clock.broker_ms())
    clock.passed += 10
    assert heard.ahead_ms() == 660_000
    assert heard.trusted_ns() / 1e9 == clock.passed
    clock.ahead = 1
    assert heard.ahead_ms() is None
    assert heard.trusted_ns() / 1e9 == clock.wall()


def test_records_of_a_clock_far_ahead_wait_until_they_can_be_taken(
    broker: Broker, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(660)
    broker.append_ms = clock.broker_ms
    limit = clock.broker_ms() + 60_000
    fill(outbox, "feedback", b"first", *[b"later"] * 3)

    async def scene(sender: Sender) -> None:
        await until(lambda: "3 records wait" in (sender.trouble or ""))
        assert "about 11 minutes ahead of the broker's" in (sender.trouble or "")
        assert broker.taken == [b"first"]
        clock.passed += 61
        await until(lambda: outbox.pending == 0)

    while_sending(outbox, scene, clock=BrokerClock(clock.wall, clock.monotonic), due=lambda value, broker_ms: broker_ms >= limit)
    assert broker.taken == [b"first", *[b"later"] * 3]
    assert [r.levelno for r in caplog.records if "minutes ahead" in r.message] == [logging.WARNING]
