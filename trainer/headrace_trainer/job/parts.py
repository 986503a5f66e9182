"""The parts of an objective, minimised one after the other: each is a run of its own, which begins with what the one before left.
Knows the loop and its folder; nothing of examples and files of adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from headrace_trainer.learning.loop import OnProgress, plan_steps, train
from headrace_trainer.objectives.loss import Loss, Unit
from headrace_trainer.policy import Hyperparameters
from headrace_trainer.spec import JobProgress, TrainingResult


class ObjectivePart(NamedTuple):
    """A loss, and what it is minimised and watched on."""

    loss: Loss
    rows: Sequence[Unit]
    validation: Sequence[Unit]


def train_parts(
    model: Any,
    base: Any,
    parts: Sequence[ObjectivePart],
    hyper: Hyperparameters,
    *,
    seed: int,
    folder: Path,
    optimiser_from: Path | None,
    optimiser_to: Path | None,
    on_progress: OnProgress,
    **settings: Any,
) -> TrainingResult:
    """`train` of each part. Of several each begins with an optimiser of its own, as its gradients are of another size, and keeps
    its checkpoints in a folder of its own; the steps of all count together, and the losses are those of the last."""
    begin: Callable[..., TrainingResult] = partial(train, model, base, hyper=hyper, seed=seed, **settings)
    if len(parts) == 1:
        [part] = parts
        return begin(
            rows=part.rows, validation=part.validation, loss=part.loss, folder=folder, optimiser_from=optimiser_from,
            optimiser_to=optimiser_to, on_progress=on_progress,
        )  # fmt: skip
    planned = [len(plan_steps([row.length for row in part.rows], hyper, seed)) for part in parts]
    results: list[TrainingResult] = []
    for number, part in enumerate(parts):
        before, own = sum(planned[:number]), folder / f"part-{number}"

        def tell(progress: JobProgress, before: int = before) -> None:
            on_progress(progress._replace(step=before + progress.step, steps=sum(planned)))

        own.mkdir(parents=True, exist_ok=True)
        results.append(begin(rows=part.rows, validation=part.validation, loss=part.loss, folder=own, on_progress=tell))
    last, steps = results[-1], sum(result.steps for result in results)
    return last._replace(
        steps=steps, best_step=steps - last.steps + last.best_step, tokens=sum(result.tokens for result in results),
        seconds=sum(result.seconds for result in results),
    )  # fmt: skip
