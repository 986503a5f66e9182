"""What a GGUF file calls the parts of a model, by family, and the order that llama.cpp wants rotary weights in. Knows names and
shapes, no files."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from headrace_trainer.artifacts.merge import NotExportable

FAMILIES = {"llama": "llama", "qwen2": "qwen2"}  # of a model's config: the architecture in the file
_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_INNER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def family_of(config: Any) -> str:
    """The architecture in the file. NotExportable for what is none of `FAMILIES`, or scales its positions in another way."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        known = ", ".join(sorted(FAMILIES))
        raise NotExportable(f"model_type = {config.model_type!r}: GGUF is written for {known}; export --format merged")
    scaling = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if scaling not in ("default", "llama3"):
        raise NotExportable(f"rope_type = {scaling!r}: GGUF is written for default and llama3; export --format merged")
    if getattr(config, "use_sliding_window", False):
        raise NotExportable("use_sliding_window = True: GGUF is written without windows; export --format merged")
    return family


def name_of(module: str) -> str:
    """What the file calls a module. NotExportable when it has no name for it."""
    layer = _LAYER.fullmatch(module)
    found = _OUTER.get(module) if layer is None else _INNER.get(layer[2])
    if found is None:
        raise NotExportable(f"{module}: a GGUF file of this family has no such part; export --format merged")
    return found if layer is None else f"blk.{layer[1]}.{found}"


def turned(family: str, name: str, weight: Tensor, config: Any) -> Tensor:
    """`weight` in the order of the file: of llama the two halves of a head's rotary dimensions are interleaved in q and k."""
    part = name.rpartition(".")[2]
    if family != "llama" or part not in ("attn_q", "attn_k"):
        return weight
    heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def rope_factors(model: Any, config: Any) -> Tensor | None:
    """By how much llama3's scaling slows each rotary frequency, [head_dim / 2]; None where nothing is scaled."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if parameters.get("rope_type", "default") == "default":
        return None
    actual: Tensor = model.model.rotary_emb.inv_freq.float()
    exponent = torch.arange(len(actual), dtype=torch.float32) / len(actual)
    unscaled: Tensor = float(parameters["rope_theta"]) ** -exponent
    return unscaled / actual
