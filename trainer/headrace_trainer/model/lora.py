"""LoRA adapters as files: attach, go on from one, save so that equal training gives equal bytes, load and hold what was loaded
against the file. Knows peft, no Kafka, no loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from headrace_trainer.model import fused_lora, targets
from headrace_trainer.model.methods import METHODS
from headrace_trainer.model.sharding import whole
from headrace_trainer.model.targets import AdapterInvalid as AdapterInvalid
from headrace_trainer.policy import Hyperparameters

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
# Written always. Of the library's other fields those are written whose value is not the default: whatever changes the function
# is among them, and a new version's new fields do not move the digest of an adapter that makes no use of them.
_CONFIG_FIELDS = (
    "peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "bias",
    "use_rslora", "use_dora", "fan_in_fan_out", "init_lora_weights",
)  # fmt: skip
# Of these machine paths, versions and how it was made; no loader needs them.
_NEVER = frozenset({"peft_version", "auto_mapping", "base_model_name_or_path", "inference_mode"})
_DEFAULTS: dict[str, Any] = LoraConfig().to_dict()  # type: ignore[no-untyped-call]
_SHAPE = ("use_dora", "rank_pattern", "alpha_pattern")  # another one of these: nothing is carried over


def attach(model: Any, hyper: Hyperparameters, seed: int, parent: Path | None = None) -> tuple[Any, bool]:
    """A trainable PeftModel over `model`, and whether it goes on from `parent`. AdapterInvalid when this base cannot take it.

    A parent of another rank, alpha or of fewer layers is grown without a change of what it computes (a smaller rank: the
    nearest of that rank); one that has layers which are not trained any more cannot be continued: the adapter then starts anew.
    """
    torch.manual_seed(seed)
    found = targets.Targets([], []) if METHODS[hyper.method].whole else targets.targets_of(model, hyper.target_modules)
    if found.parameters and hyper.dropout:
        raise AdapterInvalid(
            f"dropout = {hyper.dropout}: experts ({targets.last_names(found.parameters)}) are trained without; write dropout = 0"
        )
    _known_modules(model, hyper.modules_to_save)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=hyper.r, lora_alpha=hyper.alpha, lora_dropout=hyper.dropout, target_modules=found.modules,
        target_parameters=found.parameters or None, modules_to_save=list(hyper.modules_to_save) or None,
        fan_in_fan_out=_transposed(model, found.modules), use_rslora=hyper.rslora, use_dora=hyper.dora,
        init_lora_weights=True if hyper.init == "default" else hyper.init,
    )  # fmt: skip
    if METHODS[hyper.method].whole:
        config.target_modules, config.modules_to_save = DUMMY_TARGET_MODULES, targets.whole_layers(model)
    try:
        wrapped = get_peft_model(model, config)
    except (ValueError, NotImplementedError) as error:  # layers that the library knows not to work
        raise AdapterInvalid(f"no adapter fits this base: {one_line(error)}") from error
    fused_lora.fuse(wrapped)
    for value in wrapped.parameters():
        if value.requires_grad:
            value.data = value.data.float()  # layers trained whole come in the base's format
    if parent is None or not hyper.warm_start:
        return wrapped, False
    carried = _carried(wrapped, parent)
    if carried is None:
        return wrapped, False
    loaded: Any = set_peft_model_state_dict(wrapped, carried)
    if loaded.unexpected_keys:
        raise AdapterInvalid(f"adapter {parent}: {loaded.unexpected_keys[0]} is no weight of this base")
    return wrapped, True


def _known_modules(model: Any, names: Sequence[str]) -> None:
    modules = [name for name, _ in model.named_modules() if name]
    for name in names:
        if not any(targets.ends_with(module, name) for module in modules):
            known = targets.last_names(modules)
            raise AdapterInvalid(f"modules_to_save {name!r}: this base has no such layer; it has {known}")


def _transposed(model: Any, modules: Sequence[str]) -> bool:
    """Whether the layers keep their weights as [in, out], as GPT-2's do."""
    return any(isinstance(model.get_submodule(name), Conv1D) for name in modules)


def _carried(wrapped: Any, parent: Path) -> dict[str, Tensor] | None:
    """The tensors of `parent` in the shapes of `wrapped`, which then computes what `parent` does; None when that cannot be."""
    theirs, ours = config_of(parent), canonical(wrapped.peft_config["default"].to_dict())
    if any((theirs.get(name) or None) != (ours.get(name) or None) for name in _SHAPE):
        return None
    old, new = tensors_in(parent), tensors_of(wrapped)
    if not old.keys() <= new.keys():
        return None
    factor = _scale(theirs) / _scale(ours)
    for name, tensor in old.items():
        if ".lora_B." in name or (".lora_A." not in name and tensor.shape == new[name].shape):
            continue
        if ".lora_A." not in name:
            return None
        other = name.replace(".lora_A.", ".lora_B.")
        if other not in old or tensor.shape[1:] != new[name].shape[1:] or old[other].shape[0] != new[other].shape[0]:
            return None
        new[name], new[other] = _fitted(tensor, old[other] * factor, new[name])
    return new | {name: tensor for name, tensor in old.items() if ".lora_A." not in name and ".lora_B." not in name}


def _scale(config: Mapping[str, Any]) -> float:
    rank = float(config["r"])
    return float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)


def _fitted(down: Tensor, up: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
    """`down` [r, in] and `up` [out, r] in the rank of `fresh`, whose further rows begin where `up` is zero."""
    rank, wanted = len(down), len(fresh)
    if wanted >= rank:
        return torch.cat([down, fresh[rank:]]), torch.cat([up, up.new_zeros(len(up), wanted - rank)], dim=1)
    left, small = torch.linalg.qr(up)
    right, other = torch.linalg.qr(down.T)
    rotation, values, turned = torch.linalg.svd(small @ other.T)
    roots = values[:wanted].sqrt()
    return (right @ turned[:wanted].T * roots).T.contiguous(), left @ rotation[:, :wanted] * roots


def add(wrapped: Any, folder: Path, name: str) -> None:
    """Loads the adapter in `folder` beside the others, frozen, as `name`. AdapterInvalid when it does not fit the base."""
    config_of(folder)
    expected = tensors_in(folder)
    with _loading(folder):
        wrapped.load_adapter(str(folder), adapter_name=name, is_trainable=False, torch_device="cpu")
    _same(wrapped, folder, name, expected)


def load(model: Any, folder: Path, name: str = "default") -> Any:
    """`model` wrapped with the adapter in `folder`, for inference. AdapterInvalid when it does not fit the base: not one tensor
    may be missing, left over or other than in the file."""
    config_of(folder)
    expected = tensors_in(folder)
    with _loading(folder):
        wrapped = PeftModel.from_pretrained(model, str(folder), adapter_name=name, torch_device="cpu").eval()
    _same(wrapped, folder, name, expected)
    return wrapped


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """What the library only warns of is found by `_same`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    except (RuntimeError, ValueError, KeyError) as error:
        raise AdapterInvalid(f"adapter {folder}: {one_line(error)}") from error


def _same(wrapped: Any, folder: Path, name: str, expected: Mapping[str, Tensor]) -> None:
    """The library only warns of tensors that are missing and says nothing of those that are left over."""
    loaded = get_peft_model_state_dict(wrapped, adapter_name=name, save_embedding_layers=False)
    for tensor in sorted(expected.keys() ^ loaded.keys()):
        wrong = "is missing" if tensor in loaded else "is no weight of this base"
        raise AdapterInvalid(f"adapter {folder}: {tensor} {wrong}")
    for tensor, value in loaded.items():
        if not torch.isfinite(expected[tensor]).all():
            raise AdapterInvalid(f"adapter {folder}: {tensor} holds values that are no numbers")
        if not torch.equal(expected[tensor].to(value.dtype), value.detach().cpu()):
            raise AdapterInvalid(f"adapter {folder}: {tensor} was not loaded as it is")


def tensors_of(wrapped: Any) -> dict[str, Tensor]:
    """The adapter's own weights by their names on disk, fp32, on the CPU."""
    state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return {name: whole(tensor.detach()).to("cpu", torch.float32).contiguous() for name, tensor in state.items()}


def save(wrapped: Any, folder: Path, base: str | None = None, *, writes: bool = True) -> Path:
    """Writes weights and canonical configuration into `folder` (made when absent); nothing else belongs to an adapter. `base`:
    what loaders that look for the base by themselves are told; never a path of this machine. One of several processes
    `writes`."""
    tensors = tensors_of(wrapped)
    if not writes:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(sorted(tensors.items())), folder / WEIGHTS, metadata={"format": "pt"})
    config = canonical(wrapped.peft_config["default"].to_dict()) | {"base_model_name_or_path": base}
    (folder / CONFIG).write_bytes(orjson.dumps(config, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2) + b"\n")
    return folder


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a loader needs; sets become sorted lists, as JSON has no sets."""
    fields = {name: config[name] for name in _CONFIG_FIELDS}
    fields |= {
        name: value
        for name, value in config.items()
        if name not in _NEVER and value != _DEFAULTS.get(name) and value not in ({}, [])
    }
    fields = {name: sorted(value) if isinstance(value, set) else value for name, value in fields.items()}
    if not isinstance(fields["target_modules"], str):
        fields["target_modules"] = sorted(fields["target_modules"] or [])
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


def is_whole(folder: Path) -> bool:
    """Whether an adapter is layers that were trained whole, and none on them. AdapterInvalid."""
    return config_of(folder).get("target_modules") == DUMMY_TARGET_MODULES


def tensors_in(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter's file. AdapterInvalid when it is none or cut off."""
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise AdapterInvalid(f"adapter {folder}: {WEIGHTS}: {error}") from error


def one_line(error: Exception, limit: int = 300) -> str:
    return " ".join(str(error).split())[:limit]
