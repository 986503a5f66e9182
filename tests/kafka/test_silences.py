"""The worker's observer on a real broker: what is missed is said once, ends, is muted by a command, and survives the observer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from headrace_processors.intake.policy import IntakePolicy
from headrace_processors.observer import watch
from headrace_processors.observer.policy import SilencePolicy
from headrace_processors.observer.watch import SilenceObserver
from headrace_processors.stages import STAGES
from headrace_schemas.events import BucketAssessed
from headrace_schemas.times import rfc3339
from headrace_streams.kafka.reader import Reader
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.status import SlotReport, TaskReport, WorkerReport
from headrace_streams.settings import Settings
from headrace_streams.silences import OpenSilence, read_silences
from support.live import ended, publish, read, run_until_read
from support.signals import event, interaction

pytestmark = [pytest.mark.kafka, pytest.mark.slow(seconds=20), pytest.mark.timeout(180)]
Run = Callable[..., tuple[int, str, str]]
(INTAKE,) = (stage for stage in STAGES if stage.name == "intake")
A = "sha256:" + "a" * 64
SOON = SilencePolicy(adapter_unseen_hours=1e-9, swap_minutes=0, feedback_hours=1e-9, feedback_answers=3)


def report(*, lag: int = 0, first: bool = True) -> WorkerReport:
    task = TaskReport(stage="reward", topic="signals", partition=0 if first else 1, phase="running", lag=lag)
    slot = SlotReport(topic="signals", partition=task.partition, task=task, restarts=0, error=None, ended=None)
    return WorkerReport(group="g", broker="b", away=None, tasks=[slot])


def observer(settings: Settings, policy: SilencePolicy = SOON, told: WorkerReport | None = None) -> SilenceObserver:
    return SilenceObserver(settings, policy, lambda _type, model, _role: model, lambda: told or report())


async def answered(settings: Settings, *names: str, adapter: str | None = None) -> None:
    def value(name: str) -> bytes:
        tree = json.loads(interaction(name, adapter=adapter))
        return json.dumps(
            {**tree, "time": rfc3339(time.time_ns() // 1_000_000 + 1)}
        ).encode()  # a release's instant is still before

    await publish(settings, "signals", 0, [(name.encode(), value(name)) for name in names])


async def released(settings: Settings) -> None:
    value = event("release.promoted", {"bucket": "sql/tiny", "release_id": "r1", "adapter": {"digest": A}})
    await publish(settings, "releases.history", 0, [(b"sql/tiny", value)])


async def silences(settings: Settings) -> dict[str, OpenSilence]:
    await ended(settings, "assessments")
    return {each.silence.kind: each for each in await read_silences(Reader(settings))}


async def said(settings: Settings) -> int:
    return sum([len(await read(settings, "assessments", partition)) for partition in range(settings.partitions)])


def test_what_is_missed_is_said_once_in_status_and_ends_when_it_speaks(settings: Settings, headrace: Run) -> None:
    async def begin() -> None:
        await released(settings)
        await answered(settings, "i1", "i2", "i3")
        looking = observer(settings)
        await looking.look()
        assert set(await silences(settings)) == {"adapter_unseen", "served_other", "bucket_without_feedback"}
        assert looking.counts["served_other"] == 1
        before = await said(settings)
        await looking.look()
        assert await said(settings) == before

    asyncio.run(begin())
    code, out, _ = headrace("silence", "list", "--json")
    rows = {row["kind"]: row for row in map(json.loads, out.splitlines())}
    assert (code, rows["served_other"]["interaction_id"], rows["adapter_unseen"]["subject"]) == (1, "i3", "sql/tiny r1")
    code, out, _ = headrace("status", "--json")
    status = json.loads(out)
    assert (code, len(status["silences"])) == (1, 3)
    assert sorted(trouble["what"].split()[0] for trouble in status["troubles"] if trouble["kind"] == "silent") == sorted(rows)

    code, out, _ = headrace("silence", "mute", "adapter_unseen", "sql/tiny r1", "--reason", "not rolled out yet")
    assert code == 0
    muted = json.loads(headrace("status", "--json")[1])
    assert {each["kind"]: each["mute"] and each["mute"]["reason"] for each in muted["silences"]}[
        "adapter_unseen"
    ] == "not rolled out yet"
    assert not any("adapter_unseen" in trouble["what"] for trouble in muted["troubles"])
    assert "adapter_unseen" not in headrace("silence", "list")[1]
    assert headrace("silence", "mute", "nonsense", "x", "--reason", "y")[0] == 2
    assert headrace("silence", "mute", "lag_grows", "x", "--until", "soon", "--reason", "y")[0] == 2

    async def speaks() -> None:
        await answered(settings, "i4", adapter=A)
        await observer(settings).look()
        assert "adapter_unseen" not in await silences(settings)

    asyncio.run(speaks())


def test_what_is_said_of_silence_is_accounted_for_by_verify(
    settings: Settings, headrace: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        await publish(settings, "interactions", 0, [(None, interaction(f"i{number}")) for number in range(5)])
        await run_until_read(FoldTask(INTAKE, IntakePolicy().body(), "interactions", 0, settings))
        monkeypatch.setattr(watch, "SNAPSHOT_SECONDS", 0.0)
        await observer(settings).look()
        assert set(await silences(settings)) == {"bucket_without_feedback"}

    asyncio.run(main())
    assert headrace("silence", "mute", "bucket_without_feedback", "sql/tiny", "--reason", "we know")[0] == 0
    code, _, err = headrace("replay", "--verify")
    assert (code, err) == (0, "")


def test_another_observer_goes_on_with_the_table_and_the_one_without_the_first_partition_says_nothing_of_traffic(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        await released(settings)
        await answered(settings, "i1", "i2", "i3")
        monkeypatch.setattr(watch, "SNAPSHOT_SECONDS", 0.0)
        await observer(settings).look()
        monkeypatch.setattr(watch, "LOOK_BACK_MS", -3_600_000)  # without the table nobody would know of what was
        other = observer(settings, told=report(first=False))
        await other.look()
        assert other.counts == {}
        assert set(await silences(settings)) == {"adapter_unseen", "served_other", "bucket_without_feedback"}
        await observer(settings).look()
        assert set(await silences(settings)) == {"adapter_unseen", "served_other", "bucket_without_feedback"}
        events = [event async for event in Reader(settings).events("assessments") if not isinstance(event, BucketAssessed)]
        assert sum(type(event).__name__ == "SilenceRaised" for event in events) == 3

    asyncio.run(main())


def test_a_deployment_that_nobody_looks_at_has_no_silence(settings: Settings, headrace: Run) -> None:
    assert headrace("silence", "list") == (0, "nobody is missed\n", "")
