"""Answers of a model to prompts, with one of its adapters or as the base. Knows models and tokens, no graders and no examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from headrace_trainer.data.rows import TokenRow
from headrace_trainer.model.base import Base
from headrace_trainer.model.precision import Precision, autocast
from headrace_trainer.model.stops import stop_ids
from headrace_trainer.policy import EvaluationPolicy


@contextmanager
def serving(model: Any, adapter: str | None, *, merged: bool = True) -> Iterator[None]:
    """The model answers with `adapter` (None: as the base). Merged into the weights it generates 1.5x as fast; weights in
    bf16 are left alone, as merging and unmerging would not give them back exactly enough."""
    if adapter is None:
        with model.disable_adapter():
            yield
        return
    model.set_adapter(adapter)
    if not merged or model.dtype != torch.float32:
        yield
        return
    model.merge_adapter([adapter])
    try:
        yield
    finally:
        model.unmerge_adapter()


@torch.no_grad()
def generate(model: Any, rows: Sequence[TokenRow], base: Base, policy: EvaluationPolicy, precision: Precision) -> list[str]:
    """Greedy answers to the prompts of `rows`, in their order, without special tokens. Each may be up to twice as long as the
    longest reference of `rows` and 16 tokens more, as far as the model reaches."""
    model.eval()
    causal = model.get_base_model()
    new_tokens = min(policy.max_new_tokens, 2 * max(len(row.completion) for row in rows) + 16)
    if base.positions is not None:
        new_tokens = max(1, min(new_tokens, base.positions - max(len(row.prompt) for row in rows)))
    make_config: Any = GenerationConfig
    config = make_config(
        do_sample=False, max_new_tokens=new_tokens, eos_token_id=sorted(stop_ids(base.tokenizer, causal)), pad_token_id=base.pad
    )
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].prompt))
    texts: dict[int, str] = {}
    for start in range(0, len(order), policy.batch_rows):
        chosen = order[start : start + policy.batch_rows]
        width = max(len(rows[index].prompt) for index in chosen)
        padded = [[base.pad] * (width - len(rows[index].prompt)) + list(rows[index].prompt) for index in chosen]
        mask = [[0] * (width - len(rows[index].prompt)) + [1] * len(rows[index].prompt) for index in chosen]
        inputs = {"input_ids": torch.tensor(padded, device=base.device), "attention_mask": torch.tensor(mask, device=base.device)}
        with autocast(base.device, precision):
            outputs = causal.generate(**inputs, generation_config=config)
        decoded = base.tokenizer.batch_decode(outputs[:, width:], skip_special_tokens=True)
        texts.update(zip(chosen, decoded, strict=True))
    return [texts[index] for index in range(len(rows))]
