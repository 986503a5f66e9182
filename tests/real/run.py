"""All rows of real corpora through Kafka with Recorder, worker and trainer; a table of what became of them.

    python tests/real/run.py --data FOLDER --results FILE [--only NAME …] [--full]

Each corpus has a deployment and a base of its own: a small model first trained on a corpus of another artifact type. NAME is a
corpus, or `backlog:CORPUS` (three years old, with a few events of today) or `negatives:CORPUS` (its negative feedback alone).
Each report is a line of the results file as soon as it is there; what is in it is not run again, and is shown. Exits 1 when a row
is not accounted for, a bad record is not in dead letters, a batch is declined for want of evidence, or replay --verify finds a
difference. `--full`: a base of 160 instead of 64.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))

import torch

import headrace
from headrace_streams.kafka import admin, clients
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings
from real import corpora, report
from real.bases import BASE, taught, teacher_of
from real.corpora import Said
from real.scenarios import SCENARIOS, parted
from support import jsonl
from support.ring import Ring

# The defaults of the policy, but for what a base without dropout's millions needs: see ARCHITECTURE.md on the loop.
POLICY = """
[[reward.bases]]
base = "{base}"

[train]
threads = 1

[train.bases.{base}]
weights = "{weights}"

[train.defaults]
r = 16
alpha = 32
dropout = 0.0
learning_rate = {rate}
max_sequence_tokens = 1024

[train.evaluation]
generate = "never"
"""
RATES = {True: 1.2e-2, False: 3e-3}  # of the small base and of the full one
DEADLINE = 3600.0  # seconds
POLL = 3.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with *.jsonl.gz")
    parser.add_argument("--results", type=Path, required=True, help="one JSON object a line; is added to")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these corpora (without .jsonl.gz), or scenarios of them")
    parser.add_argument("--full", action="store_true", help="a base of 160 instead of 64")
    parser.add_argument("--bases", type=Path, default=Path(tempfile.gettempdir()) / "headrace-real-bases")
    given = parser.parse_args()
    torch.set_num_threads(1)  # two wait for each other where the machine is shared
    files = corpora.corpora(given.data)
    reports: dict[str, Any] = {row["name"]: row for row in jsonl.read(given.results) if row["full"] == given.full}
    names = given.only or list(files)
    with tempfile.TemporaryDirectory() as scratch:
        missing = [name for name in names if name not in reports]
        if missing:
            with LocalKafka(Path(scratch) / "kafka") as kafka:
                for name in missing:
                    corpus = parted(name)[1]
                    teacher = teacher_of(corpus, files)
                    say(name, f"its base has read {teacher}")
                    weights = taught(teacher, given.data, given.bases, small=not given.full)
                    policy = POLICY.format(base=BASE, weights=weights, rate=RATES[not given.full])
                    found = Corpus(name, files[corpus], kafka.bootstrap, Path(scratch) / name.replace(":", "-"), policy).run()
                    reports[name] = {"name": name, "full": given.full, "base": teacher, **found}
                    jsonl.add(given.results, reports[name])
                    report.show(name, reports[name])
    for name in names:
        if name not in missing:
            report.show(name, reports[name])
    bad = [name for name in names if reports[name]["problems"]]
    print(f"{len(names) - len(bad)} of {len(names)} are accounted for and verified", *bad)
    return 1 if bad else 0


def say(name: str, what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {name}: {what}", file=sys.stderr, flush=True)


class Corpus:
    """One corpus, from its file to its report."""

    def __init__(self, name: str, path: Path, bootstrap: str, folder: Path, policy: str) -> None:
        scenario, corpus = parted(name)
        self.name, self.folder = name, folder
        self.lines: list[Said] = SCENARIOS[scenario](corpora.said(corpus, path))
        folder.mkdir(parents=True)
        (folder / "policy.toml").write_text(policy)
        self.settings = Settings(
            bootstrap=bootstrap,
            deployment=f"real-{name}".replace("_", "-").replace(":", "-"),
            partitions=2,
            data_dir=folder / "data",
            policy=folder / "policy.toml",
        )

    def run(self) -> dict[str, Any]:
        began = time.monotonic()
        asyncio.run(admin.declare(self.settings))
        with Ring(self.settings, self.folder, threads=1, poll=POLL) as ring:
            ring.start("worker", "trainer")
            say(self.name, f"publishing {len(self.lines)}")
            good, raw = self.publish()
            say(self.name, "waiting for the stages")
            ring.wait(published=good + len(raw), deadline=DEADLINE)
            say(self.name, "waiting for the trainer")
            counters = ring.wait(published=good + len(raw), trained=True, deadline=DEADLINE)
        say(self.name, "verifying")
        feedback = sum(line.kind == "feedback" for line in self.lines)
        found = asyncio.run(report.collect(self.settings, counters, raw, feedback))
        verified = subprocess.run(
            [sys.executable, "-c", "from headrace_cli.main import main; main()", "replay", "--verify"],
            env=ring.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if verified.returncode:
            found["problems"].append(f"replay --verify exits {verified.returncode}: {verified.stderr.strip()}")
        return {"published": good, "published raw": len(raw), "seconds": round(time.monotonic() - began), **found}

    def publish(self) -> tuple[int, list[tuple[str, bytes]]]:
        """Everything in order: what the Recorder accepts, and raw what it refuses."""
        good = 0
        raw: list[tuple[str, bytes]] = []
        with headrace.Recorder(
            self.settings.bootstrap, deployment=self.settings.deployment, agent="corpus", outbox=self.folder / "outbox.db"
        ) as recorder:
            for said in self.lines:
                try:
                    getattr(recorder, said.kind)(**said.fields, time=said.time)
                    good += 1
                except headrace.InvalidEvent:
                    topic = "interactions" if said.kind == "interaction" else "feedback"
                    envelope = {
                        "specversion": "1.0",
                        "id": f"raw-{len(raw)}",
                        "source": "agent:corpus",
                        "type": f"headrace.{said.kind}.recorded.v1",
                        "data": {"agent": {"name": "corpus"}, **said.fields} if said.kind == "interaction" else said.fields,
                    }
                    raw.append((topic, json.dumps(envelope).encode()))
            if not recorder.flush(300):
                raise AssertionError(f"{recorder.pending} events are not delivered: {recorder.trouble}")
        asyncio.run(self._send(raw))
        return good, raw

    async def _send(self, raw: list[tuple[str, bytes]]) -> None:
        async with clients.connected(clients.producer(self.settings)) as producer:
            for topic, value in raw:
                await producer.send_and_wait(clients.full_name(self.settings, topic), value)


if __name__ == "__main__":
    sys.exit(main())
