"""The control arm: the runs behind a release once more, on the same prompts with their targets shuffled, and the same exam.
What it gets right was not learnt from feedback. Knows the log and the trainer's job; publishes nothing.

`python -m headrace_demo.run.control CONFIG DATABASE SEED FOLDER VERSION` prints a `ControlResult` as JSON.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import torch
from msgspec import Struct, structs
from transformers.utils import logging

from headrace_demo.agent.serve import Model
from headrace_demo.names import SQL
from headrace_demo.shop.exam import ExamPaper
from headrace_demo.shop.grade import Referee
from headrace_schemas.canonical import sha256
from headrace_schemas.codec import decode, encode
from headrace_schemas.derived import Batch, Member, ModelVersion, TrainingStart
from headrace_schemas.events import BatchReady, ExampleRewarded, TrainingStarted
from headrace_schemas.selection import dataset_members, run_members
from headrace_streams.kafka.reader import Reader
from headrace_streams.requests import versions
from headrace_streams.settings import load as load_settings
from headrace_trainer.data.members import RecordValues, key_of, verify
from headrace_trainer.job.run import run
from headrace_trainer.policy import TrainerPolicy
from headrace_trainer.policy import load as load_policy
from headrace_trainer.spec import JobResult, JobSpec
from headrace_trainer.stage import catalogue


class ControlResult(Struct, frozen=True):
    """`right` and `asked` by heading of the exam; `seconds` of CPU that training and exam took."""

    runs: int
    rows: int
    steps: int
    seconds: float
    right: dict[str, int]
    asked: dict[str, int]


class ShuffledTargets:
    """Gives each row the target of another, by a seed, and keeps to it in every later run that rehearses the row."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(f"control:{seed}")
        self._targets: dict[str, object] = {}

    def run(self, batch: Batch, start: TrainingStart, values: RecordValues) -> tuple[Batch, TrainingStart, RecordValues]:
        """The same run with shuffled targets and nothing to be tested on. `values`: the records of `dataset_members`."""
        members = run_members(batch, start)
        for side in (members.training, members.validation, members.rehearsal):
            self._draw_targets(side, values)
        records = {key_of(member): self._rewritten(values[key_of(member)]) for member in dataset_members(batch, start)}

        def named(listed: Iterable[Member]) -> list[Member]:
            return [structs.replace(member, sha256=sha256(records[key_of(member)])) for member in listed]

        return (
            structs.replace(
                batch, members=named((*members.training, *members.validation)), test_pool=[], validation_pool=None, prompts=None
            ),
            structs.replace(start, rehearsal=named(members.rehearsal), heads=None, watched=None, withdrawn=None),
            records,
        )

    def _draw_targets(self, members: Sequence[Member], values: RecordValues) -> None:
        fresh = [member for member in members if member.example_id not in self._targets]
        targets = [verify(member, values.get(key_of(member))).content.target for member in fresh]
        self._draw.shuffle(targets)
        self._targets.update(zip((member.example_id for member in fresh), targets, strict=True))

    def _rewritten(self, value: bytes) -> bytes:
        event = decode(value)
        assert isinstance(event, ExampleRewarded)
        example = event.data
        content = structs.replace(example.content, target=self._targets[example.example_id])
        return encode(structs.replace(event, data=structs.replace(example, content=content)))


def lineage(made: Iterable[ModelVersion], version_id: str) -> list[ModelVersion]:
    """The versions that a version goes on from, the first one first, and itself."""
    by_adapter = {version.adapter.digest: version for version in made}
    chain = [next(version for version in by_adapter.values() if version.version_id == version_id)]
    while (parent := chain[0].parent_adapter) is not None:
        chain.insert(0, by_adapter[parent])
    return chain


async def control(config: Path, database: Path, seed: int, folder: Path, version_id: str) -> ControlResult:
    """Trains in `folder` and examines what came of it."""
    settings = load_settings({}, config).settings
    policy, reader = load_policy(settings.policy), Reader(settings)
    chain = lineage(await versions(settings), version_id)
    batches = {event.data.batch_id: event.data async for event in reader.events("batches") if isinstance(event, BatchReady)}
    starts = {event.data.run_id: event.data async for event in reader.events("runs") if isinstance(event, TrainingStarted)}
    shuffled, before, rows, steps = ShuffledTargets(seed), None, 0, 0
    began = time.process_time()
    for number, version in enumerate(chain):
        batch, start = batches[version.batch_id], starts[version.run_id]
        values = await catalogue.values_of(reader, dataset_members(batch, start))
        before = run(job_of(*shuffled.run(batch, start, values), policy, folder / str(number), before))
        assert before.training is not None
        rows, steps = rows + before.rows, steps + before.training.steps
    assert before is not None
    right, asked = examined(Model(Path(policy.bases[batch.base].weights), before.folder), database, ExamPaper(seed))
    return ControlResult(len(chain), rows, steps, round(time.process_time() - began, 1), right, asked)


def job_of(
    batch: Batch, start: TrainingStart, values: RecordValues, policy: TrainerPolicy, folder: Path, before: JobResult | None
) -> JobSpec:
    """The job of a run that goes on from `before`, with the moments of its optimiser where the run itself did."""
    return JobSpec(
        start=start, batch=batch, weights=policy.bases[batch.base].weights, values=values, folder=folder,
        learner=before.folder if before else None, optimiser=before.optimiser if before and start.optimiser else None,
        evaluation=policy.evaluation, threads=policy.threads,
    )  # fmt: skip


def examined(model: Model, database: Path, paper: ExamPaper) -> tuple[dict[str, int], dict[str, int]]:
    """Right and asked, by heading of the exam in SQL."""
    asked, headings, referee = paper.questions(SQL), paper.columns(SQL), Referee(database)
    answers = model.answers([question.text for question in asked])
    right = Counter(dict.fromkeys(headings.values(), 0))
    right.update(
        headings[question.text] for question, answer in zip(asked, answers, strict=True) if referee.right(answer, question.sql)
    )
    return dict(right), dict(Counter(headings.values()))


def main() -> None:
    """As this module says."""
    config, database, seed, folder, version_id = sys.argv[1:]
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    found = asyncio.run(control(Path(config), Path(database), int(seed), Path(folder), version_id))
    print(msgspec.json.encode(found).decode(), flush=True)


if __name__ == "__main__":
    main()
