"""The moments of the optimiser at the end of a run, as a file beside its adapter: what the next run of the chain goes on with.

Knows tensors by the names of their parameters, not what they mean. Equal runs write equal bytes. No pickle.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from headrace_trainer.model.sharding import as_part_of, for_file

NAME = "optimiser.safetensors"
KEYS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW, for each parameter


def tensors_of(optimiser: Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the optimiser holds of the named parameters, as `key.name`; nothing of those without a gradient so far."""
    return {
        f"{key}.{name}": optimiser.state[parameter][key]
        for name, parameter in parameters.items()
        if parameter in optimiser.state
        for key in KEYS
    }


def adopt(optimiser: Optimizer, parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """The reverse: of a model that several processes share, each takes its part. `step` stays on the CPU, where AdamW counts."""
    for name, parameter in parameters.items():
        if f"exp_avg.{name}" in tensors:
            found = {key: tensors[f"{key}.{name}"] for key in KEYS}
            optimiser.state[parameter] = {
                key: value if key == "step" else as_part_of(value, parameter) for key, value in found.items()
            }


def write(folder: Path, optimiser: Optimizer, parameters: Mapping[str, Tensor], *, writes: bool = True) -> None:
    """Into `folder`, of which nothing stays that was there. Several processes that share a model call this together, and one of
    them `writes`."""
    held = for_file(tensors_of(optimiser, parameters))
    if writes:
        shutil.rmtree(folder, ignore_errors=True)  # left of a kill: the store takes no half files
        folder.mkdir(parents=True)
        save_file(dict(sorted(held.items())), folder / NAME, metadata={"format": "pt"})


def read(folder: Path, parameters: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors in `folder`, or None where they are of other parameters (a rank or layers that were changed since), or no
    numbers: the optimiser then begins anew. OSError where they can't be read: a run does not become another one by that."""
    try:
        tensors = load_file(folder / NAME)
    except SafetensorError:
        return None
    shapes = {f"{key}.{name}": value.shape for name, value in parameters.items() for key in KEYS if key != "step"}
    found = {name: value.shape for name, value in tensors.items() if not name.startswith("step.")}
    counted = {f"step.{name}" for name in parameters}
    if found != shapes or tensors.keys() - shapes.keys() != counted:
        return None
    return tensors if all(bool(torch.isfinite(value).all()) for value in tensors.values()) else None
