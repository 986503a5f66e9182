"""What nobody of ours wrote, where only we write: a changelog's garbage is refused once and mended, not tried for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from headrace_lake.kafka_log import KafkaLog
from headrace_lake.positions import rebuild_state
from headrace_streams.kafka import clients
from headrace_streams.kafka.clients import TopicMissing
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.journal import Refused
from headrace_streams.runtime.session import Session
from headrace_streams.settings import Settings
from support.counting import COUNTING
from support.counting_worker import BODY
from support.live import assert_exact, declare, publish, run_until_read

pytestmark = pytest.mark.kafka


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (b"@position", b"\xff", r"its position at offset \d+ of .*: no task has written that"),
        (b"@position", b'{"next_offset":' + b"[" * 5000, "its position at offset"),
        (b"\xff\xfe", b"1", "state .* can't be read"),
        (b"a", b"not a number", "state 'a' can't be read"),
    ],
    ids=["position", "deep position", "key", "value"],
)
def test_garbage_in_a_changelog_is_refused_and_rebuilt(settings: Settings, key: bytes, value: bytes, said: str) -> None:
    class Strict(type(COUNTING.newest(BODY))):  # type: ignore[misc]
        """Knows its keys, as the folds of the ring do."""

        def load(self, name: str, data: bytes) -> int:
            if not name.isascii():
                raise ValueError("no key of this stage")
            return int(data)

    async def main() -> None:
        await declare(settings, COUNTING)
        await publish(settings, "signals", 0, [(b"a", b"x"), (b"b", b"x")])
        await run_until_read(FoldTask(COUNTING, BODY, "signals", 0, settings))
        await publish(settings, "state.counting.signals", 0, [(key, value)])
        task = FoldTask(COUNTING, BODY, "signals", 0, settings)
        strict = Strict(BODY, "")
        task._runner.fold = strict
        with pytest.raises(Refused, match=said) as refused:
            await run_until_read(task)
        assert str(refused.value).endswith("run `headrace positions rebuild counting/signals/0`")
        await rebuild_state(settings, KafkaLog(settings), COUNTING, "signals", 0)
        await publish(settings, "signals", 0, [(b"a", b"x")])
        task = FoldTask(COUNTING, BODY, "signals", 0, settings)
        task._runner.fold = Strict(BODY, "")
        await run_until_read(task)
        await assert_exact(settings, COUNTING, "signals", [0], BODY)

    asyncio.run(main())


def test_a_cancellation_that_nobody_asked_for_is_an_error(settings: Settings) -> None:
    async def main() -> None:
        await declare(settings, COUNTING)
        session = Session(settings, COUNTING, BODY, "signals", 0)
        with pytest.raises(RuntimeError, match="counting/signals/0: something within was cancelled"):
            async with session.held():
                raise asyncio.CancelledError
        running = asyncio.create_task(hold(session))
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait({running}, timeout=20)
        assert running.cancelled()

    async def hold(session: Session) -> None:
        async with session.held():
            await asyncio.Event().wait()

    asyncio.run(main())


def test_a_mistyped_deployment_is_told_which_there_are(settings: Settings, headrace: Callable[..., tuple[int, str, str]]) -> None:
    mistyped = settings.model_copy(update={"deployment": settings.deployment + "x"})
    with pytest.raises(TopicMissing, match=rf"there is no deployment '{mistyped.deployment}' at .*, but .*{settings.deployment}"):
        asyncio.run(clients.partition_counts(mistyped, ["signals"]))
    with pytest.raises(TopicMissing, match="nothing-like-this") as missing:
        asyncio.run(clients.partition_counts(settings, ["nothing-like-this"]))
    assert "there is no deployment" not in str(missing.value)
