"""Fixtures that every package's tests share: one real broker for the whole run, a deployment of its own for each test.

With several workers (`-n`) the broker is the run's, not a worker's: the controlling process starts it when the first worker asks.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from headrace_cli.main import invoke
from headrace_streams.kafka import admin, compat
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings
from support import shared_kafka
from support.shared_kafka import SharedKafka

# Before anything loads torch, and for what the tests start: tiny models are slower on two threads than on one, and workers that
# take every core each wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is compiled is kept, whatever the runner says: else every worker compiles every test anew, for 2 s of CPU.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A run in the background of a shell ignores Ctrl-C; the commands that tests start would inherit that and never end by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_NUMBERS = itertools.count(1)
_SHARED = pytest.StashKey[SharedKafka]()

# Wall time of one example says nothing on a machine that runs a broker and a trainer beside it.
hypothesis.settings.register_profile("headrace", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("headrace")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """In the controlling process, for each worker: tells it where to ask for the broker."""
    if _SHARED not in node.config.stash:
        node.config.stash[_SHARED] = SharedKafka()
    node.workerinput["kafka"] = node.config.stash[_SHARED].door


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    from support.distribution import ByTest

    return ByTest(config, log)


def pytest_unconfigure(config: pytest.Config) -> None:
    shared = config.stash.get(_SHARED, None)
    if shared is not None:
        shared.stop()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers take what is long first, so that none is left with it at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: -_seconds(item))


def _seconds(item: pytest.Item) -> float:
    mark = item.get_closest_marker("slow")
    return float(mark.kwargs.get("seconds", 5.0)) if mark else 1.0 if item.get_closest_marker("kafka") else 0.0


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's shell or the runner sets must not reach the code under test."""
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a real Apache Kafka that lives as long as the test run."""
    compat.install()  # as every command does
    if hasattr(request.config, "workerinput"):
        yield shared_kafka.address(request.config.workerinput["kafka"])
        return
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka.bootstrap


@pytest.fixture
def deployment() -> str:
    """A name that no other test of this run has."""
    return f"{os.environ.get('PYTEST_XDIST_WORKER', 't')}-{next(_NUMBERS)}"


@pytest.fixture
def settings(broker: str, deployment: str, tmp_path: Path) -> Iterator[Settings]:
    """Settings of `broker` and `deployment`, whose topics exist with 2 partitions, and of a data folder of the test's own."""
    settings = Settings(bootstrap=broker, deployment=deployment, partitions=2, data_dir=tmp_path / "data")
    asyncio.run(admin.declare(settings))
    yield settings
    asyncio.run(admin.delete(settings))


@pytest.fixture
def headrace(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line on the test's deployment: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = invoke([*arguments, "--bootstrap", settings.bootstrap, "--deployment", settings.deployment])
        return code, *capsys.readouterr()

    return run
