"""A base with an adapter in its weights, as a folder that `from_pretrained` takes. Knows models, no log."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from headrace_schemas.root_error import USAGE, HeadraceError
from headrace_trainer.artifacts.source import ModelSource
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base, load_config
from headrace_trainer.model.hub import folder_of
from headrace_trainer.model.quantisation import is_quantised


class NotExportable(HeadraceError):
    """What a model cannot be written as; the message says why, and what can be done."""

    exit_code = USAGE


class MergedModel(NamedTuple):
    """In fp32 on the CPU; `dtype`: in which the base's weights are, and the merged ones are written; `folder`: of the base."""

    model: Any
    tokenizer: Any
    dtype: torch.dtype
    folder: Path


def merged(source: ModelSource) -> MergedModel:
    """The base with the adapter of `source` added to its weights, in fp32 and then rounded once. NotExportable for a quantised
    base: what the adapter changes would be lost in its rounding. BaseMissing, AdapterInvalid."""
    where = f"base {source.base!r}"
    hint = "export --format adapter, and merge it with the weights before they were quantised (--base)"
    if source.loading.quantisation is not None:
        raise NotExportable(f"{where}: quantisation = {source.loading.quantisation!r}: it can't be merged; {hint}")
    folder = folder_of(source.loading).path
    trusted = source.loading.trust_remote_code
    config = load_config(str(folder), trusted)
    if getattr(config, "quantization_config", None) is not None:
        raise NotExportable(f"{where}: quantization_config in its config.json: it can't be merged; {hint}")
    base = load_base(str(folder), device="cpu", precision="fp32", trust_remote_code=trusted)
    if is_quantised(base.model):
        raise NotExportable(f"{where}: its weights are quantised: it can't be merged; {hint}")
    model = base.model.float()
    if source.adapter is not None:
        model = lora.load(model, source.adapter).merge_and_unload(safe_merge=True)
    dtype = getattr(config, "dtype", None)
    return MergedModel(model, base.tokenizer, dtype if isinstance(dtype, torch.dtype) else torch.float32, folder)


def write_merged(found: MergedModel, out: Path) -> list[Path]:
    """Weights in the base's own format as safetensors, configuration and tokenizer. The files."""
    out.mkdir(parents=True, exist_ok=True)
    found.model.to(found.dtype).save_pretrained(out, safe_serialization=True)
    found.tokenizer.save_pretrained(out)
    return sorted(path for path in out.iterdir() if path.is_file())
