"""Small sums in the trainer's own forms: rows, moved adapters, jobs in processes of their own. Knows the trainer, no test."""

from __future__ import annotations

import asyncio
from typing import Any

import torch

from headrace_trainer.data.rows import RowTokeniser, TokenisedExample
from headrace_trainer.job.process import JobProcess
from headrace_trainer.model.base import Base
from headrace_trainer.spec import JobProgress, JobResult, JobSpec
from support import training_data


def rows_of(base: Base, numbers: range) -> list[TokenisedExample]:
    """The examples of these numbers as rows."""
    tokeniser = RowTokeniser(base.tokenizer, 200)
    return [tokeniser.example(training_data.example(number), 1.0) for number in numbers]


def moved(model: Any, seed: int, scale: float = 0.05) -> Any:
    """A model with an adapter that changes something: what it begins with is the base alone."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=random) * scale)
    return model


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the gradients of what is trained, by name; the model's own are gone."""
    copies = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    return copies


def in_process(spec: JobSpec, kill_at: int | None = None) -> tuple[JobResult | None, list[JobProgress]]:
    """Result and steps of a job in its own process; killed when it tells of step `kill_at`."""

    async def follow() -> tuple[JobResult | None, list[JobProgress]]:
        steps: list[JobProgress] = []
        async for event in JobProcess(spec).events():
            if isinstance(event, JobResult):
                return event, steps
            steps.append(event)
            if kill_at is not None and event.step >= kill_at:
                return None, steps
        raise AssertionError("a job ended without a result")

    return asyncio.run(follow())
