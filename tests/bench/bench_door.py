"""What an accepted event costs an agent: CPU of the whole process per event, against a bare SQLite store of the same durability.

The bare store writes the same bytes into the same table, each in a transaction of its own, `synchronous=FULL`: one INSERT, one
fsync. The Recorder has no broker to send to, so that both only accept. One thread and eight.

    python tests/bench/bench_door.py [--runs 5] [--count 4000]
"""

from __future__ import annotations

import logging
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import headrace
from bench.common import arguments, line
from headrace.publishing import EventFactory

NOWHERE = "127.0.0.1:1"
Accept = Callable[[int], object]
logging.getLogger("headrace").setLevel(logging.CRITICAL)


def fields(number: int) -> dict[str, object]:
    prompt = f"How many orders were placed in {number} by customers from the north? " * 4
    output = f"SELECT count(*) FROM orders WHERE year = {number} " * 4
    return {"artifact_type": "sql", "model": "tiny", "prompt": prompt, "output": output, "session_id": f"s{number % 50}"}


def bare(path: Path) -> tuple[Accept, Callable[[], object]]:
    event, _ = EventFactory("bot").interaction(fields(1), None, None)
    database, lock = sqlite3.connect(path, isolation_level=None, check_same_thread=False), threading.Lock()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "fullfsync=1"):
        database.execute(f"PRAGMA {pragma}").fetchall()
    database.execute("CREATE TABLE waiting (seq INTEGER PRIMARY KEY, topic TEXT, key BLOB, value BLOB)")

    def accept(_: int) -> None:
        with lock:
            database.execute("INSERT INTO waiting (topic, key, value) VALUES (?, ?, ?)", ("interactions", event.key, event.value))

    return accept, database.close


def door(path: Path) -> tuple[Accept, Callable[[], object]]:
    recorder = headrace.Recorder(NOWHERE, agent="bot", outbox=path)
    return lambda number: recorder.interaction(**fields(number)), lambda: recorder.close(0)  # type: ignore[arg-type]


def measured(make: Callable[[Path], tuple[Accept, Callable[[], object]]], threads: int, count: int) -> tuple[float, float]:
    """(CPU, wall) in microseconds per event."""
    with tempfile.TemporaryDirectory() as folder:
        accept, close = make(Path(folder) / "outbox.db")
        for number in range(50):
            accept(number)
        time.sleep(0.5)  # the sender's thread has imported its client by then
        workers = [
            threading.Thread(target=lambda: [accept(number) for number in range(count // threads)]) for _ in range(threads)
        ]
        cpu, wall = time.process_time(), time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        found = time.process_time() - cpu, time.perf_counter() - wall
        close()
    return found[0] / count * 1e6, found[1] / count * 1e6


def main() -> None:
    runs, count = arguments(__doc__, 4000)
    for threads in (1, 8):
        found = [(measured(bare, threads, count), measured(door, threads, count)) for _ in range(runs)]  # side by side
        for kind, at in (("CPU", 0), ("wall", 1)):
            store, ours = [one[0][at] for one in found], [one[1][at] for one in found]
            line(f"bare store, {threads} threads, {kind}", store, "us/event")
            line(f"Recorder, {threads} threads, {kind}", ours, "us/event", ("the bare store", store))


if __name__ == "__main__":
    main()
