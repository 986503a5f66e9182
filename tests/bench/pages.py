"""What each page of the console takes over a lake that is there: as one visitor sees it, and four at once. Knows addresses and
HTTP, no page.

    python tests/bench/pages.py --lake DIR [--deployment lake] [--times 10]

Seconds are of the whole answer, with the queue before it; CPU is of the console's process, one visitor's. Nothing feeds the lake
meanwhile, and the log is not asked: a page of it has no status.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode, urlsplit

sys.path.append(str(Path(__file__).parent.parent))

from bench.bench_stages import load_average
from headrace_cli.common import PROGRAM
from headrace_lake.manifest import LakeFolder
from headrace_lake.query import opened

VISITORS = 4
PATIENCE = 60.0


class Answered(NamedTuple):
    """How long an answer took, in s, its status, and how many bytes it has."""

    seconds: float
    status: int
    size: int


class Visitor:
    """A connection that is kept, signed in."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._host, token = parts.netloc, parts.fragment.partition("token=")[2]
        self._connection = http.client.HTTPConnection(self._host, timeout=PATIENCE)
        body = urlencode({"token": token})
        origin = {"Origin": f"http://{self._host}", "Content-Type": "application/x-www-form-urlencoded"}
        self._connection.request("POST", "/session", body, origin)
        answer = self._connection.getresponse()
        answer.read()
        assert answer.status == 303, answer.status
        self._cookie = (answer.headers["Set-Cookie"] or "").partition(";")[0]

    def get(self, path: str) -> tuple[Answered, bytes]:
        began = time.monotonic()
        self._connection.request("GET", path, headers={"Cookie": self._cookie})
        answer = self._connection.getresponse()
        body = answer.read()
        return Answered(time.monotonic() - began, answer.status, len(body)), body


@contextmanager
def console(lake: Path, deployment: str, bootstrap: str) -> Iterator[tuple[str, int]]:
    """Address and process of a console over a lake that nobody feeds."""
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "-c", PROGRAM, "console", "--no-follow", "--json", "--port", "0"]
        command += ["--lake", str(lake), "--deployment", deployment, "--bootstrap", bootstrap]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "HEADRACE_DATA_DIR": data})
        assert child.stdout is not None
        try:
            yield json.loads(child.stdout.readline())["address"], child.pid
        finally:
            child.terminate()
            child.wait(30)
            child.stdout.close()


def cpu_seconds(process: int) -> float:
    """That a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def most_mib(process: int) -> float:
    return int(Path(f"/proc/{process}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def addresses(visitor: Visitor, lake: Path) -> list[str]:
    """One of every page, and what people ask of those that search."""
    listed = json.loads(visitor.get("/pages?format=json")[1])["pages"]
    found = [each["address"] for each in listed if each["address"] is not None]
    with opened(LakeFolder(lake)) as query:
        rows = query.run(
            "SELECT interaction_id, example_id, bucket, agent FROM examples ORDER BY appended_at, partition, log_offset LIMIT 1"
        ).rows
        feedback = query.run("SELECT feedback_id FROM feedback WHERE feedback_id IS NOT NULL LIMIT 1").rows
        release = query.run("SELECT release_id FROM releases ORDER BY appended_at LIMIT 1").rows
    if rows:
        interaction, example, bucket, agent = (str(each) for each in rows[0])
        asked = [interaction, example, "nobody-has-this-id", "deadbeefdeadbeef"]
        asked += [str(row[0]) for row in (*feedback, *release)]
        found += [f"/find?{urlencode({'what': each})}" for each in asked]
        found += [f"/lineage/{quote(each, safe='')}" for each in (interaction, *(str(row[0]) for row in release))]
        found += [f"/examples/{quote(example, safe='')}"]
        filters: list[dict[str, str]] = [
            {"bucket": bucket}, {"agent": agent}, {"agent": "nobody"}, {"text": "select"}, {"bucket": bucket, "min_reward": "1"},
        ]  # fmt: skip
        found += [f"/examples?{urlencode(each)}" for each in filters]
        found += ["/records/signals", "/records/signals?stage=link", "/records/examples?" + urlencode({"bucket": bucket})]
    return list(dict.fromkeys(found))


def asked_by(visitors: Sequence[Visitor], paths: Sequence[str], times: int) -> dict[str, list[Answered]]:
    """Every page `times` times by each of `visitors`, who begin at different pages."""
    found: dict[str, list[Answered]] = {path: [] for path in paths}

    def ask(number: int) -> None:
        start = number * len(paths) // len(visitors)
        for _ in range(times):
            for path in (*paths[start:], *paths[:start]):
                found[path].append(visitors[number].get(path)[0])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(visitors))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def shares(values: Sequence[Answered]) -> tuple[float, float]:
    """Median and 95th percentile, in ms."""
    ordered = sorted(each.seconds * 1000 for each in values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, required=True)
    parser.add_argument("--deployment", default="lake")
    parser.add_argument("--bootstrap", default="127.0.0.1:1", help="of the log, if it is to be asked (default: nobody)")
    parser.add_argument("--times", type=int, default=10, help="each page, by each visitor (default: %(default)s)")
    given = parser.parse_args()
    with console(given.lake, given.deployment, given.bootstrap) as (address, process):
        visitors = [Visitor(address) for _ in range(VISITORS)]
        paths = addresses(visitors[0], given.lake)
        cpu: dict[str, float] = {}
        for path in paths:
            visitors[0].get(path)  # the first one reads files
            before = cpu_seconds(process)
            for _ in range(3):
                visitors[0].get(path)
            cpu[path] = (cpu_seconds(process) - before) / 3 * 1000
        one, four = asked_by(visitors[:1], paths, given.times), asked_by(visitors, paths, given.times)
        print(f"{len(paths)} pages, {most_mib(process):.0f} MiB at most; {load_average()}\n")
        print(f"| page | CPU ms | one: p50 ms | p95 | {VISITORS} at once: p50 | p95 | KiB | status |")
        print("|---|---:|---:|---:|---:|---:|---:|---|")
        for path in sorted(paths, key=lambda each: -cpu[each]):
            states = "/".join(map(str, sorted({each.status for each in (*one[path], *four[path])})))
            figures = " | ".join(f"{value:.0f}" for value in (cpu[path], *shares(one[path]), *shares(four[path])))
            print(f"| `{path[:90]}` | {figures} | {one[path][0].size / 1024:.0f} | {states} |")
        for name, answers in (("one visitor", one), (f"{VISITORS} visitors", four)):
            middle, most = shares([each for listed in answers.values() for each in listed])
            print(f"\nall pages, {name}: p50 {middle:.0f} ms, p95 {most:.0f} ms")


if __name__ == "__main__":
    main()
