"""A layer and its adapter in one step are what the library computes in several: values, gradients, and where it hands back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from headrace_trainer.model.fused_lora import FusedLinear, fuse
from headrace_trainer.policy import Hyperparameters


def adapted(*, fused: bool, dropout: float = 0.0, frozen: torch.dtype = torch.float32, **config: Any) -> Any:
    """Two layers with biases and adapters that change something."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(24, 40), nn.SiLU(), nn.Linear(40, 12)).to(frozen).requires_grad_(False)
    wrapped = get_peft_model(layers, LoraConfig(r=4, lora_alpha=6, lora_dropout=dropout, target_modules=["0", "2"], **config))
    for name, value in wrapped.named_parameters():
        if "lora_" in name:
            value.data = torch.randn(value.shape) * 0.3
    if fused:
        fuse(wrapped)
    return wrapped.train()


def said(wrapped: Any, given: Tensor, autocast: torch.dtype | None = None) -> dict[str, Tensor]:
    """Output, and gradients of the input and of what is trained."""
    torch.manual_seed(1)
    given = given.clone().requires_grad_()
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        out = wrapped(given)
    out.float().pow(2).sum().backward()
    found = {"out": out.detach().float(), "input": given.grad}
    found |= {name: value.grad for name, value in wrapped.named_parameters() if value.requires_grad}
    assert len(found) == 6
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize("shape", [(7, 24), (3, 5, 24)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_values_and_gradients_in_float32_are_those_of_the_library(shape: tuple[int, ...], dropout: float) -> None:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    theirs = said(adapted(fused=False, dropout=dropout), given)
    ours = said(adapted(fused=True, dropout=dropout), given)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (ours[name] - value).norm() <= 1e-6 * value.norm(), name


@pytest.mark.parametrize("frozen", [torch.float32, torch.bfloat16])
def test_under_autocast_they_are_as_near_to_float32_as_those_of_the_library(frozen: torch.dtype) -> None:
    given = torch.randn((200, 24), generator=torch.Generator().manual_seed(2))
    exact = said(adapted(fused=False), given)
    theirs = said(adapted(fused=False, frozen=frozen), given, torch.bfloat16)
    ours = said(adapted(fused=True, frozen=frozen), given, torch.bfloat16)
    for name, value in exact.items():
        far = (theirs[name] - value).norm() / value.norm()
        assert (ours[name] - value).norm() / value.norm() <= 1.2 * far, name
        assert ours[name].dtype == theirs[name].dtype


def test_without_the_adapter_and_merged_it_is_the_librarys_layer() -> None:
    given = torch.randn((5, 24), generator=torch.Generator().manual_seed(2))
    ours, theirs = adapted(fused=True), adapted(fused=False)
    with ours.disable_adapter(), theirs.disable_adapter():
        torch.testing.assert_close(ours(given), theirs(given))
    whole = ours(given)
    ours.merge_adapter()
    torch.testing.assert_close(ours(given), whole)


def test_layers_that_it_does_not_know_stay_the_librarys() -> None:
    assert fuse(adapted(fused=False, use_dora=True)) == 0
    assert fuse(adapted(fused=False, use_rslora=True)) == 2
    given = torch.randn((5, 24), generator=torch.Generator().manual_seed(2))
    biased = {fused: adapted(fused=fused, lora_bias=True) for fused in (True, False)}
    torch.testing.assert_close(biased[True](given), biased[False](given))


def test_what_is_trained_is_fused_and_what_is_judged_is_the_librarys(tiny_base: Path, tmp_path: Path) -> None:
    hyper = Hyperparameters(r=4, dropout=0.0)
    wrapped, _ = lora.attach(load_base(str(tiny_base)).model, hyper, 1)
    assert any(isinstance(module, FusedLinear) for module in wrapped.modules())
    judged = lora.load(load_base(str(tiny_base)).model, lora.save(wrapped, tmp_path / "adapter"))
    assert not any(isinstance(module, FusedLinear) for module in judged.modules())
