"""A run stays within its memory: what it takes is known before it begins, and when it runs out after all it goes on with less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from headrace_trainer.data.rows import TokenRow
from headrace_trainer.job.plan import describe, plan_of
from headrace_trainer.learning import loop
from headrace_trainer.learning.loop import train
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from headrace_trainer.model.lora import AdapterInvalid
from headrace_trainer.model.memory import available_bytes, make_activations_twice, measure, plan
from headrace_trainer.objectives.loss import Computing, accumulate
from headrace_trainer.objectives.sft import LOSS as SFT
from headrace_trainer.policy import Hyperparameters
from headrace_trainer.spec import MemoryPlan
from support import architectures

HYPER = Hyperparameters(
    r=4, alpha=8, dropout=0.2, learning_rate=1e-2, steps=3, rows_per_step=8, batch_tokens=400, max_sequence_tokens=64,
    validation_rows=2, precision="fp32",
)  # fmt: skip
ROWS = [TokenRow(f"e{index}", tuple(range(3, 20 + index)), tuple(range(20, 40)), 1.0) for index in range(16)]
NOT_KNOWN = {"opt"}  # it draws whether a layer is dropped


def trained(weights: Path, hyper: Hyperparameters, **named: Any) -> dict[str, torch.Tensor]:
    base = load_base(str(weights))
    model, _ = lora.attach(base.model, hyper, 3)
    result = train(model, base, ROWS, [], hyper, seed=3, precision="fp32", **named)
    assert result.steps == 3
    return {**lora.tensors_of(model), "tokens": torch.tensor(result.batch_tokens)}


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3_moe"])
def test_activations_made_twice_give_the_same_bytes_dropout_and_all(name: str, tmp_path: Path) -> None:
    folder = architectures.build(name, tmp_path)
    once = trained(folder, HYPER)
    twice = trained(folder, HYPER.model_copy(update={"activation_checkpointing": "on"}))
    assert all(torch.equal(once[key], twice[key]) for key in once)


def test_activations_are_really_made_twice(tiny_base: Path) -> None:
    base = load_base(str(tiny_base))
    model, _ = lora.attach(base.model, HYPER, 3)
    model.train()
    accumulate(SFT, Computing(model, base, HYPER, "fp32", 400), ROWS[:2], 100.0)  # the first also finds out how logits are made
    passes: list[int] = []
    base.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append(1))
    accumulate(SFT, Computing(model, base, HYPER, "fp32", 400), ROWS[:2], 100.0)
    make_activations_twice(model)
    accumulate(SFT, Computing(model, base, HYPER, "fp32", 400), ROWS[:2], 100.0)
    assert len(passes) == 3


def test_a_base_that_can_not_is_named(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = lora.attach(load_base(str(tiny_base)).model, HYPER, 3)
    monkeypatch.setattr(type(model.get_base_model()), "supports_gradient_checkpointing", False)
    with pytest.raises(AdapterInvalid, match='activation_checkpointing = "on": a qwen2 does not support it; write "off"'):
        make_activations_twice(model)


def small_memory(monkeypatch: pytest.MonkeyPatch, holds: int, error: Exception) -> list[int]:
    """Micro-batches of more than so many padded tokens run out of memory, half way; the sizes of those that were tried."""
    sizes: list[int] = []
    whole = accumulate

    def narrow(loss: Any, computing: Computing, rows: Any, total: float) -> float:
        sizes.append(computing.budget)
        if computing.budget > holds:
            whole(loss, computing, rows[: len(rows) // 2], total)  # gradients of half a step, random numbers used
            raise error
        return whole(loss, computing, rows, total)

    monkeypatch.setattr(loop, "accumulate", narrow)
    return sizes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_tokens_and_goes_on_as_if_it_had_begun_so(
    error: Exception, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = small_memory(monkeypatch, 120, error)
    shrunk = trained(tiny_base, HYPER)
    assert len(sizes) == 3 + sum(size > 120 for size in sizes)
    assert sizes == sorted(sizes, reverse=True), "what was learnt of memory is kept"
    monkeypatch.undo()
    small = trained(tiny_base, HYPER.model_copy(update={"batch_tokens": int(shrunk["tokens"])}))
    assert all(torch.equal(shrunk[key], small[key]) for key in small)


def test_a_row_that_does_not_fit_alone_and_other_errors_end_the_run(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = small_memory(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        trained(tiny_base, HYPER)
    assert len(sizes) < 10
    monkeypatch.undo()
    small_memory(monkeypatch, 0, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        trained(tiny_base, HYPER)


def test_a_resumed_run_keeps_what_it_learnt_of_memory(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_memory(monkeypatch, 120, MemoryError())

    def stop(progress: Any) -> None:
        if progress.step == 2:
            raise InterruptedError

    options = {"folder": tmp_path, "run": "r", "checkpoint_seconds": 0.0}
    with pytest.raises(InterruptedError):
        trained(tiny_base, HYPER, on_progress=stop, **options)
    monkeypatch.undo()
    sizes = small_memory(monkeypatch, 10**9, MemoryError())
    trained(tiny_base, HYPER, **options)
    assert set(sizes) <= set(range(121))


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_every_architecture_has_an_estimate_or_says_why_not(name: str, tmp_path: Path) -> None:
    folder = architectures.build(name, tmp_path)
    if name == "mamba2":
        with pytest.raises(AdapterInvalid):
            plan(folder, HYPER, available=10**10)
        return
    found = plan(folder, HYPER, available=10**10)
    if name in NOT_KNOWN:
        assert found.unknown is not None
        assert "not known" in describe(found)
        return
    assert (found.batch_tokens, found.activation_checkpointing, found.fits) == (400, "off", True)
    weights = sum(value.numel() * 4 for value in load_base(str(folder)).model.parameters())
    assert found.weights == weights
    assert found.peak > weights


def test_less_memory_gives_fewer_tokens_then_activations_twice_then_no(tmp_path: Path) -> None:
    hyper = Hyperparameters(r=4, batch_tokens=8192, max_sequence_tokens=512)
    folder = architectures.build("llama", tmp_path, hidden_size=128, intermediate_size=512, num_hidden_layers=24)
    config = AutoConfig.from_pretrained(folder)
    once, twice = (measure(config, hyper, 512, way) for way in (False, True))
    assert twice.per_row < once.per_row / 3
    assert (twice.weights, twice.adapter) == (once.weights, once.adapter)

    def planned(available: int) -> MemoryPlan:
        return plan(folder, hyper, available=available)

    roomy = planned(once.peak(8192))
    assert (roomy.batch_tokens, roomy.activation_checkpointing, roomy.fits) == (8192, "off", True)
    fewer = planned(once.peak(8192) - 1)
    assert (fewer.batch_tokens, fewer.activation_checkpointing) == (4096, "off")
    again = planned(once.peak(2048) - 1)
    assert (again.activation_checkpointing, again.fits) == ("on", True)
    assert twice.peak(again.batch_tokens) <= once.peak(2048) - 1
    least = planned(twice.peak(512) - 1)
    assert (least.batch_tokens, least.activation_checkpointing, least.fits) == (512, "on", False)
    assert "DOES NOT FIT" in describe(least)


def test_a_pair_is_never_split(tmp_path: Path) -> None:
    folder = architectures.build("llama", tmp_path)
    config = AutoConfig.from_pretrained(folder)
    pairs = HYPER.model_copy(update={"objective": "dpo", "activation_checkpointing": "off"})
    once = measure(config, pairs, 64, False)
    tight = plan(folder, pairs, available=once.peak(128) - 1)
    assert (tight.batch_tokens, tight.peak, tight.fits) == (128, once.peak(128), False)


def test_two_layers_tell_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace_trainer.model import memory

    folder = architectures.build("llama", tmp_path, num_hidden_layers=9)
    config = AutoConfig.from_pretrained(folder)
    for way in (False, True):
        told = measure(config, HYPER, 64, way)
        monkeypatch.setattr(memory, "_SAMPLED", (2, 100))
        whole = measure(config, HYPER, 64, way)
        monkeypatch.undo()
        assert told.weights == whole.weights
        assert told.peak(640) == pytest.approx(whole.peak(640), rel=0.002)


def test_of_several_processes_each_has_a_share_of_the_weights_and_two_layers_of_them_whole(tmp_path: Path) -> None:
    folder = architectures.build("llama", tmp_path, hidden_size=128, intermediate_size=512, num_hidden_layers=24)
    memory = measure(AutoConfig.from_pretrained(folder), HYPER, 64, False)
    beside = memory.weights - 24 * memory.layer
    assert 0 < beside < memory.layer
    alone, *several = (memory.peak(640, processes=count) for count in (1, 4, 8))
    for count, peak in zip((4, 8), several, strict=True):
        held = memory.weights + 4 * memory.adapter
        assert alone - peak == pytest.approx(held - held / count - beside - 2 * memory.layer, abs=2)
    assert plan(folder, HYPER, available=several[0], processes=4).fits
    shared = plan_of(folder, HYPER, "cpu", "fp32", 4.0, processes=4)
    assert shared.available == 1_000_000_000, "they share a CPU's memory"


def test_a_job_that_was_killed_for_want_of_memory_goes_on_with_half(tiny_base: Path, tmp_path: Path) -> None:
    """Its checkpoint said how many tokens it took at a time, and that was believed."""

    def stop(progress: Any) -> None:
        if progress.step == 2:
            raise InterruptedError

    options = {"folder": tmp_path, "run": "r", "checkpoint_seconds": 0.0}
    with pytest.raises(InterruptedError):
        trained(tiny_base, HYPER, on_progress=stop, **options)
    assert trained(tiny_base, HYPER.model_copy(update={"batch_tokens": 200}), **options)["tokens"] == 200


def test_what_policy_grants_is_what_there_is(tiny_base: Path) -> None:
    assert plan_of(tiny_base, HYPER, "cpu", "fp32", 0.5).available == 500_000_000
    assert 0 < available_bytes("cpu") < 1 << 50
    assert plan_of(tiny_base, HYPER, "cpu", "fp32", None).available > 0
