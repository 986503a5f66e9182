"""One job (job.py) in Headrace's runtime and in its peers: CPU per event without the broker, events per core, ratio to the best.

    python -m venv /tmp/peers && /tmp/peers/bin/pip install quixstreams==3.28.1 bytewax==0.21.1 faust-streaming==0.15.3 \\
        confluent-kafka msgspec                        # never into the project's environment
    python tests/bench/peers/compare.py --peers /tmp/peers/bin/python [--jars FOLDER] [--only NAME] [--runs N] [--count EVENTS]

`--jars`: a folder with kafka-streams and rocksdbjni of Kafka's version, from Maven's central repository, for Kafka Streams; it
needs a JDK. A peer that can't be run is named and left out. Four partitions, one process each, every process on topics of its
own. It is started, takes as many events as are counted later (so that what is compiled on the way is warm), then CPU is counted
while the next `count` events go through, until the last output is there, and two seconds more, in which those that write state
later than output do so. Delivery as each does it best: exactly once in Headrace, Quix Streams and Kafka Streams, at least once
in Bytewax and Faust.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).parent.parent.parent))

import psutil
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic

from bench import common, load
from bench.bench_stages import load_average
from headrace_schemas.topics import BY_NAME
from headrace_schemas.topology import changelog
from headrace_streams.kafka import admin, clients
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.local_kafka.jars import classpath
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.runtime.journal import BATCH_BYTES
from headrace_streams.settings import Settings

HERE = Path(__file__).parent
PARTITIONS = 4
DEADLINE = 60.0
STILL = 6.0  # longer than a commit interval
SETTLE = 2.0
TOPICS = ("signals", "examples", "rules", "dead-letters")


class Peer(NamedTuple):
    name: str
    guarantee: str
    command: list[str]


def peers(python: str | None, jars: Path | None, folder: Path) -> list[Peer]:
    """Those that can be run here."""
    found = [Peer("Headrace", "exactly once", [sys.executable, str(HERE / "headrace_peer.py")])]
    others = (
        ("Quix Streams", "quixstreams", "exactly once", ["quix_peer.py"]),
        ("Bytewax", "bytewax", "at least once", ["bytewax_peer.py"]),
        ("Faust", "faust", "at least once", ["faust_peer.py", "worker", "-l", "error", "--without-web"]),
    )
    for name, module, guarantee, (script, *options) in others:
        if python is None or subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode:
            print(f"{name}: left out: not in the environment of --peers")
        else:
            found.append(Peer(name, guarantee, [python, str(HERE / script), *options]))
    if jars is None:
        print("Kafka Streams: left out: no --jars")
        return found
    path = ":".join(map(str, [*jars.glob("*.jar"), *classpath(), folder]))
    subprocess.run(["javac", "-cp", path, "-d", str(folder), str(HERE / "StreamsPeer.java")], check=True)
    java = ["java", "-XX:+UseSerialGC", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", path, "StreamsPeer"]
    return [*found, Peer("Kafka Streams", "exactly once", java)]


@contextmanager
def running(peer: Peer, environment: dict[str, str], log: Path) -> Iterator[psutil.Process]:
    with log.open("ab") as output:
        child = subprocess.Popen(peer.command, env={**os.environ, **environment}, stdout=output, stderr=output)
    try:
        yield psutil.Process(child.pid)
    finally:
        child.kill()
        child.wait()


def cpu(process: psutil.Process) -> float:
    """Seconds of CPU of a process and its children."""
    return float(sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True))))


async def publish(settings: Settings, topic: str, made: Sequence[load.Pair]) -> None:
    """Every interaction before its feedback, under its id."""
    records: list[list[tuple[bytes | None, bytes | None]]] = [[] for _ in range(PARTITIONS)]
    for pair in made:
        key = f"i{pair.number}".encode()
        records[partition_for(key, PARTITIONS)] += ((key, pair.interaction), (key, pair.feedback))
    async with clients.connected(clients.producer(settings, max_batch_size=BATCH_BYTES)) as producer:
        await asyncio.gather(*(load.send(producer, topic, part, number) for number, part in enumerate(records)))


async def through(
    settings: Settings, topic: str, count: int, process: psutil.Process, log: Path, least: int | None = None
) -> int:
    """Until there are `count` committed records on a topic; their number. From `least` on, what has not grown for STILL seconds
    is enough: a peer that starts on a full topic may lose some."""
    least = count if least is None else least
    began, seen = time.monotonic(), 0
    grown = began
    places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    async with clients.connected(clients.consumer(settings)) as consumer:
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        while seen < count and not (seen >= least and time.monotonic() > grown + STILL):
            more = sum(map(len, (await consumer.getmany(timeout_ms=200)).values()))
            seen, grown = seen + more, time.monotonic() if more else grown
            dead = not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
            if dead or time.monotonic() > began + DEADLINE:
                raise RuntimeError(f"{seen} of {count} outputs: {log.read_text(errors='replace')[-2000:]}")
    return seen


async def once(settings: Settings, peer: Peer, number: int, count: int, folder: Path) -> float:
    """Microseconds of CPU per event."""
    name = f"{peer.name.lower().replace(' ', '')}{number}"
    own = settings.model_copy(update={"deployment": name})
    source, target = (clients.full_name(own, topic) for topic in ("signals", "examples"))
    if peer.name == "Headrace":
        await admin.declare(own, [*(BY_NAME[topic] for topic in TOPICS), changelog("peer", "signals")])
    else:
        async with clients.connected(clients.admin(own)) as client:
            await client.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in (source, target)])
    pairs, log = count // 2, folder / f"{name}.log"
    (folder / name).mkdir()
    environment = {
        "PEER_BOOTSTRAP": own.bootstrap,
        "PEER_INPUT": source,
        "PEER_OUTPUT": target,
        "PEER_NAME": name,
        "PEER_FOLDER": str(folder / name),
    }
    await publish(own, source, load.pairs(pairs))
    more = load.pairs(pairs, pairs)
    with running(peer, environment, log) as process:
        seen = await through(own, target, pairs, process, log, least=pairs * 9 // 10)
        if seen < pairs:
            print(f"{peer.name}: {pairs - seen} of {pairs} outputs lost at its start")
        await asyncio.sleep(SETTLE)
        before = cpu(process)
        await publish(own, source, more)
        await through(own, target, seen + pairs, process, log)
        await asyncio.sleep(SETTLE)
        return (cpu(process) - before) / (2 * pairs) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="the Python of an environment that has the peers")
    parser.add_argument("--jars", type=Path, help="a folder with the jars of Kafka Streams")
    parser.add_argument("--only", help="the name of one peer beside Headrace")
    parser.add_argument("--runs", type=int, default=3, help="how often everything is repeated (default: %(default)s)")
    parser.add_argument("--count", type=int, default=20_000, help="events that are counted (default: %(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, LocalKafka(Path(name) / "kafka") as kafka:
        folder = Path(name)
        settings = Settings(bootstrap=kafka.bootstrap, partitions=PARTITIONS)
        found: dict[str, list[float]] = {}
        chosen = [
            peer for peer in peers(given.peers, given.jars, folder) if given.only is None or peer.name in ("Headrace", given.only)
        ]
        for run in range(given.runs):
            for peer in chosen:
                try:
                    took = asyncio.run(once(settings, peer, run, given.count, folder))
                except RuntimeError as error:
                    print(f"{peer.name}: left out: {error}")
                else:
                    found.setdefault(peer.name, []).append(took)
    print(f"CPU per event without the broker: {given.count} events, {PARTITIONS} partitions, {given.runs} runs; {load_average()}")
    others = {name: values for name, values in found.items() if name != "Headrace"}
    best = min(others, key=lambda name: min(others[name]), default="Headrace")
    rates = {name: [1e6 / value for value in values] for name, values in found.items()}
    for peer in chosen:
        if peer.name in found:
            baseline = (f"the best peer, {best}", found[best])
            common.line(f"{peer.name}, {peer.guarantee}", found[peer.name], "us/event", baseline)
            common.line("    events per core", rates[peer.name], "/s", (baseline[0], rates[best]))


if __name__ == "__main__":
    main()
