"""What a trainer and release say that the ring's stand-ins do not: progress, evidence look by look, samples of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import structs

from headrace_schemas.codec import decode, encode
from headrace_schemas.derived import (
    HeadEvidence,
    HeadResult,
    ModelVersion,
    ReleaseDecision,
    SamplesReference,
    SuiteResult,
    TrainingProgress,
)
from headrace_schemas.events import (
    EvaluationCompleted,
    ExampleRewarded,
    ModelVersionCreated,
    ReleaseDeclined,
    TrainingProgressed,
    TrainingStarted,
    make,
)
from headrace_streams import evaluation_samples
from headrace_streams.adapter_store import Store
from headrace_streams.evaluation_samples import EvaluationSample
from headrace_streams.runtime.provenance import Provenance, origin
from support.memory_ring import BUCKET, MemoryRing
from support.outcomes import adapter, evaluation, groups

VERSION, GONE = "judged", "gone"  # one with samples and evidence; one whose samples were removed
STEPS = 40


def add_progress(ring: MemoryRing) -> str:
    """Lets the first run say how far it is, step by step; its id."""
    (partition, started), *_ = [
        (record.partition, event.data)
        for record in ring.log.of("runs")
        if isinstance(event := decode(record.value), TrainingStarted)
    ]
    for step in range(1, STEPS + 1):
        said = TrainingProgress(
            run_id=started.run_id, bucket=started.bucket, step=step, steps=STEPS, loss=3 / step, attempt=1,
            phase="training" if step < STEPS else "validation", tokens_per_second=900.0,
            validation_loss=1.5 if step % 10 == 0 else None, learning_rate=0.001 * (1 - step / (STEPS + 1)),
        )  # fmt: skip
        _write(
            ring, "runs", partition, make(TrainingProgressed, said, id=f"progress-{step}", writer="train", time_ms=ring.log.time)
        )
    return started.run_id


def add_judged_versions(ring: MemoryRing, store: Path) -> None:
    """Two versions, of which one has its samples in `store`, two looks at its evidence, slices and a suite."""
    example = next(event.data for record in ring.log.of("examples") if isinstance(event := decode(record.value), ExampleRewarded))
    file = store / "samples.parquet"
    store.mkdir(parents=True, exist_ok=True)
    evaluation_samples.write(file, _samples(example.example_id, example.revision), "run-judged")
    digest = Store(str(store)).put_samples(file)
    file.unlink()
    for version, kept in ((VERSION, digest), (GONE, "sha256:" + "0" * 64)):
        _version(ring, version, kept)
    for look in (1, 2):
        _look(ring, look)


def _samples(example_id: str, revision: int) -> list[EvaluationSample]:
    def row(answer: str, grade: float, served: float) -> EvaluationSample:
        return EvaluationSample(
            example_id=example_id, revision=revision, group="g", prompt_sha256="p", answer=answer, served_answer="select 2",
            grade=grade, served_grade=served, loss=1.0, served_loss=1.1,
        )  # fmt: skip

    return [
        row("select 1", 100.0, 0.0),
        row("select 1", 60.0, 20.0),
        row("select 3 -- <script>document.title='run'</script>", 0.0, 100.0),
        row("select 2", 50.0, 50.0),
    ]


def _version(ring: MemoryRing, name: str, samples: str) -> None:
    made = ModelVersion(
        version_id=name, bucket=BUCKET, artifact_type="sql", base="tiny", adapter=adapter(name), batch_id=f"batch-{name}",
        run_id=f"run-{name}", method="lora", hyperparameters={"rank": 8}, rows=10, tokens=1000, seconds=5.0,
    )  # fmt: skip
    _write(ring, "versions", 0, make(ModelVersionCreated, made, id=f"made-{name}", writer="train", time_ms=ring.log.time))
    compared = decode(evaluation(name, bucket=BUCKET, wins=2, losses=1))
    assert isinstance(compared, EvaluationCompleted)
    head = HeadResult(
        version_id=name,
        groups=[*groups("a", [0.5, -0.25]), *groups("b", [1.0], slices=["joins"])],
        suites=[SuiteResult(name="arithmetic", sha256="sha256:" + "1" * 64, protected=True, tasks=groups("t", [0.0, 0.5]))],
    )
    data = structs.replace(
        compared.data, heads=[head], samples=SamplesReference(sha256=samples, rows=4, batch_id=f"batch-{name}")
    )
    _write(ring, "outcomes", 0, structs.replace(compared, data=data))


def _look(ring: MemoryRing, look: int) -> None:
    head = HeadEvidence(
        version_id=VERSION, adapter=adapter(VERSION).digest, verdict="pending", reason="no_evidence", waits=True, h=1, cut=1,
        since=0, claim="per_release", measure="success", alpha=0.025, needed=3.69, capital=1.1 * look, useless=0.1, harm=-0.5,
        alarm=3.0, looks=look, groups=12 * look, discordant=3, selected=0, clipped_low=0, clipped_high=0, mean=0.1, scale=1.0,
        bets=[], old_groups=0, old_digest="", seen=[],
    )  # fmt: skip
    said = ReleaseDecision(
        release_id=f"look-{look}", sequence=100 + look, bucket=BUCKET, artifact_type="sql", base="tiny",
        batch_ids=[f"batch-{VERSION}"], reason="no_evidence: it waits", policy_digests={}, request_id="r",
        adapter=adapter(VERSION), version_id=VERSION, evaluation_id=f"evaluation-{VERSION}", evidence=[head],
    )  # fmt: skip
    event = make(ReleaseDeclined, said, id=f"answer-{look}", writer="release", time_ms=ring.log.time)
    _write(ring, "releases.history", 0, event, "release", "outcomes")


def _write(ring: MemoryRing, topic: str, partition: int, event: Any, stage: str = "train", source: str = "batches") -> None:
    headers = origin(Provenance(stage, source, partition, 0, 0))
    ring.log.append(topic, partition, BUCKET.encode(), encode(event), headers)
