"""Time passes for reward and link on a real broker: what nothing is heard of expires, a large erasure ends by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from headrace_processors.reward import erasure
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode
from headrace_schemas.events import ErasureContinued, InteractionExpired, RefExpired
from headrace_streams.runtime import fold_task
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.settings import Settings
from headrace_streams.testing import written_headers
from support.live import assert_exact, changelog_state, declare, publish, read, until
from support.signals import event, feedback, interaction, subject_erased

pytestmark = pytest.mark.kafka
STAGE = {stage.name: stage for stage in STAGES}
SECOND = 1 / 86_400  # in days
JIRA = {"system": "jira", "id": "OPS-7"}


def body(stage: str, **policy: Any) -> Mapping[str, Any]:
    return STAGE[stage].policy(**policy).body()


async def run_until(settings: Settings, stage: str, topic: str, policy: Mapping[str, Any], **wanted: int) -> FoldTask:
    task = FoldTask(STAGE[stage], policy, topic, 1, settings)
    running = asyncio.create_task(task.run())

    async def counted() -> bool:
        counters = task.describe().counters
        return all(counters.get(name, 0) == count for name, count in wanted.items())

    await until(counted)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return task


def test_interactions_and_waiting_feedback_expire_and_the_log_verifies(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, STAGE["reward"])
        values = [
            interaction("never said"),
            feedback("f1", "never came"),
            interaction("said"),
            feedback("f2", "said", score=100),
        ]
        await publish(settings, "signals", 1, [(b"k", value) for value in values], written_headers("signals"))
        policy = body("reward", expire_after_days=2 * SECOND)
        await run_until(settings, "reward", "signals", policy, applied=6, expired=1, waiting=0)
        await assert_exact(settings, STAGE["reward"], "signals", [1], policy)
        state = await changelog_state(settings, STAGE["reward"], "signals", 1)
        assert {key for key in state if key != "shares"} == {"interaction/said"}
        written = [decode(record.value, record.headers) for record in (await read(settings, "signals", 1))[len(values) :]]
        expired = [found.data.interaction_id for found in written if isinstance(found, InteractionExpired)]
        assert sorted(expired) == ["never came", "never said", "said"]
        assert len(written) == 3

    asyncio.run(main())


def test_a_label_becomes_final_while_nothing_comes_in_and_the_log_verifies(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, STAGE["reward"])
        values = [
            interaction("i1"),
            feedback("f1", "i1", "explicit_positive"),
            interaction("i2"),
            feedback("f2", "i2", score=100),
        ]
        await publish(settings, "signals", 1, [(b"k", value) for value in values], written_headers("signals"))
        policy = body("reward", settle_after_days={"explicit_positive": 2 * SECOND})
        await run_until(settings, "reward", "signals", policy, applied=5, label_provisional=0, label_final=2)
        await assert_exact(settings, STAGE["reward"], "signals", [1], policy)
        state = await changelog_state(settings, STAGE["reward"], "signals", 1)
        assert [b'"final":true' in state[f"interaction/{name}"] for name in ("i1", "i2")] == [True, True]

    asyncio.run(main())


def test_a_large_erasure_ends_by_records_of_its_own(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "PORTION", 10)

    async def main() -> None:
        await declare(settings, STAGE["reward"])
        values = [interaction(f"i{number}", data_subject="bob", prompt="secret text") for number in range(35)]
        values += [feedback("f1", "i9"), subject_erased("bob"), feedback("f2", "i34")]
        await publish(settings, "signals", 1, [(b"k", value) for value in values], written_headers("signals"))
        policy = body("reward")
        await run_until(settings, "reward", "signals", policy, applied=len(values) + 3)
        await assert_exact(settings, STAGE["reward"], "signals", [1], policy)
        state = await changelog_state(settings, STAGE["reward"], "signals", 1)
        assert b"secret" not in b"".join(state.values())
        written = [decode(record.value, record.headers) for record in (await read(settings, "signals", 1))[len(values) :]]
        assert [found.data.portion for found in written if isinstance(found, ErasureContinued)] == [1, 2, 3]
        assert len(written) == 3

    asyncio.run(main())


def test_a_busy_partition_ends_an_erasure_without_waiting_for_a_tick_per_portion(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "PORTION", 10)
    monkeypatch.setattr(fold_task, "OVERDUE_KEYS", 1)
    monkeypatch.setattr(fold_task, "POLL_MS", 60_000)  # never idle

    async def main() -> None:
        await declare(settings, STAGE["reward"])
        values = [interaction(f"i{number}", data_subject="bob") for number in range(35)]
        values += [subject_erased("bob")]
        await publish(settings, "signals", 1, [(b"k", value) for value in values], written_headers("signals"))
        task = FoldTask(STAGE["reward"], body("reward"), "signals", 1, settings, tick_seconds=3600)
        task._looked = float("-inf")  # one look is due
        running, number = asyncio.create_task(task.run()), 0

        async def ended() -> bool:
            nonlocal number
            number += 1
            await publish(settings, "signals", 1, [(b"k", interaction(f"more{number}"))], written_headers("signals"))
            return len(await erasures(settings)) == 3

        await until(ended)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


async def erasures(settings: Settings) -> list[int]:
    """Portions that were asked for."""
    written = [decode(record.value, record.headers) for record in await read(settings, "signals", 1)]
    return [found.data.portion for found in written if isinstance(found, ErasureContinued)]


def test_links_and_what_waits_for_one_expire_and_the_log_verifies(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, STAGE["link"])
        other = {"system": "jira", "id": "OPS-8"}
        values = [
            event("interaction.linked", {"interaction_id": "i1", "ref": JIRA}),
            feedback("f1", None, ref=JIRA),
            feedback("f2", None, ref=other),
        ]
        await publish(settings, "refs", 1, [(b"k", value) for value in values], written_headers("refs"))
        policy = body("link", expire_after_days=2 * SECOND)
        await run_until(settings, "link", "refs", policy, resolved=4, expired=1, waiting=0)
        await assert_exact(settings, STAGE["link"], "refs", [1], policy)
        assert await changelog_state(settings, STAGE["link"], "refs", 1) == {}
        written = [decode(record.value, record.headers) for record in (await read(settings, "refs", 1))[len(values) :]]
        assert sorted(found.data.ref.id for found in written if isinstance(found, RefExpired)) == ["OPS-7", "OPS-8"]

    asyncio.run(main())
