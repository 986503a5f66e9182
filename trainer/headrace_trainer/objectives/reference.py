"""What two answers were worth to the model as the run begins: what objectives that compare with it compute once. Knows units of
two rows, no formula.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from headrace_trainer.objectives.loss import Computing, replaced
from headrace_trainer.objectives.sft import log_likelihoods


def prepare(computing: Computing, units: Sequence[Any]) -> dict[str, Tensor]:
    """`reference` [units, 2]: log-probabilities in nats of the two `rows` of each unit."""
    found = log_likelihoods(computing, [row for unit in units for row in unit.rows])
    return {"reference": torch.tensor(found, dtype=torch.float64).reshape(-1, 2)}


def with_prepared(units: Sequence[Any], tensors: Mapping[str, Tensor]) -> list[Any]:
    reference = tensors["reference"].tolist()
    return [replaced(unit, reference=(one, other)) for unit, (one, other) in zip(units, reference, strict=True)]
