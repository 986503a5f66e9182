"""The frozen model under an adapter: loaded with its tokenizer, asked for logits at positions. Knows transformers, no rows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from headrace_schemas.root_error import HeadraceError
from headrace_trainer.model.precision import Precision


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
        """What fills up short rows. Nothing learns from it, but it is looked up: a tokenizer's may lie outside of the model."""
        rows = self.model.get_input_embeddings().num_embeddings
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(int(token) for token in ids if token is not None and token < rows)

    @property
    def positions(self) -> int | None:
        """The most tokens that the model was made for, where it says so. Some fail beyond, the others make no sense there."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit if isinstance(limit, int) and limit > 0 else None


def load_base(weights: str, *, device: str = "cpu", precision: Precision = "fp32") -> Base:
    """Loads by `from_pretrained` from a local folder or hub name; BaseMissing says what is wrong.

    On CUDA with bf16 the frozen weights are held in bf16; on a CPU they stay fp32 and autocast does the rest.
    """
    dtype = torch.bfloat16 if precision == "bf16" and device.startswith("cuda") else torch.float32
    logging.disable_progress_bar()
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


def logits_at(model: Any, inputs: Tensor, positions: Tensor) -> Tensor:
    """Logits [positions, vocabulary] of `inputs` [rows, tokens] at `positions` of the flattened inputs.

    `model` is a causal LM of transformers or a PeftModel of one. The output head runs at these positions only (1.3x at a
    vocabulary of 32 k, more at larger ones).
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not direct_head(causal):
        return causal(input_ids=inputs, use_cache=False).logits.flatten(0, 1)[positions]  # type: ignore[no-any-return]
    body = getattr(causal, causal.base_model_prefix)
    hidden = body(input_ids=inputs, use_cache=False).last_hidden_state
    return causal.get_output_embeddings()(hidden.flatten(0, 1)[positions])  # type: ignore[no-any-return]


def direct_head(causal: Any) -> bool:
    """Whether logits are just the output layer over the last hidden states; some architectures scale or cap them after it.

    Found out once per model by comparing both ways on a few tokens.
    """
    direct = getattr(causal, "_headrace_direct_head", None)
    if direct is None:
        body: Any = getattr(causal, causal.base_model_prefix, None)
        direct = body is not None and body is not causal and causal.get_output_embeddings() is not None
        if direct:
            training = causal.training
            causal.eval()
            with torch.no_grad(), torch.autocast(causal.device.type, enabled=False):
                probe = torch.arange(1, 9, device=causal.device)[None] % causal.config.get_text_config().vocab_size
                ours = causal.get_output_embeddings()(body(input_ids=probe, use_cache=False).last_hidden_state)
                direct = torch.allclose(ours, causal(input_ids=probe, use_cache=False).logits, rtol=1e-3, atol=1e-4)
            causal.train(training)
        causal._headrace_direct_head = direct
    return bool(direct)
