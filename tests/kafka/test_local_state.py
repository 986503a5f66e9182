"""A copy of the state on this machine: restarts read the changelog's end, and whatever the folder has, the changelog holds."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import msgspec
import pytest

from headrace_lake.kafka_log import KafkaLog
from headrace_lake.positions import rebuild_state
from headrace_schemas.topology import changelog
from headrace_streams.kafka import admin, clients
from headrace_streams.runtime import changelog_state as changelog_state_module
from headrace_streams.runtime.changelog_state import ChangelogState
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.journal import Refused
from headrace_streams.runtime.local_state import LocalState
from headrace_streams.runtime.stage import FoldStage, RuleVersion
from headrace_streams.settings import Settings
from support.counting import COUNTING, CountingFold
from support.counting_worker import BODY, Worker
from support.live import assert_exact, changelog_state, declare, lose_changelog, position_of, publish, run_until_read, until

pytestmark = pytest.mark.kafka
TOPIC = changelog("counting", "signals")
KEYS = 300


@pytest.fixture
def local(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"state_dir": tmp_path / "state"})


def values_of(local: Settings, partition: int = 0) -> Path:
    assert local.state_dir is not None
    return local.state_dir / f"{clients.full_name(local, TOPIC.name)}.{partition}" / "values"


def inputs(count: int = KEYS) -> list[tuple[bytes, bytes]]:
    return [(f"k{number}".encode(), b"x") for number in range(count)]


async def restarted(settings: Settings) -> int:
    """Runs a task until all is read; how many records it read of its changelog. Its state is what the changelog has."""
    before = await changelog_state(settings, COUNTING, "signals", 0)
    task = FoldTask(COUNTING, BODY, "signals", 0, settings)
    loaded: dict[str, bytes] = {}
    load = task._load

    async def look(state: dict[str, bytes]) -> None:
        loaded.update(state)
        await load(state)

    task._load = look  # type: ignore[method-assign]
    await run_until_read(task)
    assert loaded == before
    report = task.describe().restore
    assert report is not None
    return report.records


async def some(settings: Settings) -> None:
    """A state of KEYS keys, all of them in the copy: the second start reads the last transaction, which the first had not."""
    await declare(settings, COUNTING)
    await publish(settings, "signals", 0, inputs())
    for _ in range(2):
        await run_until_read(FoldTask(COUNTING, BODY, "signals", 0, settings))


def test_a_restart_reads_only_what_came_after(local: Settings, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await some(local)
        assert await restarted(local) < 10
        await publish(local, "signals", 0, inputs(20))
        assert await restarted(local) < 10
        elsewhere = local.model_copy(update={"state_dir": None})  # another machine goes on meanwhile
        await publish(local, "signals", 0, inputs(50))
        assert await restarted(elsewhere) > KEYS
        assert 70 < await restarted(local) < 90  # the copy had not taken in the last 20
        assert await restarted(local) < 10
        await assert_exact(local, COUNTING, "signals", [0], BODY)

    asyncio.run(main())
    assert not caplog.records


@pytest.mark.slow(seconds=15)
@pytest.mark.parametrize("death", ["before:3", "after:3"])
def test_killed_around_a_commit_it_lags_and_catches_up(local: Settings, tmp_path: Path, death: str) -> None:
    """`after`: committed, and the copy has not taken it in."""

    async def main() -> None:
        await declare(local, COUNTING)
        await publish(local, "signals", 0, inputs())
        await publish(local, "signals", 1, inputs())
        with Worker(local, tmp_path, death=death) as worker:

            async def feed() -> bool:
                await publish(local, "signals", 0, inputs(50))
                return worker.process.poll() is not None

            await until(feed, every=0.3)
            assert worker.wait() == -signal.SIGKILL
        assert any(values_of(local, partition).stat().st_size for partition in (0, 1))
        await restarted(local)
        await restarted(local)
        assert await restarted(local) < 10
        await run_until_read(FoldTask(COUNTING, BODY, "signals", 1, local))
        await assert_exact(local, COUNTING, "signals", [0, 1], BODY)

    asyncio.run(main())


@pytest.mark.parametrize("damage", ["cut", "garbled at its end", "garbled", "emptied", "a folder", "gone"])
def test_damage_costs_a_longer_restart_and_nothing_else(local: Settings, damage: str) -> None:
    async def main() -> None:
        await some(local)
        await publish(local, "signals", 0, inputs(20))
        await restarted(local)
        path = values_of(local)
        content = bytearray(path.read_bytes())
        match damage:
            case "cut":
                os.truncate(path, len(content) - 3)
            case "garbled at its end":
                content[-1] ^= 0xFF
                path.write_bytes(content)
            case "garbled":
                path.write_bytes(os.urandom(len(content)))
            case "emptied":
                os.truncate(path, 0)
            case "a folder":
                path.unlink()
                path.mkdir()
            case "gone":
                shutil.rmtree(path.parent)
        records = await restarted(local)
        assert records > KEYS or damage in ("cut", "garbled at its end")
        if damage != "a folder":  # that one stays with whoever made it, and nothing is kept
            assert await restarted(local) < 10
        await assert_exact(local, COUNTING, "signals", [0], BODY)

    asyncio.run(main())


def test_what_another_deployment_left_is_not_taken(
    local: Settings, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        await some(local)
        stranger = local.model_copy(update={"deployment": f"{local.deployment}b"})
        await admin.declare(stranger)
        await declare(stranger, COUNTING)
        values_of(stranger).parent.mkdir()
        shutil.copy(values_of(local), values_of(stranger))
        await publish(stranger, "signals", 0, inputs(5))
        await restarted(stranger)
        assert f"is of {TOPIC.name}" in caplog.text.replace(f"{local.deployment}.", "")
        assert await restarted(stranger) < 10
        await assert_exact(stranger, COUNTING, "signals", [0], BODY)

    asyncio.run(main())


def test_a_folder_that_somebody_has_is_done_without(local: Settings, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await some(local)
        holder = LocalState(values_of(local).parent, "somebody", "else")
        assert holder.open()
        try:
            assert await restarted(local) > KEYS
            assert "is another process's" in caplog.text
        finally:
            holder.close()
        assert await restarted(local) < KEYS
        await assert_exact(local, COUNTING, "signals", [0], BODY)

    asyncio.run(main())


@pytest.mark.parametrize("longer", [False, True])
def test_of_a_changelog_that_was_made_anew_nothing_is_taken(
    local: Settings, caplog: pytest.LogCaptureFixture, longer: bool
) -> None:
    async def more(settings: Settings) -> None:
        await publish(settings, "signals", 0, inputs())
        await run_until_read(FoldTask(COUNTING, BODY, "signals", 0, settings))

    async def main() -> None:
        await some(local)
        if not longer:
            await more(local)
        elsewhere = local.model_copy(update={"state_dir": None})
        await lose_changelog(local, COUNTING, "signals")
        with pytest.raises(Refused, match="the changelog was lost"):
            await restarted(elsewhere)
        await rebuild_state(elsewhere, KafkaLog(elsewhere), COUNTING, "signals", 0)
        if longer:
            await more(elsewhere)
        await restarted(local)
        assert "is of another log of that name" in caplog.text
        assert await restarted(local) < 10

    asyncio.run(main())


def test_one_older_than_deletions_are_kept_is_made_anew(
    local: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        await some(local)
        with monkeypatch.context() as patch:
            patch.setattr(ChangelogState, "_oldest_ms", -1)
            patch.setattr(changelog_state_module, "remove_old", lambda *_: None)  # a task that no longer ran here
            assert await restarted(local) > KEYS
        assert "deletions since may be gone" in caplog.text
        assert await restarted(local) < 10

    asyncio.run(main())


def test_only_values_that_nobody_has_read_yet_are_checked(local: Settings) -> None:
    """A copy is of what a task has read or written; garbage that came since is refused, each time."""
    checked: list[str] = []

    class Strict(CountingFold):
        def load(self, key: str, value: bytes) -> int:
            checked.append(key)
            return int(value)

        def reload(self, key: str, value: bytes) -> int:
            return int(value)

    stage = msgspec.structs.replace(COUNTING, versions={1: RuleVersion(lambda body, digest: Strict(body, digest))})

    async def start(stage: FoldStage = stage) -> set[str]:
        checked.clear()
        await run_until_read(FoldTask(stage, BODY, "signals", 0, local))
        return set(checked)

    async def main() -> None:
        await declare(local, COUNTING)
        await publish(local, "signals", 0, inputs(20))
        await start()
        assert len(await start()) == 20  # the last transaction is in no copy
        assert await start() == set()
        elsewhere = local.model_copy(update={"state_dir": None})
        await publish(local, "signals", 0, inputs(3))
        await run_until_read(FoldTask(stage, BODY, "signals", 0, elsewhere))
        assert await start() == {"k0", "k1", "k2"}
        assert await start() == set()
        assert len(await start(msgspec.structs.replace(stage, versions={1: stage.versions[1], 2: stage.versions[1]}))) == 20
        await publish(local, TOPIC.name, 0, [(b"k1", b"garbage")])
        for _ in range(2):
            with pytest.raises(Refused, match="state 'k1' can't be read"):
                await start()

    asyncio.run(main())


def test_a_rebuilt_state_is_caught_up_with(local: Settings) -> None:
    async def main() -> None:
        await some(local)
        await publish(local, TOPIC.name, 0, [(b"k1", b"700"), (b"not one of ours", b"1")])
        await restarted(local)
        rebuilt = await rebuild_state(local, KafkaLog(local), COUNTING, "signals", 0)
        assert (rebuilt.changed, rebuilt.removed) == (1, 1)
        assert await restarted(local) < 20
        await assert_exact(local, COUNTING, "signals", [0], BODY)
        assert (await position_of(local, "counting", "signals", 0)).counters["in"] == KEYS

    asyncio.run(main())
