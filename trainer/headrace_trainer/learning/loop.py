"""The training loop: steps over rows of like length, until all are done or the validation loss stops falling.

Knows rows, a model and hyperparameters; no Kafka, no examples, no adapter format, nothing of how a loss is made. What it
computes depends on its arguments only, whether it ran through or was killed and resumed any number of times.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace_schemas.canonical import digest
from headrace_trainer.job.failures import out_of_memory
from headrace_trainer.learning import checkpoint, optimiser_state
from headrace_trainer.learning.checkpoint import Checkpoint
from headrace_trainer.model.base import Base
from headrace_trainer.model.memory import make_activations_twice
from headrace_trainer.model.precision import Precision
from headrace_trainer.model.sharding import ALONE, Ranks, as_part_of, for_file, whole
from headrace_trainer.objectives.loss import Computing, Loss, Unit, accumulate, plan_total, unit_losses
from headrace_trainer.objectives.sft import LOSS as SFT
from headrace_trainer.policy import Hyperparameters
from headrace_trainer.spec import JobProgress, TrainingResult

log = logging.getLogger("headrace")

OnProgress = Callable[[JobProgress], None]
_WINDOW = 8  # optimiser steps whose rows are sorted by length together


def plan_steps(lengths: Sequence[int], hyper: Hyperparameters, seed: int) -> list[list[int]]:
    """Row indices of each optimiser step: every pass shuffled, then neighbours in length put together, then shuffled again.

    Every row comes once a pass; what is left of a pass is spread over its steps, which differ by one row at most.
    """
    size, count = hyper.rows_per_step, len(lengths)
    steps = hyper.steps or max(hyper.min_steps, math.ceil(hyper.epochs * count / size))
    planned: list[list[int]] = []
    a_pass = steps_of_pass(count, size)
    bounds = [count * step // a_pass for step in range(a_pass + 1)]
    epoch = 0
    while len(planned) < steps:
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(count).tolist()
        steps_of_epoch: list[list[int]] = []
        for first in range(0, len(bounds) - 1, _WINDOW):
            ends = bounds[first : first + _WINDOW + 1]
            window = sorted(order[ends[0] : ends[-1]], key=lambda index: lengths[index])
            steps_of_epoch.extend(window[at - ends[0] : to - ends[0]] for at, to in itertools.pairwise(ends))
        planned.extend(steps_of_epoch[index] for index in random.permutation(len(steps_of_epoch)))
        epoch += 1
    return planned[:steps]


def steps_of_pass(rows: int, rows_per_step: int) -> int:
    """Optimiser steps that see every row once."""
    return math.ceil(rows / rows_per_step)


def learning_rate_share(step: int, steps: int, warmup: float, final: float = 0.0) -> float:
    """Share of the learning rate at `step` (from 0): a linear rise over `warmup` of the steps, then a linear fall to `final`."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return final + (1 - final) * (steps - step) / max(1, steps - rising + 1)


def _groups(parameters: Mapping[str, Tensor], lora_plus: float) -> list[dict[str, Any]]:
    """Parameters with what their learning rate is multiplied by: LoRA+ (Hayou et al. 2024, arXiv 2402.12354) moves B faster than
    A, which otherwise hardly moves together with it where layers are wide."""
    faster = {name for name in parameters if ".lora_B." in name and lora_plus != 1.0}
    groups = [
        {"params": [value for name, value in parameters.items() if name not in faster], "times": 1.0},
        {"params": [parameters[name] for name in parameters if name in faster], "times": lora_plus},
    ]
    return [group for group in groups if group["params"]]


class _RunState:
    """The state that changes from step to step, and its form on disk, which is the same however many processes there are."""

    def __init__(self, model: Any, hyper: Hyperparameters, device: str, ranks: Ranks) -> None:
        self.device, self.ranks = device, ranks
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.optimiser = torch.optim.AdamW(
            _groups(self.parameters, hyper.lora_plus), lr=hyper.learning_rate, betas=(0.9, hyper.beta2),
            weight_decay=hyper.weight_decay,
        )  # fmt: skip
        self.step, self.loss, self.tokens, self.seconds = 0, 0.0, 0, 0.0
        self.batch_tokens = hyper.batch_tokens
        self.best: dict[str, Tensor] = {}
        self.best_loss, self.best_step, self.stale = math.inf, 0, 0

    def add_validation(self, loss: float) -> None:
        """Keeps the weights when the loss is the best so far, else counts."""
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.stale = loss, self.step, 0
            self.best = {name: value.detach().clone() for name, value in self.parameters.items()}
        else:
            self.stale += 1

    def dump(self, run: str) -> Checkpoint:
        tensors = {f"now.{name}": value for name, value in self.parameters.items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        tensors |= optimiser_state.tensors_of(self.optimiser, self.parameters)
        tensors |= {name: value for states in self.ranks.all_of(self.random()) for name, value in states.items()}
        names = ("batch_tokens", "step", "loss", "tokens", "seconds", "best_loss", "best_step", "stale")
        notes = {name: getattr(self, name) for name in names}
        notes["best_loss"] = None if math.isinf(self.best_loss) else self.best_loss
        return Checkpoint(for_file(tensors), {"run": run, **notes})

    @torch.no_grad()
    def load(self, saved: Checkpoint) -> None:
        most = self.batch_tokens
        for name, value in saved.notes.items():
            if name != "run":
                setattr(self, name, math.inf if value is None else value)
        self.batch_tokens = min(self.batch_tokens, most)  # fewer after a kill for want of memory
        for name, parameter in self.parameters.items():
            parameter.copy_(as_part_of(saved.tensors[f"now.{name}"], parameter))
            if f"best.{name}" in saved.tensors:
                self.best[name] = as_part_of(saved.tensors[f"best.{name}"], parameter)
        optimiser_state.adopt(self.optimiser, self.parameters, saved.tensors)
        self.restore_random(saved.tensors)

    def random(self) -> dict[str, Tensor]:
        of = self._of_rank
        states = {f"random.cpu{of}": torch.get_rng_state()}
        if self.device.startswith("cuda"):  # that device's own: a job may run on the second of several
            states[f"random.cuda{of}"] = torch.cuda.get_rng_state(self.device)
        return states

    def restore_random(self, states: Mapping[str, Tensor]) -> None:
        """Of another number of processes than those that saved, some begin theirs anew."""
        of = self._of_rank
        if f"random.cpu{of}" in states:
            torch.set_rng_state(states[f"random.cpu{of}"])
        if f"random.cuda{of}" in states and self.device.startswith("cuda"):
            torch.cuda.set_rng_state(states[f"random.cuda{of}"], self.device)

    @property
    def _of_rank(self) -> str:
        return "" if self.ranks.first else f".{self.ranks.rank}"


def train(
    model: Any,
    base: Base,
    rows: Sequence[Unit],
    validation: Sequence[Unit],
    hyper: Hyperparameters,
    *,
    loss: Loss = SFT,
    teacher: Callable[[], Base] | None = None,
    seed: int,
    precision: Precision,
    folder: Path | None = None,
    run: str = "",
    checkpoint_seconds: float = 30.0,
    optimiser_from: Path | None = None,
    optimiser_to: Path | None = None,
    on_progress: OnProgress = lambda progress: None,
    ranks: Ranks = ALONE,
) -> TrainingResult:
    """Trains what `model` has trainable, in place, and leaves the best weights by validation loss in it. Of several `ranks` each
    calls this with the same rows and its share of the model.

    With `folder` it goes on from the checkpoint that an earlier process of the same `run` left there. `optimiser_from`: where the
    run that the model's weights are of left the optimiser's moments; with those it needs no warm-up. `optimiser_to`: where it
    leaves its own, of its last step. ValueError without rows, ArithmeticError when the loss is no number or the rows weigh
    nothing.
    """
    if not rows:
        raise ValueError("no rows to train on")
    computing = Computing(model, base, hyper, precision, hyper.batch_tokens, ranks, teacher)
    rows, validation = _prepared(loss, computing, rows, validation, folder, run)
    planned = plan_steps([row.length for row in rows], hyper, seed)
    total = plan_total(rows, steps_of_pass(len(rows), hyper.rows_per_step))
    validate_every = max(1, len(planned) // hyper.validations_per_run)
    validates = len(validation) >= hyper.validation_rows
    if hyper.activation_checkpointing == "on":
        make_activations_twice(model)
    state = _RunState(model, hyper, base.device, ranks)
    carried = optimiser_state.read(optimiser_from, state.parameters) if optimiser_from else None
    if carried:
        optimiser_state.adopt(state.optimiser, state.parameters, carried)
    elif optimiser_from and ranks.first:
        log.warning("the optimiser begins anew: its state in %s is of other parameters, or no numbers", optimiser_from.name)
    warmup = 0.0 if carried else hyper.warmup
    torch.manual_seed(seed + ranks.rank)
    saved = checkpoint.read(folder, run) if folder else None
    if saved:
        state.load(saved)
    started = written_at = time.monotonic()
    seconds_before, tokens_before = state.seconds, state.tokens
    while state.step < len(planned) and not (validates and hyper.patience and state.stale >= hyper.patience):
        chosen = [rows[index] for index in planned[state.step]]
        for group in state.optimiser.param_groups:
            share = learning_rate_share(state.step, len(planned), warmup, hyper.final_rate)
            group["lr"] = hyper.learning_rate * share * group["times"]
        state.loss = _accumulated(loss, computing, chosen, state, total)
        _finite("loss", state.loss, state.step + 1, hyper)
        norm = float(whole(torch.nn.utils.clip_grad_norm_(state.parameters.values(), hyper.max_grad_norm)))
        _finite("gradient norm", norm, state.step + 1, hyper)  # clipping would make NaN of infinity
        state.optimiser.step()
        state.optimiser.zero_grad()
        state.step += 1
        state.tokens += sum(row.length for row in chosen)
        now = time.monotonic()
        state.seconds = seconds_before + now - started
        pace = (state.tokens - tokens_before) / max(now - started, 1e-9)
        of_step = {"learning_rate": state.optimiser.param_groups[0]["lr"], "gradient_norm": norm}
        on_progress(JobProgress(state.step, len(planned), state.loss, pace, **of_step))
        if validates and (state.step % validate_every == 0 or state.step == len(planned)):
            validation_loss = float(np.mean(unit_losses(loss, computing._replace(budget=state.batch_tokens), validation)))
            _finite("validation loss", validation_loss, state.step, hyper)
            state.add_validation(validation_loss)
            on_progress(JobProgress(state.step, len(planned), state.best_loss, pace, "validation", validation_loss, **of_step))
        if folder and ranks.agree(now - written_at >= checkpoint_seconds or state.step == len(planned)):
            kept = state.dump(run)
            if ranks.first:
                checkpoint.write(folder, kept)
            written_at = time.monotonic()
    if state.best:
        with torch.no_grad():
            for name, parameter in state.parameters.items():
                parameter.copy_(state.best[name])
    if optimiser_to:
        optimiser_state.write(optimiser_to, state.optimiser, state.parameters, writes=ranks.first)
    best_loss = None if math.isinf(state.best_loss) else state.best_loss
    best_step = state.best_step or state.step
    return TrainingResult(state.step, state.loss, best_loss, best_step, state.tokens, state.seconds, state.batch_tokens)


def _prepared(
    loss: Loss, computing: Computing, rows: Sequence[Unit], validation: Sequence[Unit], folder: Path | None, run: str
) -> tuple[Sequence[Unit], Sequence[Unit]]:
    """Rows with what is computed once for a run: by the model as it begins, before any checkpoint is loaded into it; anew where
    texts were erased since, so that there are fewer rows."""
    if loss.prepare is None or loss.with_prepared is None:
        return rows, validation
    together = [*rows, *validation]
    run = digest([run, [[row.example_id, row.length] for row in together]])
    kept = checkpoint.read(folder, run, checkpoint.PREPARED) if folder else None
    if not computing.ranks.agree(kept is not None) or kept is None:
        kept = Checkpoint(loss.prepare(computing, together), {"run": run})
        if folder and computing.ranks.first:
            checkpoint.write(folder, kept, checkpoint.PREPARED)
    made = loss.with_prepared(together, kept.tensors)
    return made[: len(rows)], made[len(rows) :]


def _accumulated(loss: Loss, computing: Computing, rows: Sequence[Unit], state: _RunState, total: float) -> float:
    """The gradient of a step. When memory runs out the step is made anew in micro-batches of half as many tokens, and so are all
    later ones, until a row goes alone. One of several processes can't: the others wait for it in the middle of theirs, so the
    run ends."""
    random = state.random()
    while True:
        try:
            return accumulate(loss, computing._replace(budget=state.batch_tokens), rows, total)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            longest = max(row.padded for row in rows)
            if not out_of_memory(error) or state.batch_tokens <= longest or state.ranks.size > 1:
                raise
            state.batch_tokens = max(longest, min(state.batch_tokens, longest * len(rows)) // 2)
            log.warning("memory ran out at step %d: micro-batches of %d tokens from here on", state.step + 1, state.batch_tokens)
        state.optimiser.zero_grad()  # outside of the handler, whose traceback holds the activations
        if computing.base.device.startswith("cuda"):
            torch.cuda.empty_cache()
        state.restore_random(random)


def _finite(what: str, value: float, step: int, hyper: Hyperparameters) -> None:
    if not math.isfinite(value):
        raise ArithmeticError(f"{what} is {value} at step {step}: the learning rate {hyper.learning_rate} is too high?")
