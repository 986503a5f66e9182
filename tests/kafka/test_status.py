"""`headrace status` on a real broker: from anywhere, it says what is wrong with tasks of workers that it never talks to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace_lake.troubles import group_of
from headrace_schemas.topology import changelog
from headrace_streams.kafka.groups import group_view
from headrace_streams.runtime import supervisor
from headrace_streams.runtime.journal import POSITION_KEY, Position, Transport, encode_position
from headrace_streams.runtime.status import TaskReport, decode_note
from headrace_streams.runtime.supervisor import Supervisor
from headrace_streams.settings import Settings
from support.commands import command
from support.live import publish, until

pytestmark = pytest.mark.kafka

Run = Callable[..., tuple[int, str, str]]


def told(headrace: Run, *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out, error = headrace("status", "--json", *arguments)
    assert not error
    found: dict[str, Any] = json.loads(out)
    assert (code == 0) == found["well"] == (not found["troubles"])
    return code, found


def kinds(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(trouble["kind"], trouble["what"]) for trouble in found["troubles"]]


@pytest.mark.slow(seconds=15)
def test_status_is_1_while_nobody_runs_the_stages_and_0_when_all_is_well(
    headrace: Run, settings: Settings, tmp_path: Path
) -> None:
    code, found = told(headrace)
    inputs = [
        "intake/interactions",
        "intake/feedback",
        "link/refs",
        "attribute/sessions",
        "reward/signals",
        "curate/examples",
        "release/outcomes",
    ]
    assert (code, kinds(found)) == (1, [("absent", name) for name in inputs])
    with command(settings, tmp_path, "worker"):
        code, out, _ = headrace("status", "--wait", "60")
        assert (code, out.splitlines()[-1]) == (0, "nothing is wrong")
        deadline = time.monotonic() + 60
        while True:
            tasks = [task for task in told(headrace)[1]["tasks"] if task["stage"] != "train"]
            assert all(task["worker"] for task in tasks)
            if {task["note"] and task["note"]["phase"] for task in tasks} == {"running"}:
                break
            assert time.monotonic() < deadline, tasks


@pytest.mark.slow(seconds=15)
def test_status_tells_of_a_refused_task_and_what_to_do(headrace: Run, settings: Settings, tmp_path: Path) -> None:
    lost = encode_position(Position(next_offset=1000, partitions=2))
    asyncio.run(publish(settings, changelog("reward", "signals").name, 1, [(POSITION_KEY.encode(), lost)]))

    async def refused() -> bool:
        code, out, _ = await asyncio.to_thread(headrace, "status")
        expected = f"reward/signals/1: position 1000 is outside the log of {settings.deployment}.signals [0, 0): the log has lost"
        return code == 1 and "  refused     reward/signals/1: on " in out and expected in out and "absent" not in out

    with command(settings, tmp_path, "worker"):
        asyncio.run(until(refused, every=1.0))


class Failing:
    """A task that the broker never takes anything from."""

    def __init__(self, topic: str, partition: int) -> None:
        self.report = TaskReport(stage="test", topic=topic, partition=partition, phase="restoring")
        self.progress: int | None = None

    async def run(self) -> None:
        raise Transport("no leader")

    def describe(self) -> TaskReport:
        return self.report


def test_the_group_knows_of_a_task_that_is_started_again_and_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_SECONDS", (0.05, 0.1))
    group = group_of(settings.deployment, "reward")

    async def main() -> None:
        running = asyncio.create_task(Supervisor(settings, group, {"signals": Failing}).run())

        async def known() -> bool:
            view = await group_view(settings, group)
            notes = [decode_note(view.metadata.get(("signals", partition), "")) for partition in (0, 1)]
            return view.assigned.keys() == {("signals", 0), ("signals", 1)} and all(
                note is not None and note.recent > 3 and note.error == "no leader" for note in notes
            )

        try:
            await until(known)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def test_a_group_that_never_was_has_no_members(settings: Settings) -> None:
    view = asyncio.run(group_view(settings, f"{settings.deployment}.nobody"))
    assert (view.assigned, view.metadata, view.unseen) == ({}, {}, None)
