"""Curate on a real broker: what it kept in memory only is there after a restart, and time passes as records in its input."""

from __future__ import annotations

import asyncio

import pytest

from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode
from headrace_schemas.events import ClockTicked, ExampleRejected
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.settings import Settings
from headrace_streams.testing import written_headers
from support.examples import rewarded, withdrawn
from support.live import assert_exact, changelog_state, publish, read, run_until_read, until

pytestmark = pytest.mark.kafka
(CURATE,) = (stage for stage in STAGES if stage.name == "curate")
LONG = "select name, count(*) as orders from customers join orders using (customer_id) where year = 2021 group by name"


def alike(number: int, target: str) -> bytes:
    return rewarded(number, prompt="How many orders has every customer placed in the year?", target=target)


async def written(settings: Settings, *values: bytes) -> None:
    await publish(settings, "examples", 0, [(b"sql/tiny", value) for value in values], written_headers("examples"))


def test_near_duplicates_are_known_after_a_restart(settings: Settings) -> None:
    body = CuratePolicy().body()

    async def main() -> None:
        await written(settings, alike(1, LONG), rewarded(2))
        await run_until_read(FoldTask(CURATE, body, "examples", 0, settings))
        await written(settings, alike(3, LONG.replace("= 2021", "> 2021")))
        await run_until_read(FoldTask(CURATE, body, "examples", 0, settings))
        await assert_exact(settings, CURATE, "examples", [0], body)
        state = await changelog_state(settings, CURATE, "examples", 0)
        assert {key.partition(":")[0] for key in state} == {"assessed", "bucket", "example"}
        rejected = [
            event.data.reason
            for partition in range(settings.partitions)
            for record in await read(settings, "rejections", partition)
            if isinstance(event := decode(record.value, record.headers), ExampleRejected)
        ]
        assert rejected == ["near_duplicate"]

    asyncio.run(main())


def test_what_is_due_is_forgotten_by_a_record_that_names_it_and_replay_forgets_it_too(settings: Settings) -> None:
    body = CuratePolicy(keep_days=1.5 / 86_400).body()

    async def main() -> None:
        await written(settings, rewarded(1, target="..."), withdrawn(2), rewarded(3, split="test"), rewarded(4))
        task = FoldTask(CURATE, body, "examples", 0, settings, tick_seconds=0.5)
        running = asyncio.create_task(task.run())

        async def forgotten() -> bool:
            assert not running.done(), running.exception()
            state = await changelog_state(settings, CURATE, "examples", 0)
            return [key.partition(":")[0] for key in sorted(state)] == ["assessed", "bucket", "example"]  # the one that is open

        await until(forgotten)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await run_until_read(FoldTask(CURATE, body, "examples", 0, settings))
        await assert_exact(settings, CURATE, "examples", [0], body)
        ticks = [
            event
            for record in await read(settings, "examples", 0)
            if isinstance(event := decode(record.value, record.headers), ClockTicked)
        ]
        assert sum(len(tick.data.examples or ()) for tick in ticks) == 3

    asyncio.run(main())
