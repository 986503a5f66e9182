"""Success in the demo's world: the loop's last head against one offline run over the same rows at equal optimiser steps.

    python tests/real/demo_world.py FOLDER --results FILE [--bucket sql/tiny-sql] [--seeds 1 2 3]

FOLDER is the data folder of a demo that has ended. Its log gives batches, rows and pins of the chain behind the bucket's newest
version. Both arms are trained by the trainer's job and loop, with each seed in place of the pinned one: the loop batch by batch
with what it rehearsed, on from weights and optimiser of the batch before; the offline run with the rows of all batches from the
start, as many steps as the loop took, and one rise and fall of the rate. The demo's grader judges both by its exam, as it does
the head that the demo had. Each result is a line of the results file, and what is in it is not run again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parent.parent))

import torch
from msgspec import structs
from transformers.utils import logging

from headrace_demo.agent.serve import Model
from headrace_demo.base_model.recipe import Recipe
from headrace_demo.run.control import examined, lineage
from headrace_demo.shop.exam import ExamPaper
from headrace_schemas.codec import decode
from headrace_schemas.derived import Batch, Member, ModelVersion, TrainingStart
from headrace_schemas.events import BatchReady, Event, ExampleRewarded, ModelVersionCreated, TrainingStarted
from headrace_schemas.selection import run_members
from headrace_trainer.data.members import RecordValues
from headrace_trainer.data.rows import RowTokeniser, TokenRow
from headrace_trainer.job.run import adapter_folder, learn, optimiser_folder, settled
from headrace_trainer.learning.loop import train
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base, within_positions
from headrace_trainer.model.stops import stop_ids
from headrace_trainer.spec import JobSpec
from real import segments
from support import jsonl

SEEDS = 1000  # a demo's seed is known by the name of its base


class Demo:
    """What a demo has left behind of a bucket."""

    def __init__(self, folder: Path, bucket: str) -> None:
        self.folder = folder
        self.seed = next(seed for seed in range(SEEDS) if Recipe(seed=seed).folder(folder).exists())
        self.weights = Recipe(seed=self.seed).folder(folder)
        self.database = max(folder.glob("runs/*/shop.duckdb"))
        made = [event.data for event in self._events("versions") if isinstance(event, ModelVersionCreated)]
        ours = [version for version in made if version.bucket == bucket]
        self.chain: list[ModelVersion] = lineage(ours, ours[-1].version_id)
        batches = {event.data.batch_id: event.data for event in self._events("batches") if isinstance(event, BatchReady)}
        starts = {event.data.run_id: event.data for event in self._events("runs") if isinstance(event, TrainingStarted)}
        self.runs: list[tuple[Batch, TrainingStart]] = [(batches[each.batch_id], starts[each.run_id]) for each in self.chain]
        self.values: RecordValues = {}
        for value in segments.values(folder / "kafka" / "log", "examples"):
            event = decode(value)
            if isinstance(event, ExampleRewarded):
                self.values[event.data.example_id, event.data.revision] = value

    def _events(self, topic: str) -> Iterable[Event]:
        return map(decode, segments.values(self.folder / "kafka" / "log", topic))

    def exam(self, adapter: Path) -> dict[str, int]:
        """Right answers of the base with an adapter, by heading, and how many were asked of each."""
        right, asked = examined(Model(self.weights, adapter), self.database, ExamPaper(self.seed))
        return right | {"of each": max(asked.values())}


class Arm(NamedTuple):
    """What was trained; `rows`: different ones."""

    adapter: Path
    steps: int
    rows: int


def by_the_loop(demo: Demo, seed: int, scratch: Path) -> Arm:
    """Run by run, as it was pinned but for the seed."""
    before: JobSpec | None = None
    steps, learnt = 0, set[str]()
    for number, (batch, start) in enumerate(demo.runs):
        spec = spec_of(demo, batch, start, scratch / str(number), 1000 * seed + number, before)
        steps += learn(spec, lambda progress: None).training.steps
        learnt |= {member.example_id for member in run_members(batch, start).training}
        before = spec
    assert before is not None
    return Arm(adapter_folder(before), steps, len(learnt))


def offline(demo: Demo, seed: int, steps: int, scratch: Path) -> Arm:
    """All rows at once, as whoever has them all would train."""
    batch, start = demo.runs[0]
    hyper, precision = settled(spec_of(demo, batch, start, scratch, seed, None))
    once = hyper.model_copy(update={"steps": steps, "final_rate": 0.0})
    base = load_base(str(demo.weights), precision=precision)
    tokeniser = RowTokeniser(
        base.tokenizer, within_positions(base.model.config, hyper.max_sequence_tokens), stop_ids(base.tokenizer, base.model)
    )
    sides = [run_members(*pins) for pins in demo.runs]
    rows, watched = (
        rows_of(tokeniser, [member for side in found for member in side], demo.values)
        for found in ([each.training for each in sides], [each.validation for each in sides])
    )
    model, _ = lora.attach(base.model, once, seed)
    result = train(model, base, rows, watched, once, seed=seed, precision=precision)
    return Arm(lora.save(model, scratch / "adapter"), result.steps, len(rows))


def rows_of(tokeniser: RowTokeniser, members: Iterable[Member], values: RecordValues) -> list[TokenRow]:
    """Each example once, at its newest revision."""
    newest = {member.example_id: member for member in members}
    return [made.row for made in tokeniser.members(list(newest.values()), values).examples]


def spec_of(demo: Demo, batch: Batch, start: TrainingStart, folder: Path, seed: int, before: JobSpec | None) -> JobSpec:
    """The job of a run with another seed, on from `before`."""
    folder.mkdir(parents=True, exist_ok=True)
    return JobSpec(
        start=structs.replace(start, seed=seed), batch=batch, weights=str(demo.weights), values=demo.values, folder=folder,
        learner=adapter_folder(before) if before else None,
        optimiser=optimiser_folder(before) if before and start.optimiser else None, threads=1,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="data folder of a demo that has ended")
    parser.add_argument("--results", type=Path, required=True, help="one JSON object a line; is added to")
    parser.add_argument("--bucket", default="sql/tiny-sql")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    demo = Demo(given.folder, given.bucket)
    known = jsonl.read(given.results)
    batches, kept = {"batches": len(demo.runs)}, given.folder / "store" / "adapters"
    for seed in [None, *given.seeds]:
        key = {"demo": demo.seed, "bucket": given.bucket, "seed": seed}
        if any(key.items() <= row.items() for row in known):
            continue
        began = time.process_time()
        if seed is None:
            digest = demo.chain[-1].adapter.digest.removeprefix("sha256:")
            found: dict[str, Any] = {"recorded": demo.exam(kept / digest)}
        else:
            with tempfile.TemporaryDirectory() as scratch:
                loop = by_the_loop(demo, seed, Path(scratch) / "loop")
                whole = offline(demo, seed, loop.steps, Path(scratch) / "offline")
                arms = {"loop": loop, "offline": whole}
                found = {name: {"steps": arm.steps, "rows": arm.rows} | demo.exam(arm.adapter) for name, arm in arms.items()}
        jsonl.add(given.results, {**key, **batches, **found, "cpu": round(time.process_time() - began, 1)})
        print(key, found, flush=True)


if __name__ == "__main__":
    main()
