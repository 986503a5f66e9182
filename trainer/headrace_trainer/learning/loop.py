"""The training loop: weighted completion loss over length-bucketed rows, until the steps are done or validation stops falling.

Knows rows, a model and hyperparameters; no Kafka, no examples, no adapter format. What it computes depends on its arguments
only, whether it ran through or was killed and resumed any number of times.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace_trainer.learning import checkpoint
from headrace_trainer.learning.checkpoint import Checkpoint
from headrace_trainer.model.base import Base, Precision, autocast, collate, token_losses
from headrace_trainer.policy import Hyperparameters
from headrace_trainer.spec import Moment, Row, Trained

Progress = Callable[[Moment], None]
_WINDOW = 8  # optimiser steps whose rows are sorted by length together


def plan(lengths: Sequence[int], hyper: Hyperparameters, seed: int) -> list[list[int]]:
    """Row indices of each optimiser step: every pass shuffled, then neighbours in length put together, then shuffled again.

    Every row comes once a pass; the last step of a pass may be shorter.
    """
    size, count = hyper.batch_rows, len(lengths)
    steps = hyper.steps or math.ceil(hyper.epochs * count / size)
    planned: list[list[int]] = []
    epoch = 0
    while len(planned) < steps:
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(count).tolist()
        span = size * _WINDOW
        cut: list[list[int]] = []
        for start in range(0, count, span):
            window = sorted(order[start : start + span], key=lambda index: lengths[index])
            cut.extend(window[at : at + size] for at in range(0, len(window), size))
        planned.extend(cut[index] for index in random.permutation(len(cut)))
        epoch += 1
    return planned[:steps]


def split_by_tokens(rows: Sequence[Row], budget: int) -> list[list[Row]]:
    """Micro-batches of neighbours in length, each at most `budget` padded tokens (a longer row goes alone)."""
    batches: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.length):
        if batches and (len(batches[-1]) + 1) * row.length <= budget:  # the newest is the longest
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def accumulate(model: Any, rows: Sequence[Row], base: Base, budget: int, precision: Precision) -> float:
    """Adds the gradient of one optimiser step's loss: `Σ wᵢ·nllᵢₜ / Σ wᵢ` over all completion tokens t of all rows i
    (ALGORITHMS §6), however many micro-batches it takes. Returns that loss."""
    total = sum(row.weight * len(row.completion) for row in rows)
    loss = 0.0
    for micro in split_by_tokens(rows, budget):
        batch = collate(micro, base.pad, base.device)
        weights = torch.tensor([row.weight for row in micro], device=base.device)[batch.rows]
        with autocast(base.device, precision):
            part = (token_losses(model, batch) * weights).sum() / total
        torch.autograd.backward(part)
        loss += float(part.detach())
    return loss


@torch.no_grad()
def row_losses(model: Any, rows: Sequence[Row], base: Base, budget: int, precision: Precision) -> list[float]:
    """Mean loss per completion token of each row, in nats, in the order of `rows`; weights play no part."""
    model.eval()
    found: dict[int, float] = {}
    indexed = [row._replace(example_id=str(index)) for index, row in enumerate(rows)]
    for micro in split_by_tokens(indexed, budget):
        batch = collate(micro, base.pad, base.device)
        with autocast(base.device, precision):
            losses = token_losses(model, batch)
        sums = torch.zeros(len(micro), device=losses.device).index_add_(0, batch.rows, losses)
        found.update((int(row.example_id), float(sums[at]) / len(row.completion)) for at, row in enumerate(micro))
    return [found[index] for index in range(len(rows))]


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at `step` (from 0): a linear rise over `warmup` of the steps, then a linear fall to zero."""
    rising = max(1, round(warmup * steps))
    return (step + 1) / rising if step < rising else (steps - step) / max(1, steps - rising + 1)


class _Run:
    """The state that changes from step to step, and its form on disk."""

    def __init__(self, model: Any, hyper: Hyperparameters) -> None:
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=hyper.learning_rate, betas=(0.9, hyper.beta2), weight_decay=hyper.weight_decay
        )
        self.step, self.loss, self.tokens, self.seconds = 0, 0.0, 0, 0.0
        self.best: dict[str, Tensor] = {}
        self.best_loss, self.best_step, self.stale = math.inf, 0, 0

    def keep(self, loss: float) -> None:
        """Takes a validation loss: remembers the weights when it is the best, else counts."""
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.stale = loss, self.step, 0
            self.best = {name: value.detach().clone() for name, value in self.parameters.items()}
        else:
            self.stale += 1

    def dump(self, run: str) -> Checkpoint:
        tensors = {f"now.{name}": value.detach() for name, value in self.parameters.items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for name, parameter in self.parameters.items():
            tensors |= {f"{key}.{name}": value for key, value in self.optimiser.state.get(parameter, {}).items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        names = ("step", "loss", "tokens", "seconds", "best_loss", "best_step", "stale")
        notes = {name: getattr(self, name) for name in names}
        notes["best_loss"] = None if math.isinf(self.best_loss) else self.best_loss
        return Checkpoint({name: value.contiguous().cpu() for name, value in tensors.items()}, {"run": run, **notes})

    @torch.no_grad()
    def load(self, saved: Checkpoint) -> None:
        for name, value in saved.notes.items():
            if name != "run":
                setattr(self, name, math.inf if value is None else value)
        for name, parameter in self.parameters.items():
            parameter.copy_(saved.tensors[f"now.{name}"])
            if f"best.{name}" in saved.tensors:
                self.best[name] = saved.tensors[f"best.{name}"].to(parameter.device)
            state = {key: saved.tensors.get(f"{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if state["exp_avg"] is not None:
                self.optimiser.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device)
                    for key, value in state.items()
                    if value is not None
                }
        torch.set_rng_state(saved.tensors["random.cpu"])
        if "random.cuda" in saved.tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(saved.tensors["random.cuda"])


def train(
    model: Any,
    base: Base,
    rows: Sequence[Row],
    validation: Sequence[Row],
    hyper: Hyperparameters,
    *,
    seed: int,
    precision: Precision,
    folder: Path | None = None,
    run: str = "",
    checkpoint_seconds: float = 30.0,
    progress: Progress = lambda moment: None,
) -> Trained:
    """Trains what `model` has trainable, in place, and leaves the best weights by validation loss in it.

    With `folder` it goes on from the checkpoint that an earlier process of the same `run` left there. ValueError without rows.
    """
    if not rows:
        raise ValueError("no rows to train on")
    planned = plan([row.length for row in rows], hyper, seed)
    look_every = max(1, len(planned) // hyper.evaluations)
    looks = len(validation) >= hyper.validation_rows
    state = _Run(model, hyper)
    torch.manual_seed(seed)
    saved = checkpoint.read(folder, run) if folder else None
    if saved:
        state.load(saved)
    started = written = time.monotonic()
    before, tokens_before = state.seconds, state.tokens
    while state.step < len(planned) and not (looks and hyper.patience and state.stale >= hyper.patience):
        chosen = [rows[index] for index in planned[state.step]]
        model.train()
        for group in state.optimiser.param_groups:
            group["lr"] = hyper.learning_rate * rate(state.step, len(planned), hyper.warmup)
        state.loss = accumulate(model, chosen, base, hyper.batch_tokens, precision)
        _finite("loss", state.loss, state.step + 1, hyper)
        norm = float(torch.nn.utils.clip_grad_norm_(state.parameters.values(), hyper.clip))
        _finite("gradient norm", norm, state.step + 1, hyper)  # clipping would make NaN of infinity
        state.optimiser.step()
        state.optimiser.zero_grad()
        state.step += 1
        state.tokens += sum(row.length for row in chosen)
        now = time.monotonic()
        state.seconds = before + now - started
        pace = (state.tokens - tokens_before) / max(now - started, 1e-9)
        progress(Moment(state.step, len(planned), state.loss, pace))
        if looks and (state.step % look_every == 0 or state.step == len(planned)):
            watched = float(np.mean(row_losses(model, validation, base, hyper.batch_tokens, precision)))
            _finite("validation loss", watched, state.step, hyper)
            state.keep(watched)
            progress(Moment(state.step, len(planned), state.best_loss, pace, "validation"))
        if folder and (now - written >= checkpoint_seconds or state.step == len(planned)):
            checkpoint.write(folder, state.dump(run))
            written = time.monotonic()
    if state.best:
        with torch.no_grad():
            for name, parameter in state.parameters.items():
                parameter.copy_(state.best[name])
    best = None if math.isinf(state.best_loss) else state.best_loss
    kept = state.best_step or state.step
    return Trained(state.step, state.loss, best, kept, state.tokens, state.seconds)


def _finite(what: str, value: float, step: int, hyper: Hyperparameters) -> None:
    if not math.isfinite(value):
        raise ArithmeticError(f"{what} is {value} at step {step}: the learning rate {hyper.learning_rate} is too high?")
