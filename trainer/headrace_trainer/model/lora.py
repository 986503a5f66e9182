"""LoRA adapters as files: attach, warm-start, save so that equal training gives equal bytes. Knows peft, no Kafka, no loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from headrace_schemas.root_error import HeadraceError
from headrace_trainer.policy import Hyperparameters

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
# What a loader needs. The library adds fields from version to version, and machine paths; they would move the digest.
_CONFIG_FIELDS = (
    "peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "bias",
    "use_rslora", "use_dora", "fan_in_fan_out", "init_lora_weights",
)  # fmt: skip


class AdapterInvalid(HeadraceError):
    """An adapter folder that is no LoRA adapter in safetensors for this base."""


def attach(model: Any, hyper: Hyperparameters, seed: int, parent: Path | None = None) -> tuple[Any, bool]:
    """A trainable PeftModel over `model`, and whether it goes on from `parent`.

    A parent of another shape (rank, alpha or target modules) cannot be continued: the adapter then starts anew.
    """
    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=hyper.r, lora_alpha=hyper.alpha, lora_dropout=hyper.dropout, target_modules="all-linear"
    )
    wrapped = get_peft_model(model, config)
    if parent is None or not hyper.warm_start or not _same_shape(wrapped, parent):
        return wrapped, False
    loaded: Any = set_peft_model_state_dict(wrapped, _tensors(parent))
    if loaded.unexpected_keys:
        raise AdapterInvalid(f"adapter {parent}: {loaded.unexpected_keys[0]} is no weight of this base")
    return wrapped, True


def _same_shape(wrapped: Any, parent: Path) -> bool:
    theirs, ours = config_of(parent), _canonical(wrapped.peft_config["default"].to_dict())
    if any(theirs.get(name) != ours[name] for name in ("r", "lora_alpha", "use_rslora", "use_dora", "target_modules")):
        return False
    expected = {name: tensor.shape for name, tensor in tensors_of(wrapped).items()}
    return expected == {name: tensor.shape for name, tensor in _tensors(parent).items()}


def add(wrapped: Any, folder: Path, name: str) -> None:
    """Loads the adapter in `folder` beside the others, frozen, as `name`. AdapterInvalid when it does not fit the base."""
    config_of(folder)
    _tensors(folder)
    try:
        wrapped.load_adapter(str(folder), adapter_name=name, is_trainable=False)
    except (RuntimeError, ValueError, KeyError) as error:
        raise AdapterInvalid(f"adapter {folder}: {str(error).splitlines()[0]}") from error


def load(model: Any, folder: Path, name: str = "default") -> Any:
    """`model` wrapped with the adapter in `folder`, for inference."""
    config_of(folder)
    _tensors(folder)
    return PeftModel.from_pretrained(model, str(folder), adapter_name=name).eval()


def tensors_of(wrapped: Any) -> dict[str, Tensor]:
    """The adapter's own weights by their names on disk, fp32, on the CPU."""
    state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in state.items()}


def save(wrapped: Any, folder: Path) -> Path:
    """Writes weights and canonical configuration into `folder` (made when absent); nothing else belongs to an adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(sorted(tensors_of(wrapped).items())), folder / WEIGHTS, metadata={"format": "pt"})
    config = _canonical(wrapped.peft_config["default"].to_dict())
    (folder / CONFIG).write_bytes(orjson.dumps(config, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2) + b"\n")
    return folder


def _canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a loader needs; sets become sorted lists, as JSON has no sets."""
    fields = {name: config[name] for name in _CONFIG_FIELDS}
    fields["target_modules"] = sorted(fields["target_modules"])
    return {**fields, "peft_type": "LORA", "inference_mode": True, "base_model_name_or_path": None}


def config_of(folder: Path) -> dict[str, Any]:
    """The adapter's configuration. AdapterInvalid when it is missing, no JSON or no LoRA."""
    try:
        config = orjson.loads((folder / CONFIG).read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise AdapterInvalid(f"adapter {folder}: {CONFIG}: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise AdapterInvalid(f"adapter {folder}: peft_type is not LORA")
    return config


def _tensors(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise AdapterInvalid(f"adapter {folder}: {WEIGHTS}: {error}") from error
