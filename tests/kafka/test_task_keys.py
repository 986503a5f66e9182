"""Keys and tasks on a real broker: on the log before what is sealed with them, through crashes, races and a lost key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest

from headrace_processors.intake.policy import IntakePolicy
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode, encode
from headrace_schemas.events import KeyErased, KeyIssued
from headrace_schemas.topics import BY_NAME
from headrace_streams.kafka import admin, clients
from headrace_streams.kafka.reader import Reader
from headrace_streams.runtime import task_keys
from headrace_streams.runtime.errors import Refused
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.provenance import origin_without_input
from headrace_streams.runtime.sealing import owner_of
from headrace_streams.runtime.session import Session
from headrace_streams.runtime.stage import Claim
from headrace_streams.sealing.issuing import WRITER, issued
from headrace_streams.sealing.key_log import key_log
from headrace_streams.settings import Settings
from support.live import publish, read_ended, run_until_read, until
from support.signals import feedback, interaction, subject_erased

pytestmark = pytest.mark.kafka
STAGE = {stage.name: stage for stage in STAGES}
SEALED: Mapping[str, Any] = IntakePolicy(seal="subjects").body()


def intake(settings: Settings, partition: int = 0) -> FoldTask:
    return FoldTask(STAGE["intake"], SEALED, "interactions", partition, settings)


async def bobs(settings: Settings, partition: int, *names: str) -> None:
    values = [interaction(name, data_subject="bob", prompt=f"marked {name}") for name in names]
    await publish(settings, "interactions", partition, [(None, value) for value in values])


async def keys(settings: Settings, kind: type[Any] = KeyIssued) -> list[Any]:
    found = [decode(record.value, record.headers) for record in await read_ended(settings, "keys")]
    return [event.data for event in found if isinstance(event, kind)]


def test_a_key_whose_task_died_before_it_sealed_anything_is_used_by_the_next(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        await bobs(settings, 0, "i1")
        with monkeypatch.context() as broken:
            broken.setattr(Session, "launch", only_keys(Session.launch))
            with pytest.raises(RuntimeError, match="died"):
                await run_until_read(intake(settings))
        assert [data.owner for data in await keys(settings)] == ["interaction/i1"]
        await run_until_read(intake(settings))
        assert len(await keys(settings)) == 1
        signals = await read_ended(settings, "signals")
        assert [owner_of("signals", record.headers) for record in signals] == ["interaction/i1"]

    asyncio.run(main())


def only_keys(launch: Any) -> Any:
    def launched(self: Session, produced: Any, changes: Any, *rest: Any) -> None:
        produced = list(produced)
        if any(item.topic == "signals" for item in produced):
            raise RuntimeError("died")
        launch(self, produced, changes, *rest)

    return launched


def test_two_tasks_that_meet_one_interaction_at_once_seal_it_with_one_key(settings: Settings) -> None:
    async def main() -> None:
        for partition in (0, 1):
            await bobs(settings, partition, *(f"i{number}" for number in range(20)))
        tasks = [intake(settings, partition) for partition in (0, 1)]
        await asyncio.gather(*map(run_until_read, tasks))
        signals = await read_ended(settings, "signals")
        assert len(signals) == 40
        by_owner: dict[str | None, set[bytes | None]] = {}
        for record in signals:
            by_owner.setdefault(owner_of("signals", record.headers), set()).add(record.value)
        assert len(by_owner) == 20
        assert all(len(values) == 1 for values in by_owner.values()), "equal texts under one key are equal bytes"

    asyncio.run(main())


def test_a_key_is_read_though_another_tasks_transaction_was_open_below_it(settings: Settings) -> None:
    async def main() -> None:
        log, topic = key_log(settings), clients.full_name(settings, "keys")
        headers = list(origin_without_input(WRITER))
        async with AsyncExitStack() as stack:
            slow, fast = [
                await stack.enter_async_context(
                    clients.connected(clients.producer(settings, transactional_id=f"{settings.deployment}.{name}"))
                )
                for name in ("slow", "fast")
            ]
            for producer, owner in ((slow, "interaction/1"), (fast, "interaction/2")):
                (event,) = issued(log.ring, [Claim(owner, 0, makes_key=True)], 1_790_000_000_000)
                await producer.begin_transaction()
                sent = await producer.send(topic, encode(event), b"k" + owner.encode(), partition=0, headers=headers)
                place = await sent
            await fast.commit_transaction()
            reading = asyncio.create_task(log.refresh(place.offset + 1))
            done, _ = await asyncio.wait({reading}, timeout=0.5)
            assert not done, "nobody knows yet which key is the first"
            await slow.commit_transaction()
            await reading
        assert all(log.ring.secret(owner) for owner in ("interaction/1", "interaction/2"))

    asyncio.run(main())


def test_keys_are_read_once_their_topic_is_declared(settings: Settings) -> None:
    async def main() -> None:
        await admin.delete(settings, [BY_NAME["keys"]])
        reader = Reader(settings)

        async def gone() -> bool:
            return not await Reader(settings).partitions("keys")

        await until(gone)
        assert await reader.partitions("keys") == 0
        await declared_again(settings)
        assert await reader.partitions("keys") == 1

    asyncio.run(main())


def test_a_task_whose_key_is_missing_is_refused_makes_no_dead_letter_and_goes_on_when_it_is_there(settings: Settings) -> None:
    async def main() -> None:
        await bobs(settings, 0, "i1")
        await publish(settings, "interactions", 0, [(None, feedback("f1", "i1"))])
        await run_until_read(intake(settings))
        partition = (await read_ended(settings, "signals"))[0].partition
        task = FoldTask(STAGE["reward"], STAGE["reward"].policy().body(), "signals", partition, settings)
        kept = [(record.key, record.value, record.headers) for record in await read_ended(settings, "keys")]
        letters = await read_ended(settings, "dead-letters")  # intake's, of feedback that came on the wrong topic
        await admin.delete(settings, [BY_NAME["keys"]])
        await declared_again(settings)
        key_log(settings).__init__(settings)  # type: ignore[misc]  # as another process would begin
        with pytest.raises(Refused, match="interaction/i1: its texts are sealed, and topic keys has no key of it"):
            await run_until_read(task)
        assert await read_ended(settings, "dead-letters") == letters
        for key, value, headers in kept:
            await publish(settings, "keys", 0, [(key, value)], list(headers))
        again = FoldTask(STAGE["reward"], STAGE["reward"].policy().body(), "signals", partition, settings)
        await run_until_read(again)
        assert again.describe().counters["applied"] >= 1

    asyncio.run(main())


async def declared_again(settings: Settings) -> None:
    """The deleted topic anew: a broker answers a deletion before it has heard of it itself."""

    async def gone() -> bool:
        return bool(await admin.check(settings, [BY_NAME["keys"]]))

    async def there() -> bool:
        await admin.declare(settings, [BY_NAME["keys"]])
        return not await gone()

    await until(gone)
    await until(there)


def test_an_erased_key_is_written_over_and_said_once_more_when_a_broker_would_close_the_segment(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_keys, "ROLL_SECONDS", 1.0)

    async def main() -> None:
        await bobs(settings, 0, "i1", "i2")
        await publish(settings, "interactions", 0, [(None, subject_erased("bob"))])
        running = asyncio.create_task(intake(settings).run())

        async def said() -> bool:
            return len(await keys(settings, KeyErased)) == 3

        await until(said)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        erased = await keys(settings, KeyErased)
        assert {data.key_id for data in erased} == {data.key_id for data in await keys(settings)}
        assert erased[-1] == erased[-2]

    asyncio.run(main())


def test_who_seals_nothing_any_more_still_forgets_what_was_sealed(settings: Settings) -> None:
    async def main() -> None:
        await bobs(settings, 0, "i1", "i2")
        await run_until_read(intake(settings))
        await publish(settings, "interactions", 0, [(None, subject_erased("bob"))])
        await bobs(settings, 0, "i3")
        await run_until_read(FoldTask(STAGE["intake"], IntakePolicy().body(), "interactions", 0, settings))
        assert {data.key_id for data in await keys(settings, KeyErased)} == {data.key_id for data in await keys(settings)}
        assert not key_log(settings).ring.has_keys

    asyncio.run(main())


def test_tail_shows_sealed_texts_only_when_it_is_asked_to_open_them(
    settings: Settings, headrace: Callable[..., tuple[int, str, str]]
) -> None:
    async def main() -> None:
        await bobs(settings, 0, "i1")
        await run_until_read(intake(settings))

    asyncio.run(main())
    code, shown, _ = headrace("tail", "signals", "--from", "start", "--no-follow", "--json")
    assert (code, "marked i1" in shown, "[sealed]" in shown) == (0, False, True)
    code, shown, _ = headrace("tail", "signals", "--from", "start", "--no-follow", "--json", "--open")
    assert (code, "marked i1" in shown, "[sealed]" in shown) == (0, True, False)
