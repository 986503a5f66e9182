"""Distillation (Hinton et al. 2015, arXiv 1503.02531): the model learns what another one of the same vocabulary would have said
at each token of good answers. Knows rows and the likeliest tokens of a teacher.

    termᵢₜ = α·T²·KL(teacher ‖ student) + (1 - α)·nllᵢₜ,  both softened by T

Of the teacher the `teacher_tokens` likeliest tokens are kept and the rest as one: no less is said by that where they are all, and
else the divergence is a lower bound. Computed once, as a teacher is as a rule larger than the model that learns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from headrace_schemas.root_error import HeadraceError
from headrace_trainer.data.rows import RowTokeniser, TokenisedExample, TokenRow
from headrace_trainer.model import head
from headrace_trainer.model.precision import autocast
from headrace_trainer.objectives.loss import Computing, Loss, Terms, Units, passes_of
from headrace_trainer.objectives.sft import collate
from headrace_trainer.policy import Hyperparameters

_LEAST = 1e-9  # of a share of probability, before its logarithm


class TeacherRefused(HeadraceError):
    """A teacher that cannot teach this base."""


class TaughtRow(NamedTuple):
    """A row, and `asked`: with what question the teacher meets its answer. `teacher` [completion, 2, tokens]: log-probabilities
    of the teacher's likeliest tokens, and their ids."""

    example_id: str
    row: TokenRow
    asked: TokenRow
    weight: float = 1.0
    teacher: Tensor | None = None

    @property
    def length(self) -> int:
        return self.row.length

    @property
    def padded(self) -> int:
        return max(self.row.length, self.asked.length)

    @property
    def size(self) -> int:
        return len(self.row.completion)


def units(examples: Sequence[TokenisedExample], tokeniser: RowTokeniser, hyper: Hyperparameters) -> Units:
    rows = [example.row for example in examples if example.scored]
    return Units([TaughtRow(row.example_id, row, row, row.weight) for row in rows])


def prepare(computing: Computing, rows: Sequence[TaughtRow]) -> dict[str, Tensor]:
    """`teacher`: what the other base says. TeacherRefused when its tokens are others."""
    assert computing.teacher is not None
    ours, base = computing.base.tokenizer, computing.teacher()
    if base.tokenizer.get_vocab() != ours.get_vocab():
        raise TeacherRefused(
            f"teacher {base.model.config.name_or_path}: its tokenizer has other tokens ({len(base.tokenizer)}) than that of the "
            f"base that learns ({len(ours)}); write a base of the same vocabulary as `teacher`"
        )
    return prepared_by(computing._replace(model=base.model, base=base), rows, head.vocabulary(computing.base.model))


@torch.no_grad()
def prepared_by(teacher: Computing, rows: Sequence[TaughtRow], learns: int) -> dict[str, Tensor]:
    """`teacher` [all completion tokens, 2, tokens] of rows in their order; `learns`: rows of the output layer of what learns, as
    layers may be longer than the vocabulary. TeacherRefused for a model that several processes share."""
    if teacher.ranks.size > 1:
        raise TeacherRefused(f"processes = {teacher.ranks.size}: what a teacher says is learnt by one process; write 1")
    teacher.model.eval()
    known = min(learns, head.vocabulary(teacher.base.model), len(teacher.base.tokenizer))
    count = min(known, teacher.hyper.teacher_tokens)
    likeliest = partial(_likeliest, temperature=teacher.hyper.temperature, count=count, known=known)
    found: dict[int, Tensor] = {}
    numbered = [row._replace(example_id=str(number)) for number, row in enumerate(rows)]
    for micro in passes_of(numbered, teacher.budget, teacher.ranks):
        batch = collate([row.asked for row in micro], teacher.base.pad, teacher.base.device)
        with autocast(teacher.base.device, teacher.precision):
            tokens = head.of_logits(teacher.model, batch.inputs, batch.positions, likeliest)
        split = torch.split(tokens.cpu(), [row.size for row in micro])
        found.update((int(row.example_id), each) for row, each in zip(micro, split, strict=True))
    return {"teacher": torch.cat([found[number] for number in range(len(rows))])}


def with_prepared(rows: Sequence[TaughtRow], tensors: Mapping[str, Tensor]) -> list[TaughtRow]:
    split = torch.split(tensors["teacher"], [row.size for row in rows])
    return [row._replace(teacher=each) for row, each in zip(rows, split, strict=True)]


def terms(computing: Computing, rows: Sequence[TaughtRow], constant: float) -> Terms:
    hyper, device = computing.hyper, computing.base.device
    batch = collate([row.row for row in rows], computing.base.pad, device)
    taught = torch.cat([row.teacher for row in rows if row.teacher is not None]).to(device)
    loss = partial(_loss, share=hyper.teacher_share, temperature=hyper.temperature)
    return Terms(head.of_logits(computing.model, batch.inputs, batch.positions, loss, batch.targets, taught), batch.rows)


def _likeliest(logits: Tensor, *, temperature: float, count: int, known: int) -> Tensor:
    """[tokens, 2, count]; ids are exact in float32 up to 16 million."""
    values, ids = functional.log_softmax(logits[:, :known] / temperature, dim=-1).topk(count, dim=-1)
    return torch.stack([values, ids.float()], dim=1)


def _loss(logits: Tensor, targets: Tensor, taught: Tensor, *, share: float, temperature: float) -> Tensor:
    theirs, ids = taught[:, 0], taught[:, 1].long()
    ours = functional.log_softmax(logits / temperature, dim=-1).gather(1, ids)
    rest = _rest(theirs)
    divergence = (theirs.exp() * (theirs - ours)).sum(dim=1)
    beyond = rest * (rest.clamp(min=_LEAST).log() - _rest(ours).clamp(min=_LEAST).log())
    divergence = divergence + torch.where(rest > 0, beyond, 0.0)
    return share * temperature**2 * divergence + (1 - share) * functional.cross_entropy(logits, targets, reduction="none")


def _rest(logs: Tensor) -> Tensor:
    """What is left of all probability; nothing where the sum is one but for rounding."""
    left = 1 - logs.exp().sum(dim=1)
    return torch.where(left > 1e-6, left, torch.zeros_like(left))


LOSS = Loss(units=units, terms=terms, prepare=prepare, with_prepared=with_prepared)
