"""On which device and in which number format a job computes. Knows torch and a little of processors, no model."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any, Literal

import torch

from headrace_schemas.derived import Surroundings

Precision = Literal["bf16", "fp32"]


def device_for(wanted: str = "auto") -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def precision_for(wanted: str, device: str) -> Precision:
    """What "auto" means here: bf16 on CUDA from capability 8; on a CPU where its products are faster by half than fp32's.

    Measured, because a processor's flags do not tell: some with AVX512_BF16 reach a quarter of fp32's time, others double it.
    """
    if wanted == "bf16" or wanted == "fp32":
        return wanted  # type: ignore[return-value]
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    if not torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported():
        return "fp32"
    return "bf16" if _product_seconds(torch.float32) >= 1.5 * _product_seconds(torch.bfloat16) else "fp32"


def surroundings_of(device: str, threads: int | None = None, processes: int = 1) -> Surroundings:
    """On what this process computes; `threads` when torch is not to decide them."""
    cuda = device.startswith("cuda")
    capability = torch.backends.cpu.get_cpu_capability()
    return Surroundings(
        device=torch.cuda.get_device_name(device) if cuda else "cpu",
        instructions=".".join(map(str, torch.cuda.get_device_capability(device))) if cuda else capability,
        threads=threads or torch.get_num_threads(),
        torch=str(torch.__version__),  # a class of its own, which is no JSON
        transformers=version("transformers"),
        peft=version("peft"),
        processes=processes if processes > 1 else None,
    )


def _product_seconds(dtype: torch.dtype, size: int = 512, repeats: int = 7) -> float:
    """The best time of a square product, some 10 ms in all: the best one is what other processes did not disturb."""
    matrix, best = torch.ones(size, size, dtype=dtype), math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - began)
    return best


def weights_dtype(device: str, precision: Precision) -> torch.dtype:
    """What frozen weights are held in: bf16 on CUDA with bf16; on a CPU they stay fp32 and autocast does the rest."""
    return torch.bfloat16 if precision == "bf16" and device.startswith("cuda") else torch.float32


def autocast(device: str, precision: Precision) -> AbstractContextManager[Any]:
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=precision == "bf16")
