"""The publishers of docs/examples run as they stand on a real Kafka, and intake takes what they send."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from headrace_schemas.codec import decode_input
from headrace_schemas.events import FeedbackRecorded, InteractionRecorded
from headrace_streams.kafka.reader import Reader
from headrace_streams.local_kafka import jars
from headrace_streams.settings import Settings
from support.readme import ROOT

pytestmark = pytest.mark.kafka

EXAMPLES = ROOT / "docs" / "examples"
OFFLINE = re.compile(r"\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH)\b")


def run(arguments: Sequence[str | Path], folder: Path) -> str:
    """Standard output; AssertionError with what was said when the program fails."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, f"{arguments[0]}: {done.stdout}{done.stderr}"
    return done.stdout


def published(settings: Settings, topic: str) -> list[InteractionRecorded | FeedbackRecorded]:
    """The events on a topic as intake reads them. DecodeError when it would not take one."""

    async def read() -> list[InteractionRecorded | FeedbackRecorded]:
        found = []
        async for record in Reader(settings).read_topic(topic):
            event = decode_input(record.value, record.headers, append_time_ms=record.timestamp).event
            assert isinstance(event, InteractionRecorded | FeedbackRecorded)
            found.append(event)
        return found

    return asyncio.run(read())


def taken(settings: Settings, printed: str) -> FeedbackRecorded:
    """The one feedback on the one interaction, whose id was printed."""
    (interaction,) = published(settings, "interactions")
    (feedback,) = published(settings, "feedback")
    assert isinstance(interaction, InteractionRecorded)
    assert isinstance(feedback, FeedbackRecorded)
    assert printed.split() == [interaction.data.interaction_id]
    assert feedback.data.interaction_id == interaction.data.interaction_id
    assert (interaction.data.artifact_type, interaction.data.model) == ("sql", "tiny-sql")
    assert interaction.source.startswith("agent:sql-bot")
    return feedback


def test_the_python_agent(settings: Settings, tmp_path: Path) -> None:
    program = EXAMPLES / "python" / "agent.py"
    printed = run([sys.executable, "-W", "error", program, settings.bootstrap, settings.deployment], tmp_path)
    assert taken(settings, printed).data.kind == "success"


@pytest.mark.slow(20)
def test_the_typescript_publisher(settings: Settings, tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("no node and npm on this machine")
    folder = shutil.copytree(EXAMPLES / "typescript", tmp_path / "publisher", ignore=shutil.ignore_patterns("node_modules"))
    fetched = subprocess.run(
        [npm, "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    if fetched.returncode and (why := OFFLINE.search(fetched.stderr)):
        pytest.skip(f"npm reaches no registry from this machine: {why[0]}")
    assert fetched.returncode == 0, fetched.stderr
    run([npm, "run", "build"], folder)
    feedback = taken(settings, run([node, "publish.js", settings.bootstrap, settings.deployment], folder))
    assert (feedback.data.kind, feedback.data.score, feedback.data.scale) == ("rating", 4.0, (1.0, 5.0))
    assert feedback.data.comment == "right, and “quick” too"


def test_the_lock_of_the_typescript_publisher_names_no_registry() -> None:
    assert "resolved" not in (EXAMPLES / "typescript" / "package-lock.json").read_text()


def test_the_java_publisher(settings: Settings, tmp_path: Path) -> None:
    libraries = [path for path in jars.classpath() if path.name.startswith(("kafka-clients-", "slf4j-"))]
    assert len(libraries) == 3  # the clients, the logging interface and its one binding
    java = jars.find_java()
    if not (java.parent / "javac").exists():
        pytest.skip(f"{java} is no JDK: it compiles nothing")
    (tmp_path / "libs").mkdir()
    for library in libraries:
        (tmp_path / "libs" / library.name).symlink_to(library)
    program = EXAMPLES / "java" / "Publish.java"
    feedback = taken(settings, run([java, "-cp", "libs/*", program, settings.bootstrap, settings.deployment], tmp_path))
    assert (feedback.data.kind, feedback.data.name) == ("validation_failure", "unit_tests")
    assert feedback.data.corrected_output == "select count(*) from orders"
