"""Bases whose linear layers are held in four bits (NF4, its scales quantised once more), under an adapter in full precision.
Knows transformers and bitsandbytes, which is optional; no adapter, no rows.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from headrace_trainer.model.identity import BaseMissing

BITS = 4.127  # a weight: four, and the scales of 64 weights in eight bits, those of 256 scales in 32


def loading_options(quantisation: str | None, device: str, compute: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` is told; nothing where nothing is quantised. BaseMissing when it cannot be done here."""
    if quantisation is None:
        return {}
    if find_spec("bitsandbytes") is None:
        raise BaseMissing(
            f'quantisation = "{quantisation}" needs bitsandbytes, which is not installed: pip install "headrace[nf4]"'
        )
    if device.split(":")[0] not in ("cuda", "cpu"):
        raise BaseMissing(f'quantisation = "{quantisation}": device {device} holds no quantised weights; use cuda or cpu')
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=quantisation, bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
    return {"quantization_config": config, "device_map": {"": device}}


def keep_trainable(model: Any) -> None:
    """Forbids what bitsandbytes does on CPUs with bf16 instructions: a forward pass in eval mode packs the weights anew for good,
    and gradients after it raise or are silently wrong."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_quantised(causal: Any) -> bool:
    """Whether adapters must not be merged into the weights, which would round what they change."""
    return bool(getattr(causal, "is_quantized", False))


def saved_bytes(causal: Any, compute: torch.dtype) -> tuple[int, int]:
    """Of a base that is not quantised: by how much its weights would shrink, and what the largest of its layers takes while it
    computes."""
    output = causal.get_output_embeddings()
    layers = [module.weight for module in causal.modules() if isinstance(module, nn.Linear) and module is not output]
    shrunk = sum(weight.numel() * (weight.element_size() - BITS / 8) for weight in layers)
    return int(shrunk), max((weight.numel() for weight in layers), default=0) * compute.itemsize
