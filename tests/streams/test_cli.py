"""The command around the commands: help, exit codes, one-line errors, what is loaded when. No broker."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from headrace_cli import main
from headrace_cli.common import CliError, fail
from headrace_cli.doctor import _graders, _store
from headrace_cli.main import COMMANDS, Command, invoke
from headrace_streams.kafka.clients import BrokerUnavailable
from headrace_streams.local_kafka.jars import MissingLibrary, MissingPiece
from headrace_streams.local_kafka.process import KafkaFailed
from headrace_streams.outbox.outbox import Destination, Outbox
from headrace_streams.pip_line import pip_line
from headrace_streams.settings import Settings, SettingsError

NOBODY = ["--bootstrap", "127.0.0.1:1"]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path / "data"))


def _leaves(name: str, command: click.Command) -> list[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        return [leaf for child, inner in command.commands.items() for leaf in _leaves(f"{name} {child}", inner)]
    return [(name, command)]


def test_publish_notices_that_another_process_empties_the_outbox(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "outbox.db"
    other = Outbox(path)
    for number in range(3):
        other.append("feedback", b"k", b"%d" % number)
    assert other.try_to_send()
    emptying = threading.Timer(0.5, lambda: other.delivered(other.waiting()))
    emptying.start()
    assert invoke(["publish", "--outbox", str(path), "--json", *NOBODY]) == 0
    assert json.loads(capsys.readouterr().out) == {"delivered": 3, "refused": 0}
    emptying.join()
    other.close()


@contextmanager
def emptied(path: Path) -> Iterator[None]:
    """Somebody else sends from the outbox at `path`, whatever waits there."""
    outbox, done = Outbox(path), threading.Event()
    assert outbox.try_to_send()

    def send() -> None:
        while not done.wait(0.01):
            outbox.delivered(outbox.waiting())

    sending = threading.Thread(target=send)
    sending.start()
    yield
    done.set()
    sending.join()
    outbox.close()


def test_publish_puts_back_what_was_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "outbox.db"
    outbox = Outbox(path)
    for number in range(3):
        outbox.append("feedback", b"k", b"%d" % number)
        outbox.refuse(outbox.waiting()[0], "UnknownError")
    with emptied(path):
        assert invoke(["publish", "--outbox", str(path), "--json", *NOBODY]) == 0
        assert json.loads(capsys.readouterr().out) == {"delivered": 0, "refused": 0}
        assert outbox.refused == 3
        assert invoke(["publish", "--outbox", str(path), "--requeue", "--json", *NOBODY]) == 0
    assert json.loads(capsys.readouterr().out)["requeued"] == 3
    assert (outbox.pending, outbox.refused) == (0, 0)


def test_publish_sends_nothing_elsewhere_unless_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "outbox.db"
    outbox = Outbox(path, destination=Destination("shop", "kafka:9092"))
    outbox.append("feedback", b"k", b"v")
    assert invoke(["publish", "--outbox", str(path), *NOBODY]) == 4
    [line] = capsys.readouterr().err.splitlines()
    assert f"{path} holds records for shop at kafka:9092, not for headrace at 127.0.0.1:1" in line
    assert "--rebind" in line
    assert outbox.pending == 1
    with emptied(path):
        assert invoke(["publish", "--outbox", str(path), "--rebind", *NOBODY]) == 0


def test_help_names_every_command_and_loads_none() -> None:
    code = (
        "import sys; from headrace_cli.main import invoke; invoke(['--help']); "
        "sys.exit(', '.join({'aiokafka', 'pydantic', 'torch', 'faust', 'duckdb', 'msgspec'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    sections = done.stdout.partition(f"{next(iter(main.SECTIONS))}:")[2].splitlines()
    listed = [line.split()[0] for line in sections if line.startswith("  ") and line[2] != " "]
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_takes_the_common_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: headrace {name}")
    command = main.headrace.get_command(click.Context(main.headrace), name)
    assert command is not None
    for leaf_name, leaf in _leaves(name, command):
        options = {option for parameter in leaf.params for option in parameter.opts}
        assert {"--bootstrap", "--deployment", "--config"} <= options, leaf_name
        assert leaf.help, leaf_name


def test_a_missing_library_is_exit_2_with_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "needy.py").write_text("import a_library_that_nobody_has\n")
    (tmp_path / "lazy.py").write_text("import click\n@click.command()\ndef lazy():\n    import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, "needy", Command("needy:command", "trainer", "."))
    monkeypatch.setitem(COMMANDS, "lazy", Command("lazy:lazy", "worker", "."))
    for name, extra in (("needy", "trainer"), ("lazy", "worker")):
        assert invoke([name]) == 2
        said = f"headrace {name} needs a_library_that_nobody_has, which is not installed: {pip_line(extra)}\n"
        assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CliError(1, "no"), 1),
        (SettingsError("x"), 2),
        (MissingLibrary("x"), 2),
        (MissingPiece("x"), 3),
        (BrokerUnavailable("x"), 3),
        (KafkaFailed("x"), 4),
        (FileNotFoundError(2, "No such file", "f"), 4),
        (ZeroDivisionError("x"), None),
    ],
)
def test_each_error_has_its_exit_code(error: Exception, code: int | None) -> None:
    known = fail(error)
    assert (known[0] if known else None) == code


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nonsense"], 2, "headrace: No such command 'nonsense'; see headrace --help"),
        (["tail"], 2, "Missing argument 'TOPIC...'; see headrace tail --help"),
        (["topics", "create", "--partitions", "0"], 2, "'--partitions': 0 is not in the range"),
        (["config", "--bootstrap", "x"], 2, "bootstrap = 'x' (from --bootstrap): 'x' is not host:port"),
        (["config", "--config", "none.toml"], 2, "none.toml"),
        (["publish"], 2, "give a FILE, - for standard input, or --outbox DB"),
        (["publish", "--requeue", "-"], 2, "--requeue needs --outbox DB"),
        (["publish", "--rebind", "-"], 2, "--rebind needs --outbox DB"),
        (["tail", "signals", "--from", "yesterday", *NOBODY], 2, "--from = 'yesterday'"),
        (["kafka", "status"], 1, ""),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert invoke(arguments) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == bool(said)


def test_a_bug_is_exit_4_on_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "buggy.py").write_text("import click\n@click.command()\ndef command():\n    raise ZeroDivisionError('a\\nb')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, "buggy", Command("buggy:command", "", "."))
    assert invoke(["buggy"]) == 4
    assert capsys.readouterr().err == "headrace: ZeroDivisionError: a b (HEADRACE_DEBUG=1 shows where)\n"


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "stopped.py").write_text("import click\n@click.command()\ndef command():\n    raise KeyboardInterrupt\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, "stopped", Command("stopped:command", "", "."))
    assert invoke(["stopped"]) == 130


def test_an_unreachable_broker_is_exit_3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("headrace_streams.kafka.clients.DEADLINE", 0.3)
    assert invoke(["topics", "check", *NOBODY]) == 3
    assert "no broker answers at 127.0.0.1:1" in capsys.readouterr().err


def test_config_prints_values_with_origins_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_SECURITY_SASL_PASSWORD", "hush")
    assert invoke(["config", "--json", "--deployment", "d"]) == 0
    text = capsys.readouterr().out
    rows = json.loads(text)
    assert rows["deployment"] == {"value": "d", "origin": "--deployment"}
    assert rows["security.sasl_password"] == {"value": "**********", "origin": "HEADRACE_SECURITY_SASL_PASSWORD"}
    assert rows["bootstrap"]["origin"] == "default"
    assert invoke(["config"]) == 0
    assert "hush" not in text + capsys.readouterr().out


def test_publish_names_each_bad_line_and_sends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = (
        b'{"specversion":"1.0","id":"1","source":"s","type":"headrace.feedback.recorded.v1",'
        b'"data":{"interaction_id":"i","kind":"success","score":100}}'
    )
    derived = b'{"specversion":"1.0","id":"1","source":"s","type":"headrace.pause.requested.v1","data":{"bucket":"b"}}'
    (tmp_path / "events.jsonl").write_bytes(b"\n".join([good, b"", b"{", derived, good.replace(b"100", b"101")]))
    assert invoke(["publish", "events.jsonl", *NOBODY]) == 1  # no broker was asked
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in lines[:2]] == [["events.jsonl:3", "not_json"], ["events.jsonl:4", "unknown_type"]]
    assert lines[2].startswith("events.jsonl:5: ")
    assert lines[3] == "headrace: 3 lines are no valid events; nothing was sent"


def test_doctor_names_what_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr("headrace_streams.kafka.clients.DEADLINE", 0.3)
    monkeypatch.setattr("headrace_cli.doctor._gpu", lambda settings: iter(()))  # importing torch takes seconds
    (tmp_path / "data").write_text("a file where a folder should be")
    assert invoke(["doctor", "--json", *NOBODY]) == 1
    findings = {row["what"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert findings["python"]["verdict"] == "ok"
    assert findings["broker"]["verdict"] == "broken"
    assert findings["graders"]["verdict"] in ("ok", "warn")
    assert findings["store"]["verdict"] == "broken"
    assert "headrace kafka start" in findings["broker"]["detail"]


@pytest.mark.parametrize(
    ("store", "verdict", "said"),
    [
        ("{}/store", "ok", "can be written and read"),
        ("memory://x", "broken", "nobody can fetch"),
        ("nosuch://x", "broken", "nosuch"),
    ],
)
def test_doctor_says_whether_others_can_fetch_from_the_store(tmp_path: Path, store: str, verdict: str, said: str) -> None:
    (finding,) = _store(Settings(store=store.format(tmp_path)))
    assert finding.verdict == verdict
    assert said in finding.detail


@pytest.mark.parametrize(
    ("program", "verdict", "said"),
    [
        ("print('')", "ok", "can be isolated"),
        (
            "print('unshare: Operation not permitted')",
            "warn",
            "limited here, not isolated: unshare: Operation not permitted: allow user",
        ),
        ("import no_such_trainer", "warn", "No module named 'no_such_trainer'"),
    ],
)
def test_doctor_says_whether_graders_can_be_isolated(
    monkeypatch: pytest.MonkeyPatch, program: str, verdict: str, said: str
) -> None:
    monkeypatch.setattr("headrace_cli.doctor._GRADERS", program)
    (finding,) = _graders(Settings())
    assert finding.verdict == verdict
    assert said in finding.detail


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -c 'from headrace_cli.main import main; main()'"
    done = subprocess.run(
        ["/bin/sh", "-c", f"({command} config --json; echo $? >&2) | true"], capture_output=True, text=True, check=False
    )
    assert done.stderr in ("0\n",)
