"""What a grader, or an answer that it runs, can't do: each attack is tried, isolated and, where limits alone hold it, without."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace_trainer.evaluation import grader as module
from headrace_trainer.evaluation import isolation
from headrace_trainer.evaluation.grader import Grader, GraderMissing
from headrace_trainer.policy import GraderPolicy
from support import training_data

EXAMPLE = training_data.example(1)
REFUSED = isolation.probe()
isolated_only = pytest.mark.skipif(REFUSED is not None, reason=f"this machine does not isolate: {REFUSED}")
both = pytest.mark.parametrize("isolation", [pytest.param("required", marks=isolated_only), "off"])


def policy(function: str, **changed: object) -> GraderPolicy:
    return GraderPolicy.model_validate(
        {"name": f"support.attackers:{function}", "seconds": 20.0, "isolation": "required", **changed}
    )


def graded(function: str, output: str, **changed: object) -> float:
    with Grader(policy(function, **changed)) as grader:
        grade = grader.grade(output, EXAMPLE)
        assert grade.reason is None, grade.reason
        return grade.value


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def running(mark: str) -> list[int]:
    """Processes with `mark` in their command line, but this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line, state = (folder / "cmdline").read_bytes(), (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark.encode() in line and state != "Z" and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize(
    "isolation",
    [
        pytest.param("required", marks=isolated_only),
        pytest.param("off", marks=pytest.mark.skipif(os.getuid() == 0, reason="root")),
    ],
)
def test_it_has_nothing_of_the_trainers_environment(monkeypatch: pytest.MonkeyPatch, isolation: str) -> None:
    secret = f"secret-{uuid.uuid4()}"
    monkeypatch.setenv("HEADRACE_SECURITY__SASL_PASSWORD", secret)
    assert graded("reads_secrets", secret, isolation=isolation) == 50.0


@both
def test_it_has_the_variables_that_its_policy_names_and_no_others(monkeypatch: pytest.MonkeyPatch, isolation: str) -> None:
    monkeypatch.setenv("JUDGE_KEY", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    with Grader(policy("has_variable", environment=["JUDGE_KEY", "NOT_SET"], isolation=isolation)) as grader:
        grades = {name: grader.grade(name, EXAMPLE).value for name in ("JUDGE_KEY", "AWS_SECRET_ACCESS_KEY", "NOT_SET")}
    assert grades == {"JUDGE_KEY": 100.0, "AWS_SECRET_ACCESS_KEY": 50.0, "NOT_SET": 50.0}


@isolated_only
@pytest.mark.parametrize(("network", "expected"), [(False, 50.0), (True, 100.0)])
def test_it_reaches_no_network_unless_its_policy_says_so(network: bool, expected: float) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert graded("connects", str(server.getsockname()[1]), network=network) == expected


@isolated_only
def test_it_writes_nowhere_and_reads_what_it_is_given(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    given, hidden = tmp_path / "given", tmp_path / "hidden.toml"
    given.mkdir()
    (given / "table").write_text("rows")
    hidden.write_text("password = 'x'")
    for path in (given / "new", given / "table", Path(module.__file__), Path("/etc/passwd")):
        assert graded("writes", str(path), folders=[str(given)]) == 50.0
    for path in (tmp_path / "new", hidden):  # there is another /tmp where it is
        graded("writes", str(path), folders=[str(given)])
    assert hidden.read_text() == "password = 'x'"
    assert graded("reads", str(given / "table"), folders=[str(given)]) == 100.0
    assert graded("reads", str(hidden), folders=[str(given)]) == 50.0
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["given", "hidden.toml", "table"]
    assert graded("writes", f"/tmp/{tmp_path.name}") == 100.0
    assert not Path("/tmp", tmp_path.name).exists(), "its /tmp is its own"


@both
def test_what_it_starts_ends_with_the_row_even_in_a_session_of_its_own(isolation: str) -> None:
    mark = f"mark-{uuid.uuid4()}"
    with Grader(policy("daemonises", isolation=isolation)) as grader:
        assert grader.grade(mark, EXAMPLE) == (50.0, None)
        assert running(mark) == []


@isolated_only
def test_a_fork_bomb_costs_its_row_and_nothing_is_left_of_it() -> None:
    with Grader(policy("bombs", seconds=1.0, processes=20)) as grader:
        assert grader.grade("bad", EXAMPLE) == (0.0, "no answer within 1 s")
        assert grader.grade("good", EXAMPLE).value == 50.0
    until(lambda: len(running("headrace_trainer.evaluation.grader_child")) == 0)


WRITES_A_GRADE = """
import os
for fd in range(3, 64):
    for text in (b'{"grade": 100}\\n', b'+' + b'0' * 32 + b'{"grade": 100}\\n'):
        try:
            os.write(fd, text)
        except OSError:
            pass
"""


@both
@pytest.mark.parametrize("leaves", ["", "os._exit(0)"])
def test_an_answer_that_is_run_writes_no_grade_of_its_own(isolation: str, leaves: str) -> None:
    with Grader(policy("runs", isolation=isolation)) as grader:
        assert grader.grade(WRITES_A_GRADE + leaves, EXAMPLE) == (0.0, "it wrote what is no grade where grades are told")
        assert grader.grade("pass", EXAMPLE) == (50.0, None)
        assert grader.failures == {"forged": 1}


LOOKS_INTO_ITS_PARENT = """
import os
open(f"/proc/{os.getppid()}/mem", "rb")
"""


@both
def test_an_answer_in_a_process_of_its_own_has_no_way_to_the_graders(isolation: str) -> None:
    if isolation == "off" and os.getuid() == 0:
        pytest.skip("root looks into everything")
    with Grader(policy("runs_apart", isolation=isolation)) as grader:
        assert grader.grade(WRITES_A_GRADE, EXAMPLE) == (60.0, None)
        assert grader.grade(LOOKS_INTO_ITS_PARENT, EXAMPLE) == (50.0, None)


@both
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("import os; os._exit(0)", "it ended with exit code 0 before it had a grade"),
        ("raise SystemExit(7)", "it ended with exit code 1 before it had a grade"),
        ("import ctypes; ctypes.string_at(0)", "it ended with SIGSEGV"),
        ("import os\nos.write(3, b'x' * 10_000_000)", "it wrote what is no grade where grades are told"),
    ],
)
def test_an_early_end_costs_the_row_and_says_so(isolation: str, answer: str, reason: str) -> None:
    with Grader(policy("runs", isolation=isolation)) as grader:
        assert grader.grade(answer, EXAMPLE) == (0.0, reason)
        assert grader.grade("pass", EXAMPLE) == (50.0, None)


@both
def test_output_without_end_is_not_kept(isolation: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Grader(policy("prints", isolation=isolation)) as grader:
        assert grader.grade("30", EXAMPLE) == (50.0, None)
    with Grader(policy("prints", isolation=isolation, seconds=1.0)) as grader:
        assert grader.grade("-1", EXAMPLE) == (0.0, "no answer within 1 s")
    assert 1000 < len(capfd.readouterr().err) < 20_000


@isolated_only
def test_it_fills_no_disk() -> None:
    with Grader(policy("fills", disk_mb=2)) as grader:
        grade = grader.grade("", EXAMPLE)
    assert grade.value == 0.0
    assert "No space left" in str(grade.reason)


@both
def test_nothing_goes_from_row_to_row(isolation: str) -> None:
    with Grader(policy("remembers", isolation=isolation)) as grader:
        assert [grader.grade(str(number), EXAMPLE) for number in range(3)] == [(50.0, None)] * 3


@isolated_only
def test_it_kills_nobody_but_itself() -> None:
    with Grader(policy("kills")) as grader:
        assert grader.grade("", EXAMPLE) == (50.0, None)
        assert grader.grade("", EXAMPLE) == (50.0, None)


KILLED_TRAINER = """
import sys
from headrace_trainer.evaluation.grader import Grader
from support import training_data
from trainer.test_grader_attacks import policy
with Grader(policy("sleeps", seconds=600, isolation=sys.argv[1])) as grader:
    grader.grade("", training_data.example(1))
"""


@both
def test_nothing_is_left_of_a_trainer_that_is_killed(isolation: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", KILLED_TRAINER, isolation], env=environment) as trainer:
        until(lambda: len(descendants(trainer.pid)) == (3 if isolation == "required" else 2))  # the last is the row's
        started = descendants(trainer.pid)
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    until(lambda: not any(alive(pid) for pid in started))


def descendants(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(pid for child in children for pid in descendants(child))]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_machine_that_does_not_isolate_is_told_of_and_refused_where_the_policy_asks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "CHILD", ("-c", NO_NAMESPACES))
    with Grader(policy("has_variable", isolation="preferred")) as grader:
        assert grader.grade("x", EXAMPLE) == (50.0, None)
        assert grader.only_limited == "this machine does not let it be isolated: unshare: no"
    assert "grader support.attackers:has_variable is limited only: this machine" in caplog.text
    with Grader(policy("has_variable")) as grader, pytest.raises(GraderMissing, match=r"isolated: unshare: no; .* says required"):
        grader.grade("x", EXAMPLE)


NO_NAMESPACES = """
from headrace_trainer.evaluation import grader_child, isolation
def enter(**options):
    raise isolation.NotIsolated("unshare: no")
isolation.enter = enter
grader_child.main()
"""
