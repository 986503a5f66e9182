"""What a process says of itself: readiness and metrics from a report, meters, and the web site around them. No broker."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from headrace_schemas.codec import encode
from headrace_schemas.derived import RecordError
from headrace_streams.monitoring import site as site_module
from headrace_streams.monitoring.metrics import exposition_of
from headrace_streams.monitoring.readiness import reasons_not_ready
from headrace_streams.monitoring.site import PortTaken, Site
from headrace_streams.runtime.meters import CODES, Histogram, StageMeter
from headrace_streams.runtime.stage import Record
from headrace_streams.runtime.status import RestoreReport, SlotReport, TaskReport, WorkerReport
from headrace_streams.runtime.step import Produced, dead_letter

COUNTERS = {"in": 9, "applied": 7, "waiting": 1, "dead": 1, "delay_60s": 2, "delay_over": 1, "delay_sum_ms": 1500}
TASK = TaskReport(
    stage="reward", topic="signals", partition=1, phase="running", next_offset=40, lag=3, lag_seconds=1.5, now=1_790_000_000_000,
    state_keys=7, counters=COUNTERS, partitions=4, committed=1_790_000_001.0,
    restore=RestoreReport(seconds=0.25, records=12, keys=7, bytes=700),
    buckets=1, gauges={"sql/tiny": {"fill": 2.5, "target": 64}},
)  # fmt: skip


def slot(task: TaskReport | None = TASK, **changed: object) -> SlotReport:
    given = {"topic": "signals", "partition": 1, "task": task, "restarts": 0, "error": None, "ended": None, **changed}
    return SlotReport(**given)  # type: ignore[arg-type]


def report(*slots: SlotReport, away: str | None = None, waiting: str | None = None) -> WorkerReport:
    return WorkerReport(group="d.worker", broker="b:9092", away=away, waiting=waiting, tasks=slots)


def samples(body: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def phase(name: str) -> TaskReport:
    return TaskReport(stage="reward", topic="signals", partition=1, phase=name)


@pytest.mark.parametrize(
    ("told", "reasons"),
    [
        (report(), []),
        (report(slot()), []),
        (report(slot(ended="done")), []),
        (report(slot(phase("waiting for release"))), []),
        (report(away="no answer within 5 s"), ["the broker at b:9092 is away: no answer within 5 s"]),
        (report(waiting="for topics: x: missing"), ["waits for topics: x: missing"]),
        (report(slot(None)), ["signals/1 is starting"]),
        (report(slot(phase("restoring"))), ["signals/1 is restoring"]),
        (
            report(slot(phase("stopped"), restarts=3, error="no leader")),
            ["signals/1 is stopped, started 3 times again: no leader"],
        ),
        (report(slot(phase("stopped"), ended="refused", error="do this")), ["signals/1 is refused: do this"]),
    ],
)
def test_a_process_is_ready_when_its_tasks_run_and_says_why_it_is_not(told: WorkerReport, reasons: list[str]) -> None:
    assert reasons_not_ready(told) == reasons


def test_every_figure_of_a_task_is_a_metric_with_bounded_labels() -> None:
    meter = StageMeter()
    meter.committed(0.02, [Produced("examples", 0, b"k", b"{}", ())] * 2)
    meter.folded([1000, 1000, 1400], 1500)
    meter.restarted("fenced")
    meter.trained("trained", 12.0)
    body, content_type = exposition_of(report(slot()), {("reward", "signals"): meter}, "shop", "text/plain")
    assert content_type.startswith("text/plain; version=")
    found = samples(body)
    task = {("deployment", "shop"), ("stage", "reward"), ("topic", "signals"), ("partition", "1")}
    stage = task - {("partition", "1")}

    def of(name: str, labels: set[tuple[str, str]]) -> float:
        return found[f"headrace_{name}", frozenset(labels)]

    assert of("input_records_total", task) == 9
    assert of("dead_letters_total", task) == 1
    assert of("outcomes", task | {("outcome", "applied")}) == 7
    assert of("outcomes", task | {("outcome", "waiting")}) == 1
    assert of("feedback_delay_seconds_bucket", task | {("le", "15")}) == 0
    assert of("feedback_delay_seconds_bucket", task | {("le", "60")}) == 2
    assert of("feedback_delay_seconds_count", task) == 3
    assert of("feedback_delay_seconds_sum", task) == 1.5
    assert not [labels for name, labels in found if name == "headrace_outcomes" and "delay" in str(labels)]
    figures = {
        "task_running": 1, "lag_records": 3, "lag_seconds": 1.5, "last_commit_timestamp_seconds": 1_790_000_001,
        "fold_timestamp_seconds": 1_790_000_000, "input_partitions": 4, "state_keys": 7, "state_restored_bytes": 700,
        "restore_seconds": 0.25, "restored_records": 12, "buckets": 1,
    }  # fmt: skip
    assert {name: of(name, task) for name in figures} == figures
    bucket = stage | {("bucket", "sql/tiny")}
    assert (of("bucket_fill", bucket), of("bucket_target", bucket)) == (2.5, 64)
    assert of("task_refused", {("deployment", "shop"), ("topic", "signals"), ("partition", "1")}) == 0
    assert (of("ready", {("deployment", "shop")}), of("joined", {("deployment", "shop")})) == (1, 1)
    assert of("commit_seconds_bucket", stage | {("le", "0.01")}) == 0
    assert of("commit_seconds_bucket", stage | {("le", "0.025")}) == 1
    assert of("latency_seconds_bucket", stage | {("le", "0.1")}) == 1
    assert of("latency_seconds_bucket", stage | {("le", "0.5")}) == of("latency_seconds_count", stage) == 3
    assert of("latency_seconds_sum", stage) == pytest.approx(1.1)
    assert of("output_records_total", stage | {("output", "examples")}) == 2
    assert of("task_restarts_total", stage | {("reason", "fenced")}) == 1
    assert of("training_seconds_count", {("deployment", "shop"), ("outcome", "trained")}) == 1


def test_open_metrics_are_given_to_who_asks_for_them() -> None:
    body, content_type = exposition_of(report(), {}, "shop", "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_dead_letters_are_told_apart_by_code_up_to_a_bound() -> None:
    meter = StageMeter()
    record = Record("interactions", 0, 5, 1, 1, None, b"x" * 100)

    def letter(code: str) -> Produced:
        value = dead_letter("intake", record, RecordError(code=code, message='says "code":"other"')).value
        return Produced("dead-letters", 0, b"k", value if isinstance(value, bytes) else encode(value), ())

    meter.committed(0.1, [letter("future_time"), letter("future_time"), Produced("dead-letters", 0, b"k", b"?", ())])
    assert meter.dead == {"future_time": 2, "other": 1}
    meter.committed(0.1, [letter(f"code_{number}") for number in range(2 * CODES)])
    assert len(meter.dead) == CODES
    assert meter.dead.total() == 3 + 2 * CODES


def test_an_observation_at_a_bound_is_within_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.1):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == pytest.approx(6.6)


def get(port: int, path: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


@contextmanager
def served(told: WorkerReport) -> Iterator[tuple[int, asyncio.AbstractEventLoop]]:
    """A site over a report, and the loop that it asks."""
    site, loop, ready = Site("127.0.0.1", 0, "shop"), asyncio.new_event_loop(), threading.Event()

    def run() -> None:
        async def serve() -> None:
            site.serve(lambda: told)
            ready.set()

        loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait(10)
    try:
        yield site.port, loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        site.close()
        loop.close()


def test_the_site_answers_probes_metrics_and_status() -> None:
    with served(report(slot(), slot(phase("restoring")))) as (port, _):
        assert get(port, "/healthz") == (200, "text/plain; charset=utf-8", "ok\n")
        assert get(port, "/readyz")[::2] == (503, "signals/1 is restoring\n")
        status, kind, body = get(port, "/status?x=1")
        assert (status, kind, json.loads(body)["tasks"][0]["task"]["counters"]["applied"]) == (200, "application/json", 7)
        assert "headrace_lag_seconds{" in get(port, "/metrics")[2]
        assert "process_resident_memory_bytes" in get(port, "/metrics")[2]
        assert get(port, "/")[0] == 404
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}/healthz", method="HEAD"), timeout=20
        ) as reply:
            assert (reply.status, reply.read()) == (200, b"")


def test_a_loop_that_does_not_turn_is_not_healthy_and_the_site_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_module, "PATIENCE_SECONDS", 0.2)
    released = threading.Event()
    with served(report()) as (port, loop):
        loop.call_soon_threadsafe(released.wait, 60)
        try:
            for path in ("/healthz", "/readyz", "/metrics"):
                assert get(port, path)[::2] == (503, "the event loop has not turned for 0.2 s\n")
        finally:
            released.set()
        deadline = time.monotonic() + 20
        while get(port, "/healthz")[0] != 200:
            assert time.monotonic() < deadline


def test_clients_that_say_nothing_keep_nobody_out_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_module, "CONNECTIONS", 2)
    monkeypatch.setattr(site_module._Handler, "timeout", 0.3)
    with served(report()) as (port, _):
        silent = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(2)]
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    assert get(port, "/healthz")[0] == 200
                    break
                except (OSError, urllib.error.URLError):
                    assert time.monotonic() < deadline
        finally:
            for connection in silent:
                connection.close()


def test_a_port_in_use_is_one_line_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            PortTaken, match=rf"^--web-port {port}: 127.0.0.1 can't be listened on: Address already in use: choose"
        ):
            Site("127.0.0.1", port, "shop")
    with pytest.raises(PortTaken, match=r"^--web-port 1: 192.0.2.1 can't be listened on: "):
        Site("192.0.2.1", 1, "shop")
