"""The state of a run on disk: one safetensors file, replaced atomically, so that a kill leaves the old one or the new one.

Knows tensors and JSON, not what they mean. No pickle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import orjson
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headrace_streams import durable_file

NAME = "checkpoint.safetensors"
PREPARED = "prepared.safetensors"  # what is computed once: it is not written anew with each checkpoint


class Checkpoint(NamedTuple):
    tensors: dict[str, Tensor]
    notes: dict[str, Any]  # JSON-able


def write(folder: Path, checkpoint: Checkpoint, name: str = NAME) -> None:
    """Replaces the checkpoint of `folder`; it is on disk before the old one is gone."""
    temporary = folder / f"{name}.tmp"
    save_file(checkpoint.tensors, temporary, metadata={"notes": orjson.dumps(checkpoint.notes).decode()})
    durable_file.replace(temporary, folder / name)


def read(folder: Path, run: str, name: str = NAME) -> Checkpoint | None:
    """The checkpoint in `folder` if there is a whole one whose note `run` is this run's, else None: begin at the beginning."""
    try:
        with safe_open(folder / name, framework="pt") as file:
            notes = orjson.loads((file.metadata() or {}).get("notes", "{}"))
            if notes.get("run") != run:
                return None
            return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, notes)  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, orjson.JSONDecodeError):
        return None
