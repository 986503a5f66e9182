"""The frozen model under an adapter, loaded with its tokenizer. Knows transformers, no rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from headrace_trainer.model.identity import BaseMissing as BaseMissing
from headrace_trainer.model.precision import Precision, weights_dtype
from headrace_trainer.model.quantisation import keep_trainable, loading_options


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
        return positions_of(self.model.config)


def load_base(
    weights: str,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    computes_on: str | None = None,
    quantisation: str | None = None,
) -> Base:
    """Loads by `from_pretrained` from the folder of a base's files, in the number format of `device`, or of the one that it
    `computes_on` when it moves there later. BaseMissing says what is wrong."""
    logging.disable_progress_bar()
    dtype = weights_dtype(computes_on or device, precision)
    options = loading_options(quantisation, device, torch.bfloat16 if precision == "bf16" else torch.float32)
    tokenizer = load_tokenizer(weights, trust_remote_code)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            weights,
            config=load_config(weights, trust_remote_code),
            dtype=dtype,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            **options,
        )
    except (OSError, ValueError, ImportError) as error:
        raise BaseMissing(f"base weights {weights!r} cannot be loaded: {_reason(error)}") from error
    frozen: Any = model
    frozen.requires_grad_(False)
    keep_trainable(frozen)
    return Base((frozen if options else frozen.to(device)).eval(), tokenizer, device)


def load_tokenizer(weights: str, trust_remote_code: bool) -> Any:
    """BaseMissing when it is not there or says nothing to stop by."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(weights, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise BaseMissing(f"base weights {weights!r} cannot be loaded: {_reason(error)}") from error
    if tokenizer.eos_token_id is None:
        raise BaseMissing(f"base weights {weights!r}: the tokenizer has no end-of-text token, so nothing could learn to stop")
    return tokenizer


def load_config(weights: str, trust_remote_code: bool) -> Any:
    """Without a pad that lies outside of the embedding, which no model can be made with; rows are filled up by `Base.pad`."""
    config = AutoConfig.from_pretrained(weights, trust_remote_code=trust_remote_code, local_files_only=True)
    for part in (config, config.get_text_config()):
        pad, rows = getattr(part, "pad_token_id", None), getattr(part, "vocab_size", None)
        if isinstance(pad, int) and isinstance(rows, int) and not 0 <= pad < rows:
            part.pad_token_id = None
    return config


def positions_of(config: Any) -> int | None:
    """The most tokens that a model was made for, where it says so. Some fail beyond, the others make no sense there."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def within_positions(config: Any, tokens: int) -> int:
    """So many tokens, or as many as the model was made for."""
    return min(tokens, positions_of(config) or tokens)


def _reason(error: Exception) -> str:
    """The library's reason in one line, with the key that mends it."""
    said = " ".join(str(error).split())
    if "trust_remote_code" in said:
        return "its code comes with the weights: write trust_remote_code = true in [train.bases] if you trust who wrote it"
    asked = isinstance(error, ImportError | ValueError) and "attention" in said.lower()
    return f"{'attn_implementation: ' if asked else ''}{said[:300]}"
