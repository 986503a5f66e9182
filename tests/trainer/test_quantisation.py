"""A base in four bits (NF4) trains, is judged as it was read back, and is another base than the one in full; without bitsandbytes
one line says what is missing."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace_streams.policy import PolicyError
from headrace_trainer.data.rows import TokenRow
from headrace_trainer.evaluation.generate import generate, serving
from headrace_trainer.job.check import CheckSpec, check
from headrace_trainer.learning.loop import train
from headrace_trainer.model import lora, quantisation
from headrace_trainer.model.base import Base, BaseMissing, load_base, load_config
from headrace_trainer.model.identity import FileNotes, changes, identify
from headrace_trainer.model.memory import measure
from headrace_trainer.objectives.loss import Computing, accumulate
from headrace_trainer.objectives.sft import LOSS as SFT
from headrace_trainer.objectives.sft import row_losses
from headrace_trainer.policy import EvaluationPolicy, Hyperparameters, load
from support import architectures

HYPER = Hyperparameters(
    r=4, alpha=8, dropout=0.0, learning_rate=1e-2, steps=4, rows_per_step=4, batch_tokens=200, precision="fp32"
)
ROWS = [TokenRow(f"e{index}", tuple(range(3, 12 + index)), tuple(range(20, 40)), 1.0) for index in range(8)]
SIZE = {"hidden_size": 128, "intermediate_size": 256}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.build("llama", tmp_path_factory.mktemp("nf4"), **SIZE)


def quantised(folder: Path) -> Base:
    pytest.importorskip("bitsandbytes")
    return load_base(str(folder), quantisation="nf4")


def gradients(model: Any, base: Base) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.train()
    accumulate(SFT, Computing(model, base, HYPER, "fp32", 200), ROWS, 100.0)
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def moved(model: Any) -> Any:
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())) * 0.02)
    return model


def test_gradients_are_those_of_the_same_weights_in_full_before_and_after_an_evaluation(folder: Path) -> None:
    """bitsandbytes packs weights anew in the first pass in eval mode; gradients after it were wrong, or raised."""
    base, plain = quantised(folder), load_base(str(folder))
    dequantised = importlib.import_module("bitsandbytes.functional").dequantize_4bit
    layer = importlib.import_module("bitsandbytes.nn").Linear4bit
    packed = {name: module for name, module in base.model.named_modules() if isinstance(module, layer)}
    assert len(packed) == 14, "seven layers twice, and not the output"
    with torch.no_grad():
        for name, module in packed.items():
            weight = plain.model.get_submodule(name).weight
            weight.copy_(dequantised(module.weight.data, module.weight.quant_state).reshape(weight.shape))
    ours, theirs = (moved(lora.attach(each.model, HYPER, 1)[0]) for each in (base, plain))
    before, wanted = gradients(ours, base), gradients(theirs, plain)
    assert row_losses(ours, ROWS, base, 200, "fp32") == pytest.approx(row_losses(theirs, ROWS, plain, 200, "fp32"), rel=1e-4)
    after = gradients(ours, base)
    assert before.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(before[name], value, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)


def test_it_learns_and_is_read_back_as_it_was_trained(folder: Path, tmp_path: Path) -> None:
    base = quantised(folder)
    model, _ = lora.attach(base.model, HYPER, 1)
    first = row_losses(model, ROWS, base, 200, "fp32")
    train(model, base, ROWS, [], HYPER, seed=1, precision="fp32")
    ours = row_losses(model, ROWS, base, 200, "fp32")
    assert sum(ours) < sum(first)
    lora.save(model, tmp_path / "adapter")
    again = quantised(folder)
    read_back = row_losses(lora.load(again.model, tmp_path / "adapter"), ROWS, again, 200, "fp32")
    assert read_back == pytest.approx(ours, abs=1e-5)


def test_nothing_is_merged_into_four_bits(folder: Path) -> None:
    base = quantised(folder)
    model = moved(lora.attach(base.model, HYPER, 1)[0])
    plain = load_base(str(folder))
    assert not quantisation.is_quantised(plain.model)
    with serving(model, "default"):
        assert not any(getattr(module, "merged", False) for module in model.modules())
        assert len(generate(model, ROWS[:2], base, EvaluationPolicy(max_new_tokens=2), "fp32")) == 2


def test_the_estimate_knows_what_four_bits_take(folder: Path) -> None:
    base = quantised(folder)
    told = measure(load_config(str(folder), False), HYPER, 64, False, quantisation="nf4")
    whole = measure(load_config(str(folder), False), HYPER, 64, False)
    states = [value.quant_state for value in base.model.parameters() if hasattr(value, "quant_state")]
    scales = sum(state.absmax.nbytes + state.state2.absmax.nbytes for state in states)
    assert told.weights == pytest.approx(sum(value.nbytes for value in base.model.parameters()) + scales, rel=0.01)
    assert told.weights < 0.5 * whole.weights
    assert told.adapter == whole.adapter


def test_it_is_another_base(folder: Path) -> None:
    whole, packed = identify(folder, FileNotes()), identify(folder, FileNotes(), quantisation="nf4")
    assert whole.digest != packed.digest
    assert changes(whole, packed) == "quantisation none -> nf4"
    assert changes(packed, packed) == ""


def test_a_check_trains_and_asks_it(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    report = check(CheckSpec(folder, HYPER, "cpu", "fp32", 4.0, quantisation="nf4"))
    assert report.loss is not None
    assert report.fits


def test_without_the_library_or_a_device_for_it_one_line_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("bitsandbytes") is not None:
        with pytest.raises(BaseMissing, match=r'^quantisation = "nf4": device mps holds no quantised weights; use cuda or cpu$'):
            load_base(str(folder), device="mps", quantisation="nf4")
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
    with pytest.raises(BaseMissing, match=r'needs bitsandbytes, which is not installed: pip install "headrace\[nf4\]"$'):
        load_base(str(folder), quantisation="nf4")


def test_it_is_trained_by_one_process(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("[train]\nprocesses = 2\n[train.bases.b]\nweights = 'x/y'\nquantisation = 'nf4'\n")
    with pytest.raises(PolicyError, match=r"train\.bases\.b\.quantisation = 'nf4': train\.processes = 2.*write 1"):
        load(tmp_path / "policy.toml")
