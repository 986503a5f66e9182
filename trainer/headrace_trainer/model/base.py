"""The frozen model under an adapter: loading, precision, and the loss at completion positions. Knows transformers, no Kafka.

Rows are right-padded and go through without an attention mask: attention is causal, so nothing real sees the padding. The
output head runs only where a completion token is predicted (1.3x at a vocabulary of 32 k, more at larger ones).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from headrace_schemas.root_error import HeadraceError
from headrace_trainer.spec import Row

Precision = Literal["bf16", "fp32"]


class BaseMissing(HeadraceError):
    """The weights of a base cannot be loaded."""


@dataclass(frozen=True)
class Base:
    """A causal language model with its tokenizer. `model` may be wrapped by an adapter in place later."""

    model: Any
    tokenizer: Any
    device: str

    @property
    def pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id or 0)

    @property
    def positions(self) -> int | None:
        """The most tokens that the model was made for, where it says so. Some fail beyond, the others make no sense there."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else None


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


def _product_seconds(dtype: torch.dtype, size: int = 512, repeats: int = 7) -> float:
    """The best time of a square product, some 10 ms in all: the best one is what other processes did not disturb."""
    matrix, best = torch.ones(size, size, dtype=dtype), math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - began)
    return best


def load_base(weights: str, *, device: str = "cpu", precision: Precision = "fp32") -> Base:
    """Loads by `from_pretrained` from a local folder or hub name; BaseMissing says what is wrong.

    On CUDA with bf16 the frozen weights are held in bf16; on a CPU they stay fp32 and autocast does the rest.
    """
    dtype = torch.bfloat16 if precision == "bf16" and device.startswith("cuda") else torch.float32
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        tokenizer = AutoTokenizer.from_pretrained(weights)
        model = AutoModelForCausalLM.from_pretrained(weights, dtype=dtype)
    except (OSError, ValueError) as error:
        kind = "folder" if os.path.isdir(weights) else "hub name"
        raise BaseMissing(f"base weights {weights!r} ({kind}) cannot be loaded: {str(error).splitlines()[0]}") from error
    if tokenizer.eos_token_id is None:
        raise BaseMissing(f"base weights {weights!r}: the tokenizer has no end-of-text token, so nothing could learn to stop")
    frozen: Any = model
    frozen.requires_grad_(False)
    return Base(frozen.to(device).eval(), tokenizer, device)


def autocast(device: str, precision: Precision) -> AbstractContextManager[Any]:
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=precision == "bf16")


class Collated(NamedTuple):
    """A micro-batch: `inputs` [rows, tokens]; for each completion token its place in the flattened inputs that predicts it,
    its id, and its row."""

    inputs: Tensor
    places: Tensor
    targets: Tensor
    rows: Tensor


def collate(rows: Sequence[Row], pad: int, device: str = "cpu") -> Collated:
    """ValueError for a row without a prompt or completion: its first token would have nothing to be predicted from."""
    width = max(row.length for row in rows) - 1  # the last token predicts nothing
    inputs: list[list[int]] = []
    places: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for index, row in enumerate(rows):
        if not row.prompt or not row.completion:
            raise ValueError(f"row {row.example_id} has no prompt or no completion tokens")
        tokens = [*row.prompt, *row.completion]
        inputs.append(tokens[:-1] + [pad] * (width - len(tokens) + 1))
        first = index * width + len(row.prompt) - 1
        places.extend(range(first, first + len(row.completion)))
        targets.extend(row.completion)
        owners.extend([index] * len(row.completion))
    made = (torch.tensor(values, dtype=torch.long) for values in (inputs, places, targets, owners))
    return Collated(*(tensor.to(device, non_blocking=True) for tensor in made))


def token_losses(model: Any, batch: Collated) -> Tensor:
    """Negative log-likelihood in nats of each completion token, fp32, in the order of `batch.targets`.

    `model` is a causal LM of transformers or a PeftModel of one.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if direct_head(causal):
        body = getattr(causal, causal.base_model_prefix)
        hidden = body(input_ids=batch.inputs, use_cache=False).last_hidden_state
        logits = causal.get_output_embeddings()(hidden.flatten(0, 1)[batch.places])
    else:
        logits = causal(input_ids=batch.inputs, use_cache=False).logits.flatten(0, 1)[batch.places]
    return functional.cross_entropy(logits.float(), batch.targets, reduction="none")


def direct_head(causal: Any) -> bool:
    """Whether logits are just the output layer over the last hidden states; some architectures scale or cap them after it.

    Found out once per model by comparing both ways on a few tokens.
    """
    known = getattr(causal, "_headrace_direct_head", None)
    if known is None:
        body: Any = getattr(causal, causal.base_model_prefix, None)
        known = body is not None and body is not causal and causal.get_output_embeddings() is not None
        if known:
            training = causal.training
            causal.eval()
            with torch.no_grad(), torch.autocast(causal.device.type, enabled=False):
                probe = torch.arange(1, 9, device=causal.device)[None] % causal.config.get_text_config().vocab_size
                ours = causal.get_output_embeddings()(body(input_ids=probe, use_cache=False).last_hidden_state)
                known = torch.allclose(ours, causal(input_ids=probe, use_cache=False).logits, rtol=1e-3, atol=1e-4)
            causal.train(training)
        causal._headrace_direct_head = known
    return bool(known)
