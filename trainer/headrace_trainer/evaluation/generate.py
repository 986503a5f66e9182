"""Answers of a model to prompts, with one of its adapters or as the base. Knows models and tokens, no graders and no examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from headrace_trainer.data.rows import TokenRow
from headrace_trainer.job.failures import out_of_memory
from headrace_trainer.model.base import Base
from headrace_trainer.model.precision import Precision, autocast
from headrace_trainer.model.quantisation import is_quantised
from headrace_trainer.model.stops import stop_ids
from headrace_trainer.policy import EvaluationPolicy


@contextmanager
def serving(model: Any, adapter: str | None, *, merged: bool = True) -> Iterator[None]:
    """The model answers with `adapter` (None: as the base). Merged into the weights it generates 1.5x as fast; those in bf16,
    which taking apart again would not give back exactly, are kept beside meanwhile."""
    if adapter is None:
        with model.disable_adapter():
            yield
        return
    model.set_adapter(adapter)
    if not merged or is_quantised(model.get_base_model()):
        yield
        return
    kept = [] if model.dtype == torch.float32 else _adapted(model)
    model.merge_adapter([adapter])
    try:
        yield
    finally:
        model.unmerge_adapter()
        for value, before in kept:
            value.copy_(before)


def _adapted(model: Any) -> list[tuple[Tensor, Tensor]]:
    """The frozen weights that adapters are put on, each with a copy in the machine's memory."""
    frozen = [value.data for name, value in model.named_parameters() if ".base_layer." in name]
    return [(value, value.to("cpu", copy=True)) for value in frozen]


@torch.no_grad()
def generate(
    model: Any,
    rows: Sequence[TokenRow],
    base: Base,
    policy: EvaluationPolicy,
    precision: Precision,
    seed: int = 0,
    streamer: Any = None,
) -> list[str]:
    """Answers to the prompts of `rows`, in their order, without special tokens, by the settings of `policy` alone: each has its
    room, whatever the references are, as far as the model reaches. `model`: with adapters or a base; `streamer`: is told each
    token of a single row."""
    model.eval()
    causal = getattr(model, "get_base_model", lambda: model)()
    stops = sorted(stop_ids(base.tokenizer, causal))
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].prompt))
    texts: dict[int, str] = {}
    start, size = 0, policy.batch_rows
    if policy.temperature:
        torch.manual_seed(seed)
    with _settings(causal):
        while start < len(order):
            chosen = order[start : start + size]
            try:
                made = _answers(causal, [rows[index] for index in chosen], base, policy, precision, stops, streamer)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if size == 1 or not out_of_memory(error):
                    raise
                size = max(1, size // 2)
                continue
            texts.update(zip(chosen, made, strict=True))
            start += len(chosen)
    return [texts[index] for index in range(len(rows))]


@contextmanager
def _settings(causal: Any) -> Iterator[None]:
    """The library fills what is not said from the base's own settings (a repetition penalty, say): here it has none."""
    own, causal.generation_config = causal.generation_config, GenerationConfig()
    try:
        yield
    finally:
        causal.generation_config = own


def _answers(
    causal: Any,
    rows: Sequence[TokenRow],
    base: Base,
    policy: EvaluationPolicy,
    precision: Precision,
    stops: Sequence[int],
    streamer: Any = None,
) -> list[str]:
    width = max(len(row.prompt) for row in rows)
    room = policy.max_new_tokens if base.positions is None else max(1, min(policy.max_new_tokens, base.positions - width))
    sampling = {"temperature": policy.temperature, "top_p": policy.top_p, "top_k": 0} if policy.temperature else {}
    make_config: Any = GenerationConfig
    config = make_config(
        do_sample=bool(policy.temperature), max_new_tokens=room, repetition_penalty=policy.repetition_penalty, num_beams=1,
        eos_token_id=list(stops), pad_token_id=base.pad, **sampling,
    )  # fmt: skip
    padded = [[base.pad] * (width - len(row.prompt)) + list(row.prompt) for row in rows]
    mask = [[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in rows]
    inputs = {"input_ids": torch.tensor(padded, device=base.device), "attention_mask": torch.tensor(mask, device=base.device)}
    with autocast(base.device, precision):
        outputs = causal.generate(**inputs, generation_config=config, streamer=streamer)
    return list(base.tokenizer.batch_decode(outputs[:, width:], skip_special_tokens=True))
