"""Hostile records on a real broker with a worker and a trainer: none dies or hangs, each record is counted, memory is flat.

python tests/fuzz/on_broker.py --records 1000000 --internal 10000 --seed 1 --report fuzz.jsonl

Records go on in rounds of 10,000, each from its own seed. Each round that ended well is a line of the report; rounds that stand
there already are left out, so that a run goes on where one before it ended. Exit code 1 at the first fault, with its round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from headrace_schemas.topics import TOPICS
from headrace_schemas.topology import DEAD, RECORDS, STAGES_BY_NAME
from headrace_streams.kafka import admin, compat
from headrace_streams.kafka.reader import Reader
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings
from support import hostile, jsonl
from support.raw_produce import produce_raw
from support.ring import Ring

ROUND = 10_000
INTERNAL = [topic.name for topic in TOPICS if topic.name not in (*hostile.INPUTS, "dead-letters")]
PARTITIONS = 4
COMMANDS = (
    *("status", "status --json", "positions list", "topics check", "replay --verify", "replay --out {folder}/rebuilt"),
    *("dead-letters list", "releases list", "dataset sql/tiny --out {folder}/dataset"),
    *("tail --from start --no-follow signals examples outcomes releases", "pause sql/tiny --reason fuzz"),
)
# A machine that does too much at once: transactions time out, and the task's own successor takes over.
MOMENTARY = ("another owner has taken over", "the broker has lost", "KafkaConnectionError", "RequestTimedOutError", "NotLeader")
QUIET_SECONDS = 120.0  # without a step forward: something hangs
RSS_ABOVE_IDLE = 300 * hostile.MIB


class Fault(AssertionError):
    """What must not happen did."""


class Watched:
    """A child process: its status page, and the highest memory that was seen of it."""

    def __init__(self, ring: Ring, command: str, port: int | None) -> None:
        self.name = command.split()[0]
        self._process, self._child, self._port = psutil.Process(ring.children[command].pid), ring.children[command], port
        self._ring = ring
        self.peak = self.restarts = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            try:
                self.peak = max(self.peak, self.rss())
            except psutil.Error:
                return
            time.sleep(0.02)

    def rss(self) -> int:
        return int(self._process.memory_info().rss)

    def tasks(self) -> list[dict[str, Any]]:
        """From memory, not from changelogs. Fault when it died, or a task ended."""
        if self._child.poll() is not None:
            raise Fault(f"{self.name} ended with {self._child.returncode}:\n{self._ring.log(self.name)[-3000:]}")
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/status", timeout=30) as reply:
            tasks: list[dict[str, Any]] = json.load(reply)["tasks"]
        for slot in tasks:
            if slot["ended"] or (slot["error"] and not any(word in slot["error"] for word in MOMENTARY)):
                raise Fault(f"{self.name}: {slot}\n{self._ring.log(self.name)[-3000:]}")
        self.restarts = sum(slot["restarts"] for slot in tasks)
        return tasks


async def publish(settings: Settings, topic: str, seed: str, count: int) -> int:
    """A round's records of a topic, over all its partitions: how many of them the broker took. It refuses what is too large."""
    partitions = await Reader(settings).partitions(topic)
    by_partition: dict[int, list[hostile.HostileBatch]] = {number: [] for number in range(partitions)}
    for number, batch in enumerate(hostile.batches(topic, seed, count)):
        by_partition[number % partitions].append(batch)
    taken = 0
    for number, batches in by_partition.items():
        refused = await produce_raw(settings, topic, number, *(batch.data for batch in batches))
        taken += sum(batch.records for index, batch in enumerate(batches) if index not in refused)
    return taken


async def wait_until_counted(worker: Watched, settings: Settings) -> dict[str, dict[str, int]]:
    """Until no task has anything left; counters by stage. Fault when nothing moves, or boxes do not add up."""
    last, moved, quiet = 0, time.monotonic(), 0
    while True:
        await asyncio.sleep(0.5)
        tasks = [slot["task"] for slot in worker.tasks() if slot["task"] is not None]
        position = sum(task["next_offset"] for task in tasks)
        if position != last:
            last, moved = position, time.monotonic()
        lag = [f"{task['stage']}/{task['topic']}/{task['partition']} {task['lag']}" for task in tasks if task["lag"] != 0]
        quiet = 0 if lag or not tasks else quiet + 1
        if quiet >= 3:
            break
        if time.monotonic() - moved > QUIET_SECONDS:
            raise Fault(f"nothing moved for {QUIET_SECONDS:g} s: {lag}\n{worker._ring.log('worker')[-2000:]}")
    by_stage: dict[str, dict[str, int]] = {}
    for task in tasks:
        counters = task["counters"]
        accounted = sum(counters.get(name, 0) for name in (*STAGES_BY_NAME[task["stage"]].counters, DEAD))
        if counters.get(RECORDS, 0) != accounted:
            raise Fault(f"{task['stage']}/{task['topic']}/{task['partition']}: {counters} do not add up")
        total = by_stage.setdefault(task["stage"], {})
        for name, count in counters.items():
            total[name] = total.get(name, 0) + count
    return by_stage


@contextmanager
def running(settings: Settings, folder: Path) -> Iterator[tuple[Ring, Watched, Watched]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Ring(settings, folder) as ring:
        worker, trainer = f"worker --web-port {port}", "trainer"
        ring.start(worker, trainer)
        yield ring, Watched(ring, worker, port), Watched(ring, trainer, None)


async def _idle(worker: Watched) -> int:
    """Memory once every task runs."""
    deadline = time.monotonic() + 120
    while True:
        await asyncio.sleep(0.5)
        try:
            tasks = worker.tasks()
        except OSError:
            tasks = []
        if len(tasks) >= 6 * PARTITIONS and all(slot["task"] and slot["task"]["phase"] == "running" for slot in tasks):
            await asyncio.sleep(2)
            return worker.rss()
        if time.monotonic() > deadline:
            raise Fault(f"the worker did not start: {tasks}")


async def fuzz(settings: Settings, folder: Path, seed: int, records: int, internal: int, report: Path) -> None:
    done = {(line["seed"], line["round"]) for line in jsonl.read(report)}
    rounds: list[tuple[str, list[tuple[str, int]]]] = [
        (f"{seed}/{number}", [(topic, ROUND // len(hostile.INPUTS)) for topic in hostile.INPUTS])
        for number in range(records // ROUND)
    ]
    if internal:
        rounds += [(f"{seed}/{topic}", [(topic, internal)]) for topic in INTERNAL]
    with running(settings, folder) as (ring, worker, trainer):
        idle, published = await _idle(worker), 0
        print(f"idle: {idle // hostile.MIB} MiB, {len(rounds)} rounds, {len(done)} of them done before", flush=True)
        for name, load in rounds:
            if (seed, name) in done:
                continue
            started = time.monotonic()
            taken = 0
            for topic, count in load:
                taken += (sent := await publish(settings, topic, name, count))
                published += sent if topic in hostile.INPUTS else 0
            counters = await wait_until_counted(worker, settings)
            if counters["intake"].get(RECORDS, 0) != published:
                raise Fault(f"round {name}: intake counted {counters['intake']}, {published} were published")
            ring.check_alive()
            if worker.peak > idle + RSS_ABOVE_IDLE:
                print(f"round {name}: memory {(worker.peak - idle) // hostile.MIB} MiB above idle", flush=True)
            line = {
                "seed": seed, "round": name, "records": taken, "seconds": round(time.monotonic() - started, 1),
                "idle_mib": idle // hostile.MIB, "peak_mib": worker.peak // hostile.MIB, "rss_mib": worker.rss() // hostile.MIB,
                "trainer_peak_mib": trainer.peak // hostile.MIB, "restarts": worker.restarts, "counters": counters,
            }  # fmt: skip
            jsonl.add(report, line)
            print({name: value for name, value in line.items() if name != "counters"}, flush=True)
        print(f"stages: {await wait_until_counted(worker, settings)}")
        check_commands(ring)
        for command in ("worker", "trainer"):
            if "Traceback" in ring.log(command):
                raise Fault(f"{command} wrote a traceback:\n{ring.log(command)[-5000:]}")


def check_commands(ring: Ring) -> None:
    """What people ask of such a log is answered: forged records on our topics are differences (1), no traceback."""
    for command in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-c", "from headrace_cli.main import main; main()", *command.format(folder=ring.folder).split()],
            env=ring.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1) or "Traceback" in done.stderr:
            raise Fault(f"headrace {command} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        print(f"headrace {command}: {done.returncode}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000, help="on the inputs (default: %(default)s)")
    parser.add_argument("--internal", type=int, default=10_000, help="on each internal topic (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, default=Path("fuzz.jsonl"))
    given = parser.parse_args()
    compat.install()
    with tempfile.TemporaryDirectory(prefix="headrace-fuzz-") as folder, LocalKafka(Path(folder) / "kafka") as kafka:
        settings = Settings(bootstrap=kafka.bootstrap, deployment="fuzz", partitions=PARTITIONS, data_dir=Path(folder) / "data")

        async def run() -> None:
            await admin.declare(settings)
            await fuzz(settings, Path(folder) / "ring", given.seed, given.records, given.internal, given.report)

        try:
            asyncio.run(run())
        except Fault as fault:
            sys.exit(f"fault: {fault}")
    lines = [line for line in jsonl.read(given.report) if line["seed"] == given.seed]
    above = max(line["peak_mib"] - line["idle_mib"] for line in lines)
    print(f"seed {given.seed}: {sum(line['records'] for line in lines)} records, highest memory {above} MiB above idle")


if __name__ == "__main__":
    main()
