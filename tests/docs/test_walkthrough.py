"""What README shows is run as it stands: the Python example, and every command of "step by step" in its order, on a real Kafka
with nothing set but where things are. Small data, a base made on the spot."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_schemas.codec import decode
from headrace_schemas.events import FeedbackRecorded, InteractionRecorded, ReleasePromoted
from headrace_streams.kafka import admin
from headrace_streams.kafka.reader import Reader
from headrace_streams.settings import Settings
from support import fake_pip, readme, tiny, training_data
from support.released import BUCKET, adapter, event, release, write

pytestmark = pytest.mark.kafka

DEADLINE = 240.0
HEADRACE = (sys.executable, "-c", "from headrace_cli.main import main; main()")
ANSWERED = ("headrace.release.promoted.v1", "headrace.release.declined.v1")


@pytest.fixture
def headrace_deployment(broker: str, tmp_path: Path) -> Iterator[Settings]:
    """The deployment that a newcomer has without setting anything."""
    settings = Settings(bootstrap=broker, partitions=2, data_dir=tmp_path / "home" / "headrace")
    asyncio.run(admin.declare(settings))
    yield settings
    asyncio.run(admin.delete(settings))


def test_the_python_example_runs(headrace_deployment: Settings, tmp_path: Path) -> None:
    settings = headrace_deployment
    made = adapter(settings, tmp_path / "made")
    write(settings, "releases", BUCKET, event(ReleasePromoted, release(1, made)))
    program = readme.block("import headrace", "python")
    assert program.count('"127.0.0.1:9092"') == 2
    program = program.replace("127.0.0.1:9092", settings.bootstrap) + "\nprint(release.digest, folder)\nreleases.close()\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    digest, folder = done.stdout.split()
    assert digest == made.digest
    assert {path.name for path in Path(folder).iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}

    async def published(topic: str) -> list[object]:
        return [decode(record.value) async for record in Reader(settings).read_topic(topic)]

    (interaction,) = asyncio.run(published("interactions"))
    (feedback,) = asyncio.run(published("feedback"))
    assert isinstance(interaction, InteractionRecorded)
    assert isinstance(feedback, FeedbackRecorded)
    assert feedback.data.interaction_id == interaction.data.interaction_id
    assert (tmp_path / "outbox.db").exists()


class Shell:
    """One session of a shell that README's commands are pasted into: folder and variables go on from line to line, and what ends
    with & runs until `end`."""

    def __init__(self, folder: Path, environment: dict[str, str], state: Path) -> None:
        self.folder, self.environment, self._state = folder, environment, state
        self.background: list[subprocess.Popen[bytes]] = []
        state.mkdir()

    def line(self, text: str) -> str:
        """Standard output; AssertionError unless the exit code is 0."""
        if text.startswith("kill %"):
            self.end()
            return ""
        if text.endswith("&"):
            with (self._state / "background.log").open("ab") as log:
                started = subprocess.Popen(
                    ["/bin/sh", "-c", f"exec {text.rstrip('& ')}"], cwd=self.folder, env=self.environment, stdout=log, stderr=log
                )
            self.background.append(started)
            return ""
        done = subprocess.run(
            ["/bin/sh", "-ec", f"{text}\nenv -0 > '{self._state}/variables'\npwd > '{self._state}/folder'"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{text}: {done.stdout}{done.stderr}{self.log()}"
        variables = (self._state / "variables").read_text().split("\0")
        self.environment = dict(variable.split("=", 1) for variable in variables if variable)
        self.folder = Path((self._state / "folder").read_text().rstrip("\n"))
        return done.stdout

    def log(self) -> str:
        path = self._state / "background.log"
        return path.read_text()[-3000:] if path.exists() else ""

    def end(self) -> None:
        for started in self.background:
            started.terminate()
        for started in self.background:
            assert started.wait(60) == 0, self.log()
        self.background.clear()

    def kill(self) -> None:
        for started in self.background:
            started.kill()
            started.wait()
        subprocess.run([*HEADRACE, "kafka", "stop"], cwd=self.folder, env=self.environment, capture_output=True, check=False)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """In a fresh clone, with nothing set but which port is free and where a user's things are. `make install` gets its packages
    from the environment that runs this test."""
    clone = tmp_path / "clone"
    shutil.copytree(readme.ROOT, clone, ignore=shutil.ignore_patterns(".?*", "__pycache__", "tests"))
    fake_pip.write(
        tmp_path / "fake",
        scripts={"headrace": "#!PYTHON\nfrom headrace_cli.main import main\nif __name__ == '__main__':\n    main()\n"},
        imports=[*(str(path.parent) for path in sorted(clone.glob("*/headrace*/"))), sysconfig.get_path("purelib")],
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "VIRTUAL_ENV"))},
        "PYTHON": sys.executable,
        "PYTHONPATH": str(tmp_path / "fake"),
        "DISK_GB": "0",
        "HEADRACE_BOOTSTRAP": f"127.0.0.1:{port}",
        "XDG_DATA_HOME": str(tmp_path / "share"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "OMP_NUM_THREADS": "1",
    }
    shell = Shell(clone, environment, tmp_path / "shell")
    yield shell
    shell.kill()


def events(count: int) -> str:
    """Questions of `tiny-sql` that its answers are right about, as other publishers write them."""
    lines = []
    for number in range(count):
        said = training_data.example(number).content
        data = {
            "interaction_id": f"i{number}", "agent": {"name": "adder"}, "artifact_type": "sql", "model": "tiny-sql",
            "prompt": said.prompt, "output": said.target,
        }  # fmt: skip
        judged = {"interaction_id": f"i{number}", "kind": "success", "score": 100 if number % 5 else 0}
        for name, body in (("interaction", data), ("feedback", judged)):
            envelope = {"specversion": "1.0", "id": f"{name}-{number}", "source": "agent:walk"}
            lines.append(json.dumps({**envelope, "type": f"headrace.{name}.recorded.v1", "data": body}))
    return "\n".join(lines) + "\n"


@pytest.mark.timeout(600)
@pytest.mark.slow(seconds=40)
def test_step_by_step_from_a_clone(shell: Shell) -> None:
    """Every line of README in its order. On the way the reader gives the weights and the policy that it shows, and the agent goes
    on."""
    clone, said = shell.folder, {}
    for line in readme.commands(readme.block("headrace kafka start")):
        if line.startswith("headrace worker"):
            assert shell.folder == clone / "mine"
            shutil.copytree(tiny.build(clone / "built"), shell.folder / "models" / "tiny-sql")
            (shell.folder / "policy.toml").write_text(readme.block("# policy.toml", "toml"))
        said[line] = shell.line(line.replace("headrace console", "headrace console --port 0"))  # of several tests at once
    assert said["headrace publish events.jsonl"] == "2 interactions, 2 feedback\n"
    wait_for_a_reason(shell, "i-2", "rejected: duplicate")
    assert "outputs equal" in said["headrace replay --verify"]
    assert shutil.which("headrace", path=shell.environment["PATH"]) == str(clone / ".venv" / "bin" / "headrace")

    (shell.folder / "more.jsonl").write_text(events(100))
    shell.line("headrace publish more.jsonl")
    wait_for_an_answer(shell)
    status = shell.line("headrace status")
    assert "sql/tiny-sql" in status
    assert "NOT ACCOUNTED FOR" not in status
    assert "outputs equal" in shell.line("headrace replay --verify")
    for line in readme.commands(readme.block("headrace dataset")):
        shell.line(line)
    (written,) = (shell.folder / "data").glob("train.jsonl")
    rows = [json.loads(row) for row in written.read_text().splitlines()]
    assert len(rows) >= 32
    assert all(row["bucket"] == "sql/tiny-sql" for row in rows)


def wait_for_a_reason(shell: Shell, interaction: str, expected: str) -> None:
    """Until what the console feeds says what became of an interaction, and that is what a reader is promised."""
    deadline = time.monotonic() + DEADLINE
    while expected not in (said := shell.line(f"headrace explain {interaction} || true")):
        assert time.monotonic() < deadline, said + shell.log()
        time.sleep(1)


def wait_for_an_answer(shell: Shell) -> None:
    """Until the first version has been promoted or declined."""
    deadline = time.monotonic() + DEADLINE
    while True:
        assert all(started.poll() is None for started in shell.background), shell.log()
        answers = [
            json.loads(row) for row in shell.line("headrace tail releases.history --from start --no-follow --json").splitlines()
        ]
        if any(answer["event"]["type"] in ANSWERED for answer in answers):
            return
        assert time.monotonic() < deadline, shell.log() + shell.line("headrace status")
        time.sleep(1)
