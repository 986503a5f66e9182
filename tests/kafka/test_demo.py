"""`headrace demo` as a person runs it, up to the first release; then what its last line says, on the data that it kept."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from headrace_demo.shop.exam import ASKED, KNOWN, NEW
from headrace_demo.shop.questions import is_held_out

pytestmark = [pytest.mark.kafka, pytest.mark.slow(seconds=150), pytest.mark.timeout(900)]

MINUTES = 12


def headrace(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from headrace_cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def said(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
    done = headrace(*arguments, "--json")
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def events(topic: str, *config: str) -> list[dict[str, Any]]:
    return [line["event"] for line in said("tail", topic, "--from", "start", "--no-follow", *config)]


def with_console(*arguments: str) -> dict[str, Any]:
    """The last line of a demo whose console is open beside it, and stays until Ctrl-C."""
    command = [sys.executable, "-c", "from headrace_cli.main import main; main()", *arguments, "--console", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        end: dict[str, Any] = {}
        for line in demo.stdout:
            end = json.loads(line)
            if "afterwards" in end:
                address, _, token = str(end["console"]).partition("#token=")
                with pytest.raises(urllib.error.HTTPError, match="401"):
                    urllib.request.urlopen(address, timeout=30)
                assert token
                demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0, demo.stderr and demo.stderr.read()
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(address, timeout=30)
    return end


def test_the_demo_learns_and_what_it_kept_can_be_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    end = with_console("demo", "--releases", "1", "--minutes", str(MINUTES), "--seed", "3", "--data-dir", str(folder))
    base, first, control = (row for row in end["releases"] if row["bucket"] == "sql/tiny-sql")
    assert end["done"] is True
    for before, after in zip(base["exam"].values(), first["exam"].values(), strict=True):
        assert before["total"] == after["total"] == ASKED
    assert 0.01 <= base["exam"][KNOWN]["success"] <= 0.25
    assert base["exam"][KNOWN]["success"] < first["exam"][KNOWN]["success"]
    assert base["exam"][NEW]["success"] <= first["exam"][NEW]["success"], "one release need not reach wordings nobody trained on"
    assert control["control"]
    assert control["exam"][KNOWN]["success"] < 0.1 < first["exam"][KNOWN]["success"]

    config = ("--config", str(folder / "headrace.toml"))
    _start, releases, status = (shlex.split(command)[1:] for command in end["afterwards"].split(" && "))
    pasted = subprocess.run(["/bin/sh", "-c", end["afterwards"]], capture_output=True, text=True, check=False)
    try:
        assert (pasted.returncode, "is `headrace worker` running?" in pasted.stdout) == (1, True), pasted.stderr
        (now,) = said(*status, code=1)
        assert {"absent"} <= {trouble["kind"] for trouble in now["troubles"]} <= {"absent", "silent"}
        assert all(stage["accounted"] for stage in now["stages"])
        assert {one["bucket"]: one["adapter"] for one in now["served"]} == {
            row["bucket"]: row["adapter"] for row in end["releases"] if row["adapter"]
        }
        assert headrace(*releases).returncode == 0
        verified = headrace("replay", "--verify", *config)
        assert (verified.returncode, verified.stderr) == (0, "")
        groups = {}
        for event in events("examples", *config):
            if event["type"] == "headrace.example.rewarded.v1":
                groups[event["data"]["example_id"]] = event["data"]["prompt_group"]
        assert sum(is_held_out(group) for group in groups.values()) >= 200
        named = [
            member["example_id"]
            for event in events("batches", *config) + events("runs", *config)
            for field in ("members", "test_pool", "rehearsal")
            for member in event["data"].get(field, ())
        ]
        assert len(named) > 300
        assert not [name for name in named if is_held_out(groups[name])]
        release = next(one["release_id"] for one in now["served"] if one["bucket"] == "sql/tiny-sql")
        (written,) = said("dataset", "sql/tiny-sql", "--release", release, "--out", str(tmp_path), *config)
        assert written["rows"] > 300
    finally:
        headrace("kafka", "stop", *config)
