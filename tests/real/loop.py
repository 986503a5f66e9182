"""The loop against one offline run: the same rows, base, method, rate and optimiser steps, judged on the same newest test rows.

    python tests/real/loop.py --data FOLDER --results FILE [--only NAME …] [--seeds 1 2 3] [--rates 3e-3 …] [--small | --short]

Batches are cut by the folds of the stages in this process, by their defaults but without decay. The loop trains each as the
train stage does: its rows and rehearsal, on from the weights (and the optimiser) of the batch before, whatever would have been
served. The offline run has the rows of all batches from the start, and as many steps as the loop took, with one rise and fall of
the rate. Each result is a line of the results file as soon as it is there; what is in it is not run again. `--small`: a base of
64 instead of 160, and rows cut to the last 48 tokens of their question and the first 64 of their answer, for a machine without
time. `--short`: rows cut so for the base of 160.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parent.parent))

import numpy as np
import torch

from headrace_schemas.derived import Batch, Member
from headrace_schemas.selection import training_members, validation_members
from headrace_trainer.data.rows import RowTokeniser, TokenRow
from headrace_trainer.learning.loop import train
from headrace_trainer.model import lora
from headrace_trainer.model.base import Base, load_base
from headrace_trainer.model.precision import Precision, precision_for
from headrace_trainer.model.stops import stop_ids
from headrace_trainer.objectives.sft import row_losses
from headrace_trainer.policy import Hyperparameters
from headrace_trainer.stage.rehearsal import rehearsal_rows
from real import corpora
from real.bases import BASE, taught, teacher_of
from real.in_process import Folded, folded
from support import jsonl

RECIPES: dict[str, dict[str, Any]] = {
    "today": {},
    "newest_twice": {"rehearsal": 2 / 3, "times_new": 2},  # as many rows, of which the batch's own stand twice
    "restarts": {"rehearsal": 0.25, "epochs": 3.0, "min_steps": 1, "final_rate": 0.0, "carry_optimiser": False},  # as it was
}
QUESTION, ANSWER = 48, 64  # tokens of a row with --small and --short


class Rows(NamedTuple):
    """Of a batch: its members to learn and their rows by example, rows to watch, rows of its test pool."""

    members: list[Member]
    training: dict[str, TokenRow]
    validation: list[TokenRow]
    test: list[TokenRow]


class Corpus:
    """The batches of one corpus as rows for one base."""

    def __init__(self, found: Folded, weights: Path, *, short: bool) -> None:
        self.weights, self._short = weights, short
        base = load_base(str(weights))
        self._tokeniser = RowTokeniser(base.tokenizer, 1024 if short else 512, stop_ids(base.tokenizer, base.model))
        self._found = found
        self.batches = [(batch, self._rows(batch)) for batch in found.batches]

    def _rows(self, batch: Batch) -> Rows:
        trained = training_members(batch.members)
        return Rows(
            trained,
            {row.example_id: row for row in self._tokenised(trained)},
            self._tokenised(validation_members(batch.members)),
            self._tokenised(batch.test_pool),
        )

    def _tokenised(self, members: Sequence[Member]) -> list[TokenRow]:
        rows = [made.row for made in self._tokeniser.members(members, self._found.values).examples]
        if not self._short:
            return rows
        return [row._replace(prompt=row.prompt[-QUESTION:], completion=row.completion[:ANSWER]) for row in rows]

    @property
    def test(self) -> list[TokenRow]:
        return self.batches[-1][1].test

    def learner(self, hyper: Hyperparameters, seed: int) -> tuple[Any, Base]:
        base = load_base(str(self.weights))
        return lora.attach(base.model, hyper, seed)[0], base


def by_the_loop(
    corpus: Corpus, hyper: Hyperparameters, seed: int, precision: Precision, folder: Path, times_new: int = 1
) -> dict[str, Any]:
    """Batch by batch, each row of the batch `times_new` times."""
    model, base = corpus.learner(hyper, seed)
    pool: dict[str, Member] = {}
    rows: dict[str, TokenRow] = {}
    before: Path | None = None
    steps, curve, runs = 0, [], []
    for number, (batch, found) in enumerate(corpus.batches):
        rehearsed = rehearsal_rows(batch, list(pool.values()), hyper.rehearsal)
        rows |= found.training
        pool |= {member.example_id: member for member in found.members}
        own = list(found.training.values()) * times_new
        learnt = [*own, *(rows[member.example_id] for member in rehearsed if member.example_id in rows)]
        after = folder / f"{number}"
        result = train(
            model, base, learnt, found.validation, hyper, seed=1000 * seed + number, precision=precision,
            optimiser_from=before, optimiser_to=after if hyper.carry_optimiser else None,
        )  # fmt: skip
        before = after if hyper.carry_optimiser else None
        steps += result.steps
        runs.append(result.steps)
        curve.append(loss_of(model, corpus.test, base, precision))
    return {"nats": curve[-1], "steps": steps, "curve": [round(nats, 4) for nats in curve], "steps_of_runs": runs}


def offline(corpus: Corpus, hyper: Hyperparameters, seed: int, steps: int, precision: Precision) -> dict[str, Any]:
    """All rows at once, as whoever has them all would train."""
    once = hyper.model_copy(update={"steps": steps, "final_rate": 0.0})
    model, base = corpus.learner(once, seed)
    rows = {name: row for _, found in corpus.batches for name, row in found.training.items()}
    watched = {row.example_id: row for _, found in corpus.batches for row in found.validation}
    result = train(model, base, list(rows.values()), list(watched.values()), once, seed=seed, precision=precision)
    nats = loss_of(model, corpus.test, base, precision)
    return {"nats": nats, "steps": result.steps, "best_step": result.best_step, "rows": len(rows)}


def loss_of(model: Any, rows: Sequence[TokenRow], base: Base, precision: Precision) -> float:
    return float(np.mean(row_losses(model, rows, base, 8192, precision)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with *.jsonl.gz")
    parser.add_argument("--results", type=Path, required=True, help="one JSON object a line; is added to")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these corpora (without .jsonl.gz)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-3])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_true")
    size.add_argument("--short", action="store_true")
    parser.add_argument("--bases", type=Path, default=Path(tempfile.gettempdir()) / "headrace-real-bases")
    given = parser.parse_args()
    torch.set_num_threads(1)
    precision = precision_for("auto", "cpu")
    results = Results(given.results)
    files = corpora.corpora(given.data)
    for name in given.only or files:
        wanted = [(seed, rate, recipe) for seed in given.seeds for rate in given.rates for recipe in given.recipes]
        keys = [Key(name, seed, rate, recipe, given.small, given.short) for seed, rate, recipe in wanted]
        if all(results.has(key) for key in keys):
            continue
        weights = taught(teacher_of(name, files), given.data, given.bases, small=given.small)
        policies: dict[str, dict[str, Any]] = {"reward": {"bases": [{"base": BASE}]}, "curate": {"decay_per_day": 1.0}}
        corpus = Corpus(folded(corpora.said(name, files[name]), policies), weights, short=given.small or given.short)
        if not corpus.batches or not corpus.test:
            print(f"{name}: {len(corpus.batches)} batches and nothing to judge on")
            continue
        for key in keys:
            if not results.has(key):
                began = time.process_time()
                found = compare(corpus, key, precision)
                results.add(key, {**found, "precision": precision, "cpu": round(time.process_time() - began, 1)})


class Key(NamedTuple):
    corpus: str
    seed: int
    rate: float
    recipe: str
    small: bool
    short: bool = False


class Results:
    """The results file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = {Key(**{name: row[name] for name in Key._fields if name in row}) for row in jsonl.read(path)}

    def has(self, key: Key) -> bool:
        return key in self._keys

    def add(self, key: Key, found: dict[str, Any]) -> None:
        jsonl.add(self._path, {**key._asdict(), **found})
        self._keys.add(key)
        loop, whole = found["loop"]["nats"], found["offline"]["nats"]
        print(*key, f"loop {loop:.3f} offline {whole:.3f} gap {loop - whole:+.3f}", found["loop"]["steps"], "steps", flush=True)


def compare(corpus: Corpus, key: Key, precision: Precision) -> dict[str, Any]:
    recipe = dict(RECIPES[key.recipe])
    times_new = recipe.pop("times_new", 1)
    hyper = Hyperparameters(r=16, alpha=32, dropout=0.0, learning_rate=key.rate, **recipe)
    with tempfile.TemporaryDirectory() as scratch:
        loop = by_the_loop(corpus, hyper, key.seed, precision, Path(scratch), times_new)
    whole = offline(corpus, hyper, key.seed, loop["steps"], precision)
    groups = {corpus.batches[-1][0].bucket: len(corpus.batches)}
    return {"loop": loop, "offline": whole, "test": len(corpus.test), "batches": groups}


if __name__ == "__main__":
    main()
