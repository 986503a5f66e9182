"""Probes and metrics of a real worker and a real trainer: there before anything else is, and right about what is wrong."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace_schemas.topology import changelog
from headrace_streams.kafka import admin
from headrace_streams.runtime.journal import POSITION_KEY, Position, encode_position
from headrace_streams.settings import Settings
from support.commands import command, free_port, page
from support.live import position_of, publish, until

pytestmark = pytest.mark.kafka


async def says(port: int, path: str, status: int, text: str, seconds: float = 60.0) -> str:
    """Waits until a page has that status and that text in it; all of it."""
    seen: tuple[int, str] = (0, "")

    async def said() -> bool:
        nonlocal seen
        seen = await asyncio.to_thread(page, port, path)
        return seen[0] == status and text in seen[1]

    try:
        await until(said, seconds)
    except TimeoutError:
        raise AssertionError(f"{path} says {seen}, not {status} with {text!r}") from None
    return seen[1]


def figure(metrics: str, name: str, **labels: str) -> float:
    """The sum of the samples of a metric with these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    found = [line for line in metrics.splitlines() if line.split("{")[0] == f"headrace_{name}" and all(x in line for x in wanted)]
    assert found, f"no {name} {labels}"
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


@pytest.mark.slow(seconds=10)
def test_a_worker_is_there_before_its_topics_and_ready_when_its_tasks_run(broker: str, deployment: str, tmp_path: Path) -> None:
    settings = Settings(bootstrap=broker, deployment=deployment, partitions=2, data_dir=tmp_path / "data")
    port = free_port()

    async def main() -> None:
        await says(port, "/healthz", 200, "ok")
        await says(port, "/readyz", 503, f"waits for topics: {deployment}.")
        metrics = await says(port, "/metrics", 200, "headrace_joined")
        assert (figure(metrics, "joined"), figure(metrics, "ready")) == (0, 0)
        await admin.declare(settings)
        await says(port, "/readyz", 200, "ready")
        await publish(settings, "interactions", 0, [(None, b"not an event")] * 3)

        async def dead() -> bool:
            return (await position_of(settings, "intake", "interactions", 0)).counters == {"in": 3, "dead": 3}

        await until(dead)
        metrics = await says(port, "/metrics", 200, 'headrace_dead_letters_by_code_total{code="')
        of = {"stage": "intake", "topic": "interactions"}
        assert figure(metrics, "dead_letters_total", partition="0", **of) == 3
        assert figure(metrics, "dead_letters_by_code_total", **of) == 3
        assert figure(metrics, "input_records_total", partition="0", **of) == 3
        assert figure(metrics, "latency_seconds_count", **of) == 3
        assert figure(metrics, "output_records_total", output="dead-letters", **of) == 3
        assert figure(metrics, "commit_seconds_count", **of) >= 3, "two activations and a batch"
        assert figure(metrics, "task_running") == figure(metrics, "task_running", deployment=deployment) == 14
        assert figure(metrics, "input_partitions", partition="1", **of) == 2
        assert figure(metrics, "task_refused") == 0

    with command(settings, tmp_path, "worker", "--web-port", str(port)) as (process, log):
        try:
            asyncio.run(main())
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            lines = log.read_text().splitlines()
            assert ["waiting for topics" in line for line in lines] == [True, False], lines
        finally:
            asyncio.run(admin.delete(settings))


def test_a_worker_without_a_broker_lives_and_says_what_it_waits_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:  # takes connections and never answers
        settings = Settings(bootstrap=f"127.0.0.1:{taken.getsockname()[1]}", data_dir=tmp_path / "data")
        port = free_port()

        async def main() -> None:
            await says(port, "/readyz", 503, f"waits for the broker at {settings.bootstrap}: no answer yet")
            assert page(port, "/healthz") == (200, "ok\n")

        with command(settings, tmp_path, "worker", "--web-port", str(port)) as (process, _):
            asyncio.run(main())
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


@pytest.mark.slow(seconds=10)
def test_a_refused_task_makes_its_process_unready_and_shows_in_metrics(settings: Settings, tmp_path: Path) -> None:
    port = free_port()

    async def main() -> None:
        lost = encode_position(Position(next_offset=1000, partitions=2))
        await publish(settings, changelog("reward", "signals").name, 1, [(POSITION_KEY.encode(), lost)])
        refused = await says(port, "/readyz", 503, "signals/1 is refused")
        assert f"position 1000 is outside the log of {settings.deployment}.signals" in refused
        assert page(port, "/healthz") == (200, "ok\n")
        metrics = page(port, "/metrics")[1]
        assert figure(metrics, "task_refused", topic="signals", partition="0") == 0
        assert figure(metrics, "task_refused", topic="signals", partition="1") == 1
        assert figure(metrics, "task_restarts_total", stage="reward", reason="refused") >= 1

    with command(settings, tmp_path, "worker", "--web-port", str(port)):
        asyncio.run(main())


@pytest.mark.slow(seconds=10)
def test_each_of_several_processes_has_a_port_of_its_own(settings: Settings, tmp_path: Path) -> None:
    port = free_port(2)

    async def main() -> None:
        for number in (port, port + 1):
            await says(number, "/readyz", 200, "ready")

        async def shared() -> bool:
            metrics = [page(number, "/metrics")[1] for number in (port, port + 1)]
            return [figure(text, "task_running") for text in metrics if "headrace_task_running{" in text] == [2, 2]

        await until(shared)

    with command(settings, tmp_path, "worker", "--stages", "intake", "--processes", "2", "--web-port", str(port)):
        asyncio.run(main())


@pytest.mark.slow(seconds=15)
def test_a_trainer_has_the_same_pages(settings: Settings, tmp_path: Path) -> None:
    port = free_port()

    async def main() -> None:
        await says(port, "/healthz", 200, "ok")
        await says(port, "/readyz", 200, "ready", 120)
        metrics = await says(port, "/metrics", 200, "headrace_lag_records{")  # after the first fetch
        assert figure(metrics, "task_running", stage="train", topic="batches") == 2
        assert figure(metrics, "lag_records", stage="train", topic="batches") == 0

    with command(settings, tmp_path, "trainer", "--device", "cpu", "--web-port", str(port)) as (process, _):
        asyncio.run(main())
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@contextmanager
def taken_behind_a_free_one() -> Iterator[int]:
    """A port that is in use, the one before it is not."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port: int = taken.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port - 1)).close()
            except OSError:  # another test's
                continue
            yield port
            return


@pytest.mark.parametrize(
    "arguments", [("worker",), ("worker", "--processes", "2"), ("trainer",)], ids=["worker", "processes", "trainer"]
)
def test_a_port_in_use_ends_a_process_with_one_line(settings: Settings, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with taken_behind_a_free_one() as port:
        first = port - 1 if "--processes" in arguments else port
        with command(settings, tmp_path, *arguments, "--web-port", str(first)) as (process, log):
            assert process.wait(60) == 2
    [line] = log.read_text().splitlines()
    assert line == (
        f"headrace: --web-port {port}: 127.0.0.1 can't be listened on: Address already in use: choose another port or --web-host"
    )
