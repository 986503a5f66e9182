"""The exit codes that README promises, as a shell sees them: whole processes, one for each code. No broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = ("--bootstrap", "127.0.0.1:1")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "bad.jsonl").write_text("{\n" * 400)
    return {**os.environ, "HEADRACE_DATA_DIR": str(tmp_path / "data")}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from headrace_cli.main import main; main()", *arguments]


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (0, ("config",)),
        (1, ("kafka", "status")),
        (1, ("publish", "bad.jsonl", *NOBODY)),
        (2, ("publish",)),
        (2, ("config", "--bootstrap", "nowhere")),
        (3, ("topics", "check", *NOBODY)),
        (4, ("publish", "--outbox", "bad.jsonl", *NOBODY)),
    ],
)
def test_each_code_comes_out_of_the_process(
    tmp_path: Path, environment: dict[str, str], code: int, arguments: tuple[str, ...]
) -> None:
    done = subprocess.run(command(*arguments), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code >= 2:
        assert done.stdout == ""
        assert done.stderr.startswith("headrace")
        assert done.stderr.count("\n") == 1


def test_interrupted_is_130(tmp_path: Path, environment: dict[str, str]) -> None:
    with subprocess.Popen(
        command("worker", *NOBODY), cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as worker:
        try:
            assert worker.stderr is not None
            assert "waiting for the broker" in next(worker.stderr)
            worker.send_signal(signal.SIGINT)
            assert worker.wait(30) == 130
            assert "Traceback" not in worker.stderr.read()
        finally:
            worker.kill()
