"""Which layers of a base an adapter is put on. Knows torch modules and what peft makes of names, no ranks, no files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from headrace_schemas.root_error import HeadraceError

ALL_LINEAR = "all-linear"
_SHOWN = 12  # names in an error


class AdapterInvalid(HeadraceError):
    """An adapter that cannot be put on this base, or a folder that is no LoRA adapter in safetensors for it."""


class Targets(NamedTuple):
    """Full names: `modules` are layers; `parameters` are tensors that are no layer of their own, as fused experts are."""

    modules: list[str]
    parameters: list[str]


def targets_of(model: Any, wanted: str | Sequence[str] = ALL_LINEAR) -> Targets:
    """What `wanted` names in a causal LM: `all-linear`, or ends of names such as `q_proj` or `self_attn.q_proj`. AdapterInvalid
    when a name is no layer's.

    All linear layers are those but the output head. Fused experts of a mixture are not among them: the library makes the change
    of *all* experts anew in each pass (as much memory as the experts take), takes no dropout there, and servers do not load it.
    Who wants them names them (`experts.gate_up_proj`).
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    if wanted == ALL_LINEAR:
        head = model.get_output_embeddings()
        names = [name for name in linear if model.get_submodule(name) is not head]
        if not (modules := _untouched(model, names)):
            raise AdapterInvalid(f"base of type {_kind(model)}: it has no linear layers to put an adapter on")
        return Targets(modules, [])
    chosen = Targets([], [])
    layers = [*linear, *(name for name, module in model.named_modules() if isinstance(module, nn.Embedding))]
    fused = [name for name, value in model.named_parameters() if value.dim() == 3]
    for name in [wanted] if isinstance(wanted, str) else wanted:
        modules = [layer for layer in layers if ends_with(layer, name)]
        parameters = [] if modules else [tensor for tensor in fused if ends_with(tensor, name)]
        if not modules and not parameters:
            known = last_names([*layers, *fused])
            raise AdapterInvalid(f"target_modules {name!r}: base of type {_kind(model)} has no such layer; it has {known}")
        chosen.modules.extend(modules)
        chosen.parameters.extend(parameters)
    lost = sorted(set(chosen.modules) - set(_untouched(model, chosen.modules)))
    if lost:
        raise AdapterInvalid(f"target_modules: the library takes {lost[0]!r} for the experts of a {_kind(model)}; leave it out")
    return Targets(sorted(set(chosen.modules)), sorted(set(chosen.parameters)))


def whole_layers(model: Any) -> list[str]:
    """Full names of all layers with weights of their own, without an embedding that is also the output: trained as two copies it
    would be two."""
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    left = {id(model.get_input_embeddings()), id(model.get_output_embeddings())} if tied else set()
    layers = [name for name, module in model.named_modules() if id(module) not in left and list(module.parameters(recurse=False))]
    if any(list(model.get_submodule(name).children()) for name in layers):
        raise AdapterInvalid(f'method = "full": a {_kind(model)} keeps weights beside its layers, as fused experts do; use lora')
    return sorted(layers)


def ends_with(name: str, end: str) -> bool:
    """Whether a dotted name ends with whole parts of another."""
    return name == end or name.endswith(f".{end}")


def last_names(names: Iterable[str]) -> str:
    """The last parts of dotted names, each once, as many as fit a line."""
    last = sorted({name.rpartition(".")[2] for name in names})
    return ", ".join(last[:_SHOWN]) + (" …" if len(last) > _SHOWN else "")


def _untouched(model: Any, names: Sequence[str]) -> list[str]:
    """Those that the library leaves as they are: in some mixtures it takes layers for fused experts, by their last name."""
    config = LoraConfig(target_modules=list(names))
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError as error:
        raise AdapterInvalid(f"target_modules: {str(error).splitlines()[0]}") from error
    return sorted(config.target_modules or ())


def _kind(model: Any) -> str:
    return str(getattr(model.config, "model_type", type(model).__name__))
