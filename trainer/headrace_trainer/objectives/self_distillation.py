"""Self-distillation from words: the model as the run begins, shown what somebody corrected, teaches itself to say so without it
(as Snell et al. 2022, arXiv 2209.15189). Knows corrections; the loss is that of distillation.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs
from torch import Tensor

from headrace_schemas.chat import answer_of, text_of
from headrace_schemas.derived import Content
from headrace_schemas.inputs import ContextItem
from headrace_trainer.data.pairs import is_corrected
from headrace_trainer.data.rows import RowTokeniser, RowUnfit, TokenisedExample, TokenRow
from headrace_trainer.model import head
from headrace_trainer.objectives import distillation
from headrace_trainer.objectives.distillation import TaughtRow, prepared_by
from headrace_trainer.objectives.loss import Computing, Loss, Units
from headrace_trainer.policy import Hyperparameters

HINT = "An earlier answer was:\n{output}\n\nIt was corrected to:\n{target}"


def units(examples: Sequence[TokenisedExample], tokeniser: RowTokeniser, hyper: Hyperparameters) -> Units:
    """Corrections, each with the question that has it in its context; `no_words` of others."""
    found: list[TaughtRow] = []
    left_out: dict[str, list[str]] = {}
    for each in examples:
        if not each.scored:
            continue
        if not is_corrected(each.example):
            left_out.setdefault("no_words", []).append(each.row.example_id)
            continue
        try:
            asked = tokeniser.example(structs.replace(each.example, content=_hinted(each.example.content)), 1.0).row
        except RowUnfit as error:
            left_out.setdefault(error.reason, []).append(each.row.example_id)
            continue
        row = each.row
        found.append(TaughtRow(row.example_id, row, TokenRow(row.example_id, asked.prompt, row.completion), row.weight))
    return Units(found, left_out)


def prepare(computing: Computing, rows: Sequence[TaughtRow]) -> dict[str, Tensor]:
    return prepared_by(computing, rows, head.vocabulary(computing.base.model))


def _hinted(content: Content) -> Content:
    hint = ContextItem(content=HINT.format(output=text_of(answer_of(content.output)), target=text_of(answer_of(content.target))))
    known = content.context
    items = [] if known is None else [ContextItem(content=known)] if isinstance(known, str) else known
    return structs.replace(content, context=[*items, hint])


LOSS = Loss(units=units, terms=distillation.terms, prepare=prepare, with_prepared=distillation.with_prepared)
