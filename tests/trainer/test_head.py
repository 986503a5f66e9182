"""Losses in pieces are those of all logits at once, to the gradient, and all logits at once are never there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from headrace_trainer.data.rows import TokenRow
from headrace_trainer.model import head, lora
from headrace_trainer.model.base import Base, load_base
from headrace_trainer.objectives.sft import CollatedBatch, collate, token_losses
from headrace_trainer.policy import Hyperparameters
from support import architectures

HIDDEN = 32  # rows of the output layer's weights, turned
HYPER = Hyperparameters(r=4, alpha=8, dropout=0.0, precision="fp32")
NAMES = ["llama", "qwen3_moe", "gpt2", "opt", "granite", "gemma2"]  # the last two scale or cap what the output layer says
ROWS = [TokenRow(f"e{index}", tuple(range(3, 9 + index)), tuple(range(20, 41 + 3 * index)), 1.0) for index in range(3)]


def prepared(name: str, folder: Path) -> tuple[Any, Base, CollatedBatch]:
    base = load_base(str(architectures.build(name, folder)))
    model, _ = lora.attach(base.model, HYPER, 1)
    with torch.no_grad():
        for parameter_name, value in model.named_parameters():
            if "lora_B" in parameter_name:
                value.normal_(0, 0.2)
    return model, base, collate(ROWS, base.pad)


def plain(model: Any, batch: CollatedBatch) -> torch.Tensor:
    logits = model(input_ids=batch.inputs, use_cache=False).logits.flatten(0, 1)[batch.positions]
    return functional.cross_entropy(logits.float(), batch.targets, reduction="none")


def gradients(model: Any, losses: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    losses.mean().backward()  # type: ignore[no-untyped-call]
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("piece", [1, 5_000, 32_000_000])
def test_losses_and_gradients_are_those_of_all_logits_at_once(
    name: str, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "PIECE", piece)
    model, _, batch = prepared(name, tmp_path)
    ours, theirs = token_losses(model, batch), plain(model, batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert model.get_base_model()._headrace_head == ("output layer" if name == "opt" else "own forward")
    expected = gradients(model, theirs)
    made = gradients(model, token_losses(model, batch))
    assert made.keys() == expected.keys()
    for parameter, gradient in made.items():
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-4, atol=1e-6)


def test_a_model_whose_forward_takes_nothing_else_goes_another_way(tmp_path: Path) -> None:
    model, base, batch = prepared("llama", tmp_path)
    whole = base.model.forward

    def narrow(input_ids: torch.Tensor | None = None, **named: Any) -> Any:
        assert input_ids is not None
        return whole(input_ids=input_ids, **named)

    base.model.forward = narrow
    ours = token_losses(model, batch)
    assert base.model._headrace_head == "output layer"
    torch.testing.assert_close(ours, plain(model, batch), rtol=1e-5, atol=1e-5)
    del base.model._headrace_head
    monkey = base.model.lm_head.forward
    base.model.lm_head.forward = lambda hidden: monkey(hidden) * (hidden.dim() - 1)  # not what rows of a batch give
    torch.testing.assert_close(token_losses(model, batch), plain(model, batch), rtol=1e-5, atol=1e-5)
    assert base.model._headrace_head == "whole"


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most elements that a tensor with as many columns as the vocabulary had."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.vocabulary, self.elements = vocabulary, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.dim() and leaf.shape[-1] == self.vocabulary and leaf.shape[0] != HIDDEN:
                self.elements = max(self.elements, leaf.numel())
        return out


@pytest.mark.parametrize("name", ["llama", "gemma2"])
@pytest.mark.parametrize("trains", [True, False])
def test_no_tensor_holds_more_than_a_piece_of_logits(
    name: str, trains: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, base, batch = prepared(name, tmp_path)
    vocabulary = base.model.config.vocab_size
    monkeypatch.setattr(head, "PIECE", 10 * vocabulary)
    token_losses(model, batch)  # the way is found out
    assert len(batch.targets) > 60
    with Largest(vocabulary) as seen, torch.set_grad_enabled(trains):
        losses = token_losses(model, batch)
        if trains:
            losses.sum().backward()  # type: ignore[no-untyped-call]
    assert 0 < seen.elements <= 10 * vocabulary
