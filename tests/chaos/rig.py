"""One deployment under a schedule of faults: a broker behind a proxy, a worker, a publisher, and a watcher past the proxy.

The oracle is the publisher's file: what was acknowledged must be an example with as many voices as there was feedback, once. How
soon after a fault that is so again for all that was acknowledged, and for something newer, is how long the recovery took.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from headrace_streams.kafka import admin, clients
from headrace_streams.kafka.reader import Reader
from headrace_streams.settings import Settings

from .broker import BrokerBehindProxy
from .faults import KINDS, schedule

RATE = 5.0  # interactions a second
PATIENCE = 180.0  # for a recovery
HEALTHY = 60.0
FAKETIME = [Path(path) for path in ("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
                                    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1")]  # fmt: skip
TESTS = Path(__file__).resolve().parents[1]


class Outcome(NamedTuple):
    """A seed's: figures of its faults and of the whole, JSON-able."""

    faults: list[dict[str, Any]]
    round: dict[str, Any]


def faketime() -> Path | None:
    return next((path for path in FAKETIME if path.exists()), None)


class Rig:
    """A context: all its processes end with it. `bootstrap` is past the proxy."""

    def __init__(self, folder: Path, seed: int, *, clock: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.seed = folder, seed
        self.broker = BrokerBehindProxy(folder / "kafka")
        self.deployment = f"chaos-{seed}"
        self.settings = Settings(bootstrap=self.broker.back, deployment=self.deployment, partitions=2, data_dir=folder / "data")
        self._library = faketime() if clock else None
        self._acknowledged = folder / "acknowledged.jsonl"
        self._publishers = 0
        self._children: list[subprocess.Popen[bytes]] = []
        self._watcher = threading.Thread(target=lambda: asyncio.run(self._watch()), name="watcher", daemon=True)
        self._ended = threading.Event()
        self.seen: dict[str, tuple[int, float]] = {}  # newest voices of an interaction's example, and when that was read
        self.examples: Counter[tuple[str, int]] = Counter()  # by example and revision
        self.worker: subprocess.Popen[bytes]
        self.publisher: subprocess.Popen[bytes]

    def __enter__(self) -> Rig:
        self.broker.start()
        asyncio.run(admin.declare(self.settings))
        self.shift_clock(0)
        self.start_worker()
        self.start_publisher()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signal.SIGCONT)
                child.kill()
            child.wait()
        self.broker.stop(timeout=5)
        self.broker.proxy.stop()

    def start_worker(self) -> None:
        self.worker = self._worker("worker")

    def second_worker(self) -> subprocess.Popen[bytes]:
        return self._worker("second")

    def signal_worker(self, number: signal.Signals) -> None:
        self.end(self.worker, number)

    def end(self, child: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Signals it and waits; one that does not end within a minute is killed, and the run fails."""
        child.send_signal(number)
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise AssertionError(f"a process did not end within 60 s of {number.name}") from None

    def start_publisher(self) -> None:
        self._publishers += 1
        name = f"{self.seed}-{self._publishers}"
        arguments = ["-m", "chaos.publisher", self.broker.front, self.deployment, name, str(self._acknowledged), str(RATE)]
        self.publisher = self._start("publisher", arguments, {"PYTHONPATH": _path()})

    def shift_clock(self, seconds: int) -> None:
        (self.folder / "clock").write_text(f"{seconds:+d}\n")

    def _worker(self, name: str) -> subprocess.Popen[bytes]:
        environment = {"HEADRACE_BOOTSTRAP": self.broker.front, "HEADRACE_DEPLOYMENT": self.deployment,
                       "HEADRACE_DATA_DIR": str(self.folder / f"data-{name}"), "PYTHONPATH": _path(),
                       "HEADRACE_STATE_DIR": str(self.folder / "state")}  # fmt: skip
        if self._library is not None:
            clock = self.folder / "clock"
            environment |= {"LD_PRELOAD": str(self._library), "FAKETIME_TIMESTAMP_FILE": str(clock),
                            "FAKETIME_CACHE_DURATION": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}  # fmt: skip
        return self._start(name, ["-m", "chaos.worker"], environment)

    def _start(self, name: str, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")}
        with (self.folder / f"{name}.log").open("ab") as log:
            child = subprocess.Popen([sys.executable, *arguments], env={**kept, **environment}, stdout=log, stderr=log)
        self._children.append(child)
        return child

    def acknowledged(self) -> dict[str, tuple[int, float]]:
        """Interaction -> how many feedbacks were acknowledged with it, and when the last was."""
        try:
            lines = self._acknowledged.read_bytes().split(b"\n")[:-1]  # the last may be torn: a publisher was killed over it
        except FileNotFoundError:
            return {}
        return {interaction: (count, at) for interaction, count, at in map(json.loads, lines)}

    def recovery(self, since: float, patience: float = PATIENCE) -> float | None:
        """Seconds from `since` until all that was acknowledged before it, and something after, had become examples; None: not
        within `patience`."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            acknowledged = self.acknowledged()
            before = [name for name, (_, at) in acknowledged.items() if at <= since]
            after = [name for name, (_, at) in acknowledged.items() if at > since]
            done = {name: self.seen[name][1] for name in (*before, *after) if self._complete(name, acknowledged[name][0])}
            newer = [done[name] for name in after if name in done]
            if newer and all(name in done for name in before):
                return max(0.0, min(newer) - since, *(done[name] - since for name in before))
            time.sleep(0.1)
        self.worker.send_signal(signal.SIGUSR1)  # where it stands goes to its log
        return None

    def missing(self) -> list[str]:
        """What was acknowledged and is not, or not wholly, in an example."""
        return [name for name, (count, _) in self.acknowledged().items() if not self._complete(name, count)]

    def _complete(self, name: str, feedbacks: int) -> bool:
        return name in self.seen and self.seen[name][0] == feedbacks

    async def doubled(self) -> list[str]:
        """Event ids that committed readers find more than once on `signals`, and example revisions on `examples`."""
        ids: Counter[str] = Counter()
        async for record in Reader(self.settings).read_topic("signals"):
            ids[json.loads(record.value)["id"]] += 1
        revisions: Counter[str] = Counter()
        async for record in Reader(self.settings).read_topic("examples"):
            event = json.loads(record.value)
            if event["type"] == "headrace.example.rewarded.v1":
                revisions[f"{event['data']['example_id']}/{event['data']['revision']}"] += 1
        return [name for name, count in (ids + revisions).items() if count > 1]

    def verify(self) -> int:
        """The exit code of `headrace replay --verify`."""
        command = ["-c", "from headrace_cli.main import main; main()", "replay", "--verify",
                   "--bootstrap", self.broker.back, "--deployment", self.deployment]  # fmt: skip
        return self._start("verify", command, {"PYTHONPATH": _path()}).wait(600)

    async def _watch(self) -> None:
        reader = Reader(self.settings)
        while not self._ended.is_set():
            try:
                consumer = clients.consumer(self.settings, auto_offset_reset="earliest", request_timeout_ms=5_000)
                async with clients.connected(consumer, within=5):
                    partitions = [reader._partition("examples", number) for number in range(self.settings.partitions)]
                    consumer.assign(partitions)
                    await consumer.seek_to_beginning(*partitions)
                    while not self._ended.is_set():
                        for records in (await consumer.getmany(timeout_ms=100)).values():
                            for record in records:
                                self._note(json.loads(record.value))
            except Exception:  # the broker is away: again
                await asyncio.sleep(0.2)

    def _note(self, event: dict[str, Any]) -> None:
        if event["type"] == "headrace.example.rewarded.v1":
            name, voices = event["data"]["interaction_id"], event["data"]["voices"]
            if name not in self.seen or self.seen[name][0] < voices:
                self.seen[name] = (voices, time.time())


def run(seed: int, kinds: Sequence[str], faults: int, folder: Path) -> Outcome:
    """A seed's schedule from beginning to end."""
    began = time.monotonic()
    found = []
    with Rig(folder, seed, clock="clock-jump" in kinds) as rig:
        healthy = rig.recovery(time.time(), HEALTHY + PATIENCE)
        assert healthy is not None, f"the deployment never began to work: {folder}"
        for number, fault in enumerate(schedule(seed, kinds, faults)):
            time.sleep(fault.wait)
            since = time.time()
            KINDS[fault.kind](rig, fault)
            ended = time.time()
            recovered = rig.recovery(ended)
            found.append({"seed": seed, "number": number, "kind": fault.kind, "took": round(ended - since, 2),
                          "recovered": None if recovered is None else round(recovered, 2)})  # fmt: skip
        rig.publisher.kill()
        rig.publisher.wait()
        until = time.monotonic() + PATIENCE
        while rig.missing() and time.monotonic() < until:
            time.sleep(0.2)
        acknowledged, lost = rig.acknowledged(), rig.missing()
        rig.end(rig.worker, signal.SIGTERM)
        doubled = asyncio.run(rig.doubled())
        summary = {
            "seed": seed,
            "faults": len(found),
            "records": sum(1 + count for count, _ in acknowledged.values()),
            "lost": len(lost),
            "doubled": len(doubled),
            "verify": rig.verify(),
            "examples": [*lost[:3], *doubled[:3]],
            "seconds": round(time.monotonic() - began, 1),
        }
    return Outcome(found, summary)


def _path() -> str:
    return os.pathsep.join([str(TESTS), *(path for path in sys.path if path)])
