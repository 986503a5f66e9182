"""Events that tasks wait to have accepted: together, each with its own outcome, whatever becomes of whoever waits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

import headrace
from headrace.awaiting import AwaitedEvents
from headrace.publishing import OutgoingEvent
from headrace_streams.outbox.database import Database
from headrace_streams.outbox.outbox import OutboxError, OutboxFull

NOWHERE = "127.0.0.1:1"
FIELDS = {"artifact_type": "sql", "model": "m", "prompt": "p"}


def event(number: int) -> OutgoingEvent:
    return OutgoingEvent("interactions", b"k", b"%d" % number, str(number))


class Gate:
    """What writes events once it is let; `written` are those, batch by batch."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.written: list[list[int]] = []

    def accept_all(self, events: Sequence[OutgoingEvent]) -> list[BaseException | None]:
        assert self.open.wait(30)
        numbers = [int(one.value) for one in events]
        self.written.append(numbers)
        if 13 in numbers:
            raise OutboxError("the disk failed")
        return [OutboxFull("full") if number == 7 else None for number in numbers]


def test_what_waits_while_others_are_written_is_written_together_and_in_order() -> None:
    gate = Gate()

    async def main() -> list[BaseException | None]:
        awaited = AwaitedEvents(gate.accept_all)
        tasks = [asyncio.ensure_future(awaited.accept(event(number))) for number in range(10)]
        await asyncio.sleep(0)
        gate.open.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = asyncio.run(main())
    assert [number for batch in gate.written for number in batch] == list(range(10))
    assert len(gate.written) <= 2
    assert [type(outcome) for outcome in outcomes] == [OutboxFull if number == 7 else type(None) for number in range(10)]


def test_an_error_is_told_to_all_it_happened_to_and_nobody_else() -> None:
    gate = Gate()

    async def main() -> None:
        awaited = AwaitedEvents(gate.accept_all)
        gate.open.set()
        with pytest.raises(OutboxError, match="the disk failed"):
            await awaited.accept(event(13))
        await awaited.accept(event(14))

    asyncio.run(main())


def test_who_is_cancelled_holds_nobody_up_and_another_loop_may_go_on() -> None:
    gate = Gate()
    awaited = AwaitedEvents(gate.accept_all)

    async def cancelled() -> None:
        task = asyncio.ensure_future(awaited.accept(event(1)))
        other = asyncio.ensure_future(awaited.accept(event(2)))
        await asyncio.sleep(0)
        task.cancel()
        gate.open.set()
        await other
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    asyncio.run(awaited.accept(event(3)))
    assert sorted(number for batch in gate.written for number in batch) == [1, 2, 3]


def test_a_loop_that_is_ending_still_has_its_last_events_accepted() -> None:
    gate = Gate()
    gate.open.set()

    async def main() -> None:
        await asyncio.get_running_loop().shutdown_default_executor()
        await AwaitedEvents(gate.accept_all).accept(event(1))

    asyncio.run(main())
    assert gate.written == [[1]]


def test_a_recorder_with_a_file_shares_commits_among_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[int] = []
    run = Database._run

    def counted(database: Database, group: list[object]) -> None:
        commits.append(len(group))
        run(database, group)  # type: ignore[arg-type]

    async def main() -> int:
        async with headrace.AsyncRecorder(NOWHERE, agent="bot", outbox=tmp_path / "o.db") as recorder:
            monkeypatch.setattr(Database, "_run", counted)
            await asyncio.gather(*(recorder.interaction(**FIELDS, output=str(number)) for number in range(200)))  # type: ignore[arg-type]
            found = recorder.pending
            monkeypatch.setattr(Database, "_run", run)
            await recorder.close(0)
            return found

    assert asyncio.run(main()) == 200
    assert len(commits) < 50


def test_without_a_file_an_event_is_accepted_where_it_is_recorded() -> None:
    async def main() -> None:
        recorder = headrace.AsyncRecorder(NOWHERE, agent="bot", max_rows=1)
        thread = threading.get_ident()
        append = recorder._engine.outbox.append
        threads: list[int] = []

        def noted(topic: str, key: bytes, value: bytes) -> int:
            threads.append(threading.get_ident())
            return append(topic, key, value)

        recorder._engine.outbox.append = noted  # type: ignore[method-assign]
        await recorder.interaction(**FIELDS, output="o")  # type: ignore[arg-type]
        with pytest.raises(OutboxFull):
            await recorder.interaction(**FIELDS, output="o")  # type: ignore[arg-type]
        assert threads == [thread, thread]
        with pytest.raises(headrace.HeadraceError, match="not acknowledged"):
            await recorder.close(0)

    asyncio.run(main())


FORKED = """
import asyncio, os, sys, threading
import headrace
recorder = headrace.AsyncRecorder({nowhere!r}, agent="a", outbox=sys.argv[1])
outbox, inside = recorder._engine.outbox, threading.Event()
append_all = outbox.append_all
outbox.append_all = lambda records: (inside.set(), threading.Event().wait())
said = lambda: recorder.interaction(artifact_type="sql", model="m", prompt="p", output="o")
threading.Thread(target=lambda: asyncio.run(said()), daemon=True).start()
assert inside.wait(30)
if child := os.fork():
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
outbox.append_all = append_all
try:
    asyncio.run(asyncio.wait_for(said(), 20))
except TimeoutError:
    os._exit(3)
os._exit(0 if recorder.pending == 1 else 4)
"""


def test_a_child_that_was_forked_while_events_were_written_writes_its_own(tmp_path: Path) -> None:
    script = FORKED.format(nowhere=NOWHERE)
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "outbox")], timeout=60, check=False).returncode == 0
