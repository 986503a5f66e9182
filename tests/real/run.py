"""All rows of real corpora through Kafka with Recorder, worker and trainer; a table of what became of them.

    python tests/real/run.py --data FOLDER [--only NAME ...] [--json FILE]

Each corpus has a deployment and a base of its own: a small model first trained on a corpus of another artifact type. Exits 1 when
a record is not accounted for, a bad one is not in dead letters, or replay --verify finds a difference.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parent.parent))

import headrace
from headrace_lake.feedback_account import account_of
from headrace_lake.kafka_log import KafkaLog
from headrace_schemas.codec import decode
from headrace_schemas.derived import ReleaseDecision
from headrace_streams.kafka import admin, clients
from headrace_streams.kafka.reader import Reader
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings
from real import base, corpora
from support.ring import Ring

BASE = "small"
TAUGHT_BY = {"review": "docs_pandalm"}  # every other type starts from a base that has read reviews
OTHERWISE = "review_crscore"
POLICY = """
[[reward.bases]]
base = "small"

[train.bases.small]
weights = "{weights}"

[train.defaults]
r = 16
alpha = 32
dropout = 0.0
learning_rate = 3e-3
epochs = 3
max_sequence_tokens = 512

[train.evaluation]
generate = "never"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with *.jsonl.gz")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these corpora (without .jsonl.gz)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the tables as JSON")
    parser.add_argument("--steps", type=int, default=300, help="training steps of each base")
    given = parser.parse_args()
    files = corpora.corpora(given.data)
    names = [name for name in files if not given.only or name in given.only]
    reports: dict[str, Any] = {}
    bases: dict[str, Base] = {}
    with tempfile.TemporaryDirectory() as scratch, LocalKafka(Path(scratch) / "kafka") as kafka:
        for name in names:
            began = time.monotonic()
            teacher = TAUGHT_BY.get(artifact_type(name, files[name]), OTHERWISE)
            if teacher not in bases:
                bases[teacher] = taught(teacher, files[teacher], Path(scratch) / f"base-{teacher}", given.steps)
            reports[name] = Corpus(name, files[name], kafka.bootstrap, Path(scratch) / name, bases[teacher]).run()
            show(name, reports[name], time.monotonic() - began)
    if given.json:
        given.json.write_text(json.dumps(reports, indent=1))
    bad = [name for name, report in reports.items() if report["problems"]]
    print(f"{len(reports) - len(bad)} of {len(reports)} corpora are accounted for and verified", *bad)
    return 1 if bad else 0


class Base(NamedTuple):
    """Weights on disk, and what they were taught."""

    weights: Path
    story: str


def artifact_type(name: str, path: Path) -> str:
    return str(next(corpora.said(name, path)).fields["artifact_type"])


def taught(teacher: str, path: Path, folder: Path, steps: int) -> Base:
    say(teacher, "teaches a base")
    lines = [said.fields for said in corpora.said(teacher, path) if said.kind == "interaction"]
    loss = base.build([f"{fields['prompt']}\n{fields['output']}" for fields in lines], folder, steps=steps)
    return Base(folder, f"{teacher}, loss {loss:.2f}")


def say(name: str, what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {name}: {what}", file=sys.stderr, flush=True)


class Corpus:
    """One corpus, from its file to its table."""

    def __init__(self, name: str, path: Path, bootstrap: str, folder: Path, base: Base) -> None:
        self.name, self.path, self.folder, self.base = name, path, folder, base
        folder.mkdir(parents=True)
        self.policy = folder / "policy.toml"
        self.settings = Settings(
            bootstrap=bootstrap,
            deployment=f"real-{name}".replace("_", "-"),
            partitions=2,
            data_dir=folder / "data",
            policy=self.policy,
        )

    def run(self) -> dict[str, Any]:
        self.policy.write_text(POLICY.format(weights=self.base.weights))
        asyncio.run(admin.declare(self.settings))
        with Ring(self.settings, self.folder) as ring:
            ring.start("worker", "trainer")
            say(self.name, "publishing")
            good, raw = self.publish()
            say(self.name, "waiting for the stages")
            ring.wait(published=good + len(raw), deadline=600)
            say(self.name, "waiting for the trainer")
            counters = ring.wait(published=good + len(raw), trained=True, deadline=3600)
        say(self.name, "verifying")
        report = asyncio.run(self.collect(counters, raw))
        verified = subprocess.run(
            [sys.executable, "-c", "from headrace_cli.main import main; main()", "replay", "--verify"],
            env=ring.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if verified.returncode:
            report["problems"].append(f"replay --verify exits {verified.returncode}: {verified.stderr.strip()}")
        return {"base": self.base.story, "published": good, "published raw": len(raw), **report}

    def publish(self) -> tuple[int, list[tuple[str, bytes]]]:
        """Everything in order: what the Recorder accepts, and raw what it refuses."""
        good = 0
        raw: list[tuple[str, bytes]] = []
        with headrace.Recorder(
            self.settings.bootstrap, deployment=self.settings.deployment, agent="corpus", outbox=self.folder / "outbox.db"
        ) as recorder:
            for said in corpora.said(self.name, self.path):
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

    async def events(self, topic: str) -> list[Any]:
        return [decode(record.value, tuple(record.headers)) async for record in Reader(self.settings).read_topic(topic)]

    async def collect(self, counters: dict[str, Counter[str]], raw: list[tuple[str, bytes]]) -> dict[str, Any]:
        problems = []
        account = await account_of(KafkaLog(self.settings))
        said = sum(line.kind == "feedback" for line in corpora.said(self.name, self.path))
        if account.feedback.total() != said:
            problems.append(f"{said} rows of feedback were published, {account.feedback.total()} are accounted for")
        for stage, counted in counters.items():
            total = sum(count for name, count in counted.items() if name != "in")
            if stage != "train" and counted["in"] != total:
                problems.append(f"{stage}: in {counted['in']} is not {total}")
        dead = [base64.b64decode(event.data.value_base64 or "") for event in await self.events("dead-letters")]
        lost = Counter(value for _, value in raw) - Counter(dead)
        if lost:
            problems.append(f"{lost.total()} bad records are not in dead letters")
        unexpected = len(dead) - len(raw)
        if unexpected:
            problems.append(f"{unexpected} dead letters that nobody meant to be bad")
        examples = [event.data for event in await self.events("examples") if event.__class__.__name__ == "ExampleRewarded"]
        newest = {example.example_id: example for example in examples}
        extreme = sum(abs(example.reward) > 0.99 for example in newest.values())
        reasons: Counter[str] = Counter(
            event.data.reason for event in await self.events("rejections") if hasattr(event.data, "reason")
        )
        return {
            "counters": {stage: {name: count for name, count in sorted(counted.items())} for stage, counted in counters.items()},
            "rejections": dict(reasons.most_common()),
            "examples": len(newest),
            "revisions": len(examples),
            "share of |reward| > 0.99": round(extreme / max(1, len(newest)), 4),
            "account": account.to_builtins(),
            "batches": await self.batches(),
            "problems": problems,
        }

    async def batches(self) -> list[dict[str, Any]]:
        """Each evaluation with its answer, in order."""
        answers: dict[str, Any] = {}
        for event in await self.events("releases.history"):
            release: ReleaseDecision = event.data
            if release.evaluation_id is not None:
                answers[release.evaluation_id] = (type(event).__name__.removeprefix("Release").lower(), release.reason)
        found = []
        for event in await self.events("outcomes"):
            if type(event).__name__ != "EvaluationCompleted":
                continue
            evaluation = event.data
            gain = evaluation.comparison.loss_gain
            answer, reason = answers.get(evaluation.evaluation_id, ("unanswered", ""))
            found.append(
                {
                    "bucket": evaluation.bucket,
                    "rows": evaluation.comparison.n,
                    "incumbent": round(evaluation.incumbent["loss"].value, 4),
                    "candidate": round(evaluation.candidate["loss"].value, 4),
                    "gain": [round(gain.value, 4), round(gain.low, 4), round(gain.high, 4)],
                    "answer": answer,
                    "reason": reason,
                }
            )
        failed = [event.data.error for event in await self.events("runs") if type(event).__name__ == "TrainingFailed"]
        return found + [{"answer": "failed", "reason": error} for error in failed]


def show(name: str, report: dict[str, Any], seconds: float) -> None:
    print(
        f"\n{name}: {report['published']} published, {report['published raw']} bad ones raw, {seconds:.0f} s;"
        f" base: {report['base']}"
    )
    for stage, counters in report["counters"].items():
        print(f"  {stage:8}", "  ".join(f"{name} {count}" for name, count in counters.items()))
    print("  rejected", "  ".join(f"{reason} {count}" for reason, count in report["rejections"].items()) or "none")
    print(
        f"  {report['examples']} examples in {report['revisions']} revisions,"
        f" |reward| > 0.99: {report['share of |reward| > 0.99']:.1%}, {len(report['batches'])} batches trained"
    )
    for what, boxes in report["account"].items():
        print(f"  {what}:", "  ".join(f"{box} {count}" for box, count in boxes.items()) or "none")
    for batch in report["batches"]:
        if "gain" not in batch:
            print(f"    failed: {batch['reason']}")
            continue
        value, low, high = batch["gain"]
        print(
            f"    {batch['bucket']} on {batch['rows']} rows: loss {batch['incumbent']} -> {batch['candidate']},"
            f" gain {value} [{low}, {high}]: {batch['answer']}: {batch['reason']}"
        )
    for problem in report["problems"]:
        print("  PROBLEM", problem)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
