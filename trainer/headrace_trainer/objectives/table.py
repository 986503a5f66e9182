"""What a run can minimise, a row each: what it learns from, what it costs, which measures tell of it. Knows where the formulas
are and no torch: who reads a policy asks here.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from headrace_trainer.objectives.loss import Loss

Measure = Literal["success", "margin", "loss"]


class Objective(NamedTuple):
    """`needs`, `costs`: for people. `judged_by`: what can show that it learnt. `avoids`: it learns from bad answers, too.
    `compares`: with the model as the run begins, so that nothing is dropped out. `taught`: by another base. `rows`: of a
    unit, which go through one pass. `file`: the module whose `LOSS` it is; `parts`: or objectives that are minimised one
    after the other."""

    name: str
    needs: str
    costs: str
    judged_by: Sequence[Measure] = ("success", "margin", "loss")
    avoids: bool = False
    compares: bool = False
    taught: bool = False
    rows: int = 1
    file: str = ""
    parts: tuple[str, ...] = ()

    def losses(self) -> list[Loss]:
        """How it is computed, part by part; loads torch."""
        return [import_module(OBJECTIVES[part].file).LOSS for part in self.parts or (self.name,)]


_HERE = "headrace_trainer.objectives"
# By construction a preference says nothing of how likely good answers become, only beside bad ones: no loss can show that.
_PREFERENCE: Sequence[Measure] = ("success", "margin")
_ROWS = (
    Objective("sft", "good answers", "a pass a row", file=f"{_HERE}.sft"),
    Objective(
        "dpo", "pairs of a better and a worse answer", "two passes a pair, and once two without gradients", _PREFERENCE,
        avoids=True, compares=True, rows=2, file=f"{_HERE}.dpo",
    ),
    Objective(
        "kto", "good answers and bad ones, to whatever questions", "a pass a row, one without gradients, and once two of these",
        _PREFERENCE, avoids=True, compares=True, file=f"{_HERE}.kto",
    ),
    Objective(
        "sft_then_dpo", "good answers, then pairs", "a run of each", _PREFERENCE, avoids=True, compares=True,
        rows=2, parts=("sft", "dpo"),
    ),
    Objective(
        "distillation", "good answers, and another base of the same vocabulary", "a pass a row, and once one of the other base",
        taught=True, file=f"{_HERE}.distillation",
    ),
    Objective(
        "self_distillation", "answers that were corrected", "a pass a row, and once one without gradients",
        file=f"{_HERE}.self_distillation",
    ),
)  # fmt: skip
OBJECTIVES = {row.name: row for row in _ROWS}


def may_avoid(name: str) -> bool:
    """Whether an objective of an earlier run learns from bad answers; one that is in the table no more may have."""
    return name not in OBJECTIVES or OBJECTIVES[name].avoids
