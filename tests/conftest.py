"""Fixtures that every package's tests share: one real broker for the whole run, a deployment of its own for each test."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from headrace_cli.main import invoke
from headrace_streams.kafka import admin, compat
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings

_NUMBERS = itertools.count(1)

# Wall time of one example says nothing on a machine that runs a broker and a trainer beside it.
hypothesis.settings.register_profile("headrace", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("headrace")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's shell or the runner sets must not reach the code under test."""
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a real Apache Kafka that lives as long as the test run."""
    compat.install()  # as every command does
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka.bootstrap


@pytest.fixture
def deployment() -> str:
    """A name that no other test of this run has."""
    return f"t{next(_NUMBERS)}"


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
