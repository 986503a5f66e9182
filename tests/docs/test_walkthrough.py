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
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_schemas.codec import decode
from headrace_schemas.events import FeedbackRecorded, InteractionRecorded, ReleasePromoted
from headrace_streams.kafka import admin
from headrace_streams.kafka.reader import Reader
from headrace_streams.settings import Settings
from support import readme, tiny, training_data
from support.released import BUCKET, adapter, event, release, write

pytestmark = pytest.mark.kafka

DEADLINE = 240.0
ANSWERED = ("headrace.release.promoted.v1", "headrace.release.declined.v1")


@pytest.fixture
def headrace_deployment(broker: str, tmp_path: Path) -> Iterator[Settings]:
    """The deployment that a newcomer has without setting anything."""
    settings = Settings(bootstrap=broker, partitions=2, data_dir=tmp_path / "data")
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
        env={**os.environ, "HEADRACE_DATA_DIR": str(tmp_path / "reader"), "XDG_CACHE_HOME": str(tmp_path / "cache")},
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
    """Runs README's lines in one folder; a line that ends with & stays until the end. `headrace` is the one under test."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.background: list[subprocess.Popen[bytes]] = []

    def line(self, text: str) -> str:
        """Standard output; AssertionError unless the exit code is 0."""
        if text.startswith("export "):
            name, _, value = text.removeprefix("export ").partition("=")
            self.environment[name] = value
            return ""
        if text.endswith("&"):
            with (self.folder / "background.log").open("ab") as log:
                started = subprocess.Popen(
                    ["/bin/sh", "-c", f"exec {text.rstrip('& ')}"], cwd=self.folder, env=self.environment, stdout=log, stderr=log
                )
            self.background.append(started)
            return ""
        done = subprocess.run(
            ["/bin/sh", "-c", text],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{text}: {done.stderr}{self.log()}"
        return done.stdout

    def log(self) -> str:
        path = self.folder / "background.log"
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
        subprocess.run(["headrace", "kafka", "stop"], cwd=self.folder, env=self.environment, capture_output=True, check=False)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    scripts = Path(sys.executable).parent
    assert (scripts / "headrace").exists()
    environment = {
        **os.environ,
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "HEADRACE_BOOTSTRAP": f"127.0.0.1:{port}",
        "HEADRACE_DATA_DIR": str(tmp_path / "state"),
        "OMP_NUM_THREADS": "1",
    }
    shell = Shell(tmp_path, environment)
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
def test_step_by_step_from_an_empty_folder(shell: Shell) -> None:
    shown = readme.commands(readme.block("headrace kafka start"))
    install, *lines = shown
    assert install == "pip install 'headrace[all]'"  # what runs here is installed already
    (shell.folder / "policy.toml").write_text(readme.block("# policy.toml", "toml"))
    shutil.copytree(tiny.build(shell.folder / "built"), shell.folder / "models" / "tiny-sql")
    (shell.folder / "events.jsonl").write_text(events(100))
    said: dict[str, str] = {}
    for line in lines:
        if line == "headrace kafka stop":
            shell.end()
        said[line] = shell.line(line)
        if line.startswith("headrace publish"):
            wait_for_an_answer(shell)
    assert said["headrace publish events.jsonl"] == "100 interactions, 100 feedback\n"
    assert "sql/tiny-sql" in said["headrace status"]
    assert "NOT ACCOUNTED FOR" not in said["headrace status"]
    assert "outputs equal" in said["headrace replay --verify"]
    (written,) = (shell.folder / "data").glob("train.jsonl")
    rows = [json.loads(row) for row in written.read_text().splitlines()]
    assert len(rows) >= 32
    assert all(row["bucket"] == "sql/tiny-sql" for row in rows)


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
