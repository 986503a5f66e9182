"""A real fault of a real worker becomes an alert in a real Prometheus and reaches who is told by a real Alertmanager."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace_schemas.topology import changelog
from headrace_streams.runtime.journal import POSITION_KEY, Position, encode_position
from headrace_streams.settings import Settings
from support.commands import command, free_port, page
from support.live import publish, until
from support.readme import ROOT

PROGRAMS = ("prometheus", "prometheus-alertmanager")
pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"not installed: apt-get install {' '.join(PROGRAMS)}"),
]


@contextmanager
def told() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Who is told: port of a web hook, and the alerts that have come."""
    alerts: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            alerts.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        try:
            yield server.server_address[1], alerts
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def program(folder: Path, *arguments: str) -> Iterator[Path]:
    """A program that runs until the end of the block; the file of its output."""
    log = folder / f"{arguments[0]}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(arguments, cwd=folder, stdout=output, stderr=output)
    try:
        yield log
    finally:
        process.kill()
        process.wait()


def rules_without_patience() -> dict[str, Any]:
    """The alert rules, each after a second instead of minutes."""
    rules: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
    for rule in rules["groups"][0]["rules"]:
        if "for" in rule:
            rule["for"] = "1s"
    return rules


@pytest.mark.slow(seconds=20)
def test_a_refused_task_is_an_alert_that_arrives(settings: Settings, tmp_path: Path) -> None:
    port, prometheus, alertmanager = free_port(), free_port(), free_port()

    async def main(alerts: list[dict[str, Any]]) -> None:
        async def ready() -> bool:
            return (await asyncio.to_thread(page, port, "/readyz"))[0] in (200, 503)

        async def arrived() -> bool:
            return any(alert["labels"]["alertname"] == "HeadraceTaskRefused" for alert in alerts)

        await until(ready)
        assert not await arrived()
        lost = encode_position(Position(next_offset=1000, partitions=2))
        await publish(settings, changelog("reward", "signals").name, 1, [(POSITION_KEY.encode(), lost)])
        await until(arrived, 90)

    with told() as (hook, alerts):
        configs: dict[str, Any] = {
            "rules.yml": rules_without_patience(),
            "prometheus.yml": {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": ["rules.yml"],
                "scrape_configs": [{"job_name": "headrace", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
                "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
            },
            "alertmanager.yml": {
                "route": {"receiver": "hook", "group_by": ["alertname"], "group_wait": "0s", "group_interval": "1s"},
                "receivers": [{"name": "hook", "webhook_configs": [{"url": f"http://127.0.0.1:{hook}/"}]}],
            },
        }
        for name, config in configs.items():
            (tmp_path / name).write_text(yaml.safe_dump(config))
        with (
            program(
                tmp_path, "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=series",
                f"--web.listen-address=127.0.0.1:{prometheus}",
            ) as prometheus_log,
            program(
                tmp_path, "prometheus-alertmanager", "--config.file=alertmanager.yml", "--storage.path=silences",
                f"--web.listen-address=127.0.0.1:{alertmanager}", "--cluster.listen-address=",
            ) as alertmanager_log,
            command(settings, tmp_path, "worker", "--web-port", str(port)),
        ):  # fmt: skip
            try:
                asyncio.run(main(alerts))
            except TimeoutError:
                logs = prometheus_log.read_text()[-2000:] + alertmanager_log.read_text()[-2000:]
                raise AssertionError(f"only {[alert['labels'] for alert in alerts]} came; {logs}") from None
    refused = [alert for alert in alerts if alert["labels"]["alertname"] == "HeadraceTaskRefused"]
    labels = refused[0]["labels"]
    assert (labels["topic"], labels["partition"], labels["deployment"]) == ("signals", "1", settings.deployment)
    assert refused[0]["annotations"]["runbook_url"].endswith("#a-task-is-refused")
