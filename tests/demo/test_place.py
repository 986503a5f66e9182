"""Where a run lives, what is set for it, and that children end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace_demo.run.children import ChildDied, Children
from headrace_demo.run.folder import Place
from headrace_streams.settings import load


def test_settings_are_accepted(tmp_path: Path) -> None:
    place = Place(tmp_path, seed=7)
    settings = place.settings("127.0.0.1:1234")
    assert load({}, place.config).settings == settings


def test_each_run_is_a_deployment_of_its_own(tmp_path: Path) -> None:
    assert [Place(tmp_path, seed=0).deployment for _ in range(3)] == ["demo-1", "demo-2", "demo-3"]


RECORDING = """#!/bin/sh
echo "$0 $* ${HEADRACE_BOOTSTRAP-nothing set}" >> "$(dirname "$0")/called"
"""


PRINTING = """
import sys
from pathlib import Path
from headrace_cli.common import program_name
from headrace_demo.run.folder import Place
sys.argv[0] = sys.argv[1]
print(Place(Path("its data"), 0).afterwards(program_name(), own_broker=bool(int(sys.argv[2]))))
"""


def paste(folder: Path, started_as: str, own_broker: bool, **environment: str) -> tuple[str, list[str]]:
    """The last line of a demo that was started in `folder` as `started_as`, and what a shell there runs for it."""
    (script := folder / ".venv" / "bin" / "headrace").parent.mkdir(parents=True)
    script.write_text(RECORDING)
    script.chmod(0o755)

    def run(*command: str) -> str:
        return subprocess.run(
            command, cwd=folder, env={**os.environ, **environment}, check=True, capture_output=True, text=True
        ).stdout

    line = run(sys.executable, "-c", PRINTING, started_as, str(int(own_broker))).rstrip("\n")
    run("/bin/sh", "-c", line)
    return line, (script.parent / "called").read_text().splitlines()


@pytest.mark.parametrize("own_broker", [True, False])
def test_the_last_line_works_where_it_is_pasted(tmp_path: Path, own_broker: bool) -> None:
    config = tmp_path / "its data" / "headrace.toml"
    line, called = paste(tmp_path, ".venv/bin/headrace", own_broker, HEADRACE_BOOTSTRAP="elsewhere:1")
    started = [f".venv/bin/headrace kafka start --config {config} nothing set"] * own_broker
    assert called == [*started, *(f".venv/bin/headrace {name} --config {config} nothing set" for name in ("releases", "status"))]
    assert "\n" not in line


def test_the_last_line_is_short_where_the_command_is_on_the_path(tmp_path: Path) -> None:
    scripts = tmp_path / ".venv" / "bin"
    line, called = paste(tmp_path, str(scripts / "headrace"), True, PATH=f"{scripts}:{os.environ['PATH']}")
    assert [part.split()[0] for part in line.split(" && ")] == ["headrace"] * 3
    assert len(called) == 3


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or not path.read_text().endswith("\n"):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


STUBBORN = """
import pathlib, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(f"{child.pid}\\n")
child.wait()
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_nothing_is_left_of_a_child_that_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_demo.run.children.PATIENCE", 0.2)
    note = tmp_path / "pid"
    with Children(tmp_path) as children:
        child = children.start("stubborn", "-c", STUBBORN, str(note))
        wait_for(note)
        children.check()
    assert child.returncode == -signal.SIGKILL
    grandchild = int(note.read_text())
    deadline = time.monotonic() + 10
    while not gone(grandchild):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_some_children_can_be_stopped_and_the_others_go_on(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        sleeping = {name: children.start(name, "-c", "import time; time.sleep(600)") for name in ("agent", "trainer", "console")}
        children.stop("agent", "trainer", "nobody")
        assert [sleeping[name].poll() is None for name in sleeping] == [False, False, True]
        children.check()
    assert sleeping["console"].poll() is not None


def test_a_child_that_dies_is_told_with_its_last_lines(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("doomed", "-c", "raise SystemExit('out of luck')")
        child.wait(30)
        with pytest.raises(ChildDied, match="doomed ended with 1: out of luck"):
            children.check()
        with pytest.raises(ChildDied, match="doomed ended with 1: out of luck"):
            children.wait("doomed")
        children.check()


def test_a_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = f"""
import pathlib, time
from headrace_demo.run.children import Children
child = Children(pathlib.Path({str(tmp_path)!r})).start("left", "-c", "import time; time.sleep(600)")
pathlib.Path({str(note)!r}).write_text(f"{{child.pid}}\\n")
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script])
    wait_for(note)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while not gone(int(note.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.02)
