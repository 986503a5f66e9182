"""What holds when a process or the power goes: locks, guards of children, files that are replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace_streams import durable_file
from headrace_streams.file_lock import locked, try_lock
from headrace_streams.process_guard import ProcessGuard

GUARDING = """
import subprocess, sys, time
from headrace_streams.process_guard import ProcessGuard
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True, start_new_session=True)
ProcessGuard(child.pid)
print(child.pid, child.stdout.readline().strip(), flush=True)
time.sleep(600)
"""
CHILD = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
time.sleep(600)
"""


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


@pytest.mark.slow(seconds=10)
def test_a_guarded_child_and_what_it_started_end_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", GUARDING, CHILD], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child, grandchild = map(int, parent.stdout.readline().split())
        assert not gone(child)
        parent.kill()
    wait_until_gone(child)
    wait_until_gone(grandchild)


def test_a_child_that_was_released_goes_on() -> None:
    program = "import time; time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", program], start_new_session=True) as child:
        try:
            guard = ProcessGuard(child.pid)
            guard.release()
            assert child.poll() is None
        finally:
            child.send_signal(signal.SIGKILL)


def test_a_lock_is_held_by_one_and_ends_with_its_holder(tmp_path: Path) -> None:
    holding = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with path.open() as file:
            assert not try_lock(file)
        holder.kill()
        with locked(path), path.open() as file:
            assert not try_lock(file)
    with path.open() as file:
        assert try_lock(file)


def test_a_file_is_replaced_whole_and_its_folder_is_synced_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (target := tmp_path / "target").write_text("old")
    (temporary := tmp_path / "temporary").write_text("new")
    synced: list[tuple[bool, str]] = []

    def fsync(descriptor: int) -> None:
        synced.append((Path(f"/dev/fd/{descriptor}").is_dir(), target.read_text()))

    monkeypatch.setattr(os, "fsync", fsync)
    durable_file.replace(temporary, target)
    assert synced == [(False, "old"), (True, "new")]
    assert not temporary.exists()
