"""How `kafka stop` and `kafka status` find what runs. A process that holds the folder's lock stands for a broker; no Java."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace_cli.main import invoke
from headrace_streams.local_kafka import process, records

STAND_IN = """
import fcntl, json, os, sys, time
folder, port = sys.argv[1:]
lock = open(f"{folder}/kafka.lock", "ab")
fcntl.flock(lock, fcntl.LOCK_EX)
with open(f"{folder}/kafka.json", "w") as file:
    json.dump({"pid": os.getpid(), "port": int(port), "data_dir": folder, "version": "0"}, file)
print("ready", flush=True)
time.sleep(600)
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def _a_world_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "user_state_path", lambda *_, **__: tmp_path / "state")
    monkeypatch.setattr("headrace_streams.settings.user_data_path", lambda *_, **__: tmp_path / "home")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Runs a stand-in on a folder, recorded as `kafka start` does under settings whose data_dir is `home`."""
    started: list[subprocess.Popen[str]] = []

    def run(folder: Path, port: int, home: Path = tmp_path / "home") -> subprocess.Popen[str]:
        folder.mkdir(parents=True)
        child = subprocess.Popen([sys.executable, "-c", STAND_IN, str(folder), str(port)], stdout=subprocess.PIPE, text=True)
        started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        records.remember(folder, home)
        return child

    yield run
    for child in started:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def test_stop_finds_the_broker_that_was_started_on_another_folder(
    tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "some where"
    broker = start(folder, 19092)
    assert invoke(["kafka", "status"]) == 0
    said = capsys.readouterr().out
    assert said == f"Kafka 0 runs on 127.0.0.1:19092 (pid {broker.pid}, data in {folder})\n"
    assert invoke(["kafka", "stop"]) == 0
    assert capsys.readouterr().out == f"Kafka on {folder} is stopped\n"
    assert broker.wait(10) == -15
    assert invoke(["kafka", "stop"]) == 1
    assert capsys.readouterr().err.startswith(f"headrace: no Kafka runs on {tmp_path / 'home' / 'kafka'}")


def test_of_several_stop_asks_for_one_and_stops_none(tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    brokers = [start(tmp_path / "home" / "kafka", 9092), start(tmp_path / "b", 19092)]
    assert invoke(["kafka", "stop"]) == 2
    *listed, asked = capsys.readouterr().err.splitlines()
    assert [line.rpartition("data in ")[2].rstrip(")") for line in listed] == [
        str(tmp_path / "home" / "kafka"),
        str(tmp_path / "b"),
    ]
    assert asked == "headrace: 2 brokers run: name one with --data-dir"
    assert all(broker.poll() is None for broker in brokers)
    assert invoke(["kafka", "status", "--json"]) == 0
    assert [json.loads(line)["port"] for line in capsys.readouterr().out.splitlines()] == [9092, 19092]
    assert invoke(["kafka", "stop", "--data-dir", str(tmp_path / "b")]) == 0
    assert invoke(["kafka", "stop"]) == 0
    assert [broker.wait(10) for broker in brokers] == [-15, -15]


def test_whoever_sets_a_data_dir_stops_nobody_elses_broker(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = start(tmp_path / "b", 19092)
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path / "mine"))
    assert invoke(["kafka", "stop"]) == 1
    assert invoke(["kafka", "status"]) == 1
    assert foreign.poll() is None
    own = start(tmp_path / "c", 29092, home=tmp_path / "mine")
    assert invoke(["kafka", "stop"]) == 0
    assert capsys.readouterr().out.endswith(f"Kafka on {tmp_path / 'c'} is stopped\n")
    assert own.wait(10) == -15


def test_a_stale_or_broken_record_is_nothing(tmp_path: Path, start: Start) -> None:
    killed = start(tmp_path / "b", 19092)
    killed.kill()
    killed.wait()
    (records_folder := tmp_path / "state" / "brokers").joinpath("broken.json").write_text("{")
    assert records.recorded() == []
    assert process.status(tmp_path / "b") is None
    start(tmp_path / "c", 29092)
    assert [running.port for running in records.recorded()] == [29092]
    assert len(list(records_folder.iterdir())) == 1  # a new record sweeps the stale ones away


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--wait", "soon"], "'soon' is not a valid float range; see headrace kafka start --help"),
        (["--data-dir"], "Option '--data-dir' requires an argument; see headrace kafka start --help"),
    ],
)
def test_wrong_usage_points_to_the_help_of_the_command(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["kafka", "start", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_wait_needs_no_number() -> None:
    from headrace_cli.kafka import start, stop

    for command, seconds in ((start, 60.0), (stop, 30.0)):
        for arguments, waited in (
            (["--wait"], seconds),
            ([], seconds),
            (["--wait", "7"], 7.0),
            (["--wait", "--deployment", "d"], seconds),
        ):
            assert command.make_context("it", arguments).params["wait"] == waited
