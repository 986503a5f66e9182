"""What is judged is what was saved: every architecture loads back as it was trained, and a damaged adapter is never judged."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from headrace_trainer.data.rows import RowTokeniser
from headrace_trainer.evaluation.evaluate import INCUMBENT
from headrace_trainer.job.run import run
from headrace_trainer.learning.loop import train
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from headrace_trainer.model.lora import AdapterInvalid
from headrace_trainer.objectives.sft import row_losses
from headrace_trainer.policy import Hyperparameters
from headrace_trainer.spec import JobSpec
from support import architectures, training_data

HYPER = training_data.HYPER.model_copy(update={"steps": 2, "dropout": 0.1})
REFUSED = {"mamba2": "no adapter fits this base"}


def rows_for(tokenizer: Any) -> list[Any]:
    tokeniser = RowTokeniser(tokenizer, 200)
    return [tokeniser.example(training_data.example(number), 1.0).row for number in range(6)]


def trained_losses(folder: Path, adapter: Path, hyper: Hyperparameters) -> list[float]:
    """Trains, saves into `adapter` and tells the losses of what was trained, before it was saved."""
    base = load_base(str(folder))
    model, _ = lora.attach(base.model, hyper, 3)
    rows = rows_for(base.tokenizer)
    train(model, base, rows, [], hyper, seed=3, precision="fp32")
    losses = row_losses(model, rows, base, 8192, "fp32")
    lora.save(model, adapter)
    return losses


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_what_was_trained_is_what_is_loaded_or_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    folder = architectures.build(name, tmp_path / "base")
    if name in REFUSED:
        with pytest.raises(AdapterInvalid, match=REFUSED[name]) as refused:
            trained_losses(folder, tmp_path / "adapter", HYPER)
        assert "\n" not in str(refused.value)
        return
    ours = trained_losses(folder, tmp_path / "adapter", HYPER)
    base = load_base(str(folder))
    plain = row_losses(base.model, rows_for(base.tokenizer), base, 8192, "fp32")
    read_back = row_losses(lora.load(base.model, tmp_path / "adapter"), rows_for(base.tokenizer), base, 8192, "fp32")
    assert read_back == pytest.approx(ours, abs=1e-5)
    assert plain != pytest.approx(ours, abs=1e-3), "it learnt something"
    theirs = AutoModelForCausalLM.from_pretrained(folder)  # as an agent loads it
    served = row_losses(
        PeftModel.from_pretrained(theirs, str(tmp_path / "adapter")), rows_for(base.tokenizer), base, 8192, "fp32"
    )
    assert served == pytest.approx(ours, abs=1e-5)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_experts_are_trained_by_name_and_load_back(name: str, tmp_path: Path) -> None:
    folder = architectures.build(name, tmp_path / "base")
    experts = HYPER.model_copy(update={"target_modules": ("q_proj", "experts.gate_up_proj", "experts.down_proj"), "dropout": 0.0})
    ours = trained_losses(folder, tmp_path / "adapter", experts)
    assert lora.config_of(tmp_path / "adapter")["target_parameters"] == [
        f"model.layers.{layer}.mlp.experts.{part}" for layer in (0, 1) for part in ("down_proj", "gate_up_proj")
    ]
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    base = load_base(str(folder))
    served = row_losses(
        PeftModel.from_pretrained(theirs, str(tmp_path / "adapter")), rows_for(base.tokenizer), base, 8192, "fp32"
    )
    assert served == pytest.approx(ours, abs=1e-5)
    with pytest.raises(AdapterInvalid, match=r"dropout = 0\.1: experts \(down_proj, gate_up_proj\).* write dropout = 0"):
        lora.attach(load_base(str(folder)).model, experts.model_copy(update={"dropout": 0.1}), 3)


def test_layers_are_chosen_by_name_and_an_unknown_one_is_named(tiny_base: Path, tmp_path: Path) -> None:
    chosen = HYPER.model_copy(update={"target_modules": ("q_proj", "layers.1.mlp.up_proj"), "modules_to_save": ("norm",)})
    ours = trained_losses(tiny_base, tmp_path / "adapter", chosen)
    config = lora.config_of(tmp_path / "adapter")
    assert config["target_modules"] == [
        "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "model.layers.1.self_attn.q_proj",
    ]  # fmt: skip
    assert config["modules_to_save"] == ["norm"]
    base = load_base(str(tiny_base))
    served = row_losses(lora.load(base.model, tmp_path / "adapter"), rows_for(base.tokenizer), base, 8192, "fp32")
    assert served == pytest.approx(ours, abs=1e-5)
    for wrong in ({"target_modules": ("q_prj",)}, {"modules_to_save": ("heads",)}):
        with pytest.raises(AdapterInvalid, match=r"(q_prj|heads)'.* it has .*_proj") as refused:
            lora.attach(load_base(str(tiny_base)).model, HYPER.model_copy(update=wrong), 3)
        assert "\n" not in str(refused.value)


def test_every_field_that_changes_what_an_adapter_computes_is_written() -> None:
    default: dict[str, Any] = LoraConfig().to_dict()  # type: ignore[no-untyped-call]
    changed = {name: "other" for name in default if name not in lora._NEVER}
    assert set(lora.canonical({**default, **changed, "target_modules": {"b", "a"}})) >= changed.keys()
    assert lora.canonical({**default, "target_modules": {"b", "a"}})["target_modules"] == ["a", "b"]
    assert default.keys() > lora._NEVER, "each is still a field of the library"


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {other: tensor for other, tensor in tensors.items() if other != name}


FIRST = "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"
DAMAGE: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "missing": (without(FIRST), f"{FIRST} is missing"),
    "left over": (
        lambda tensors: {**tensors, "base_model.model.model.x.weight": torch.zeros(2)},
        "model.x.weight is no weight of",
    ),
    "another shape": (lambda tensors: {**tensors, FIRST: torch.zeros(5, 4)}, "size mismatch for .*down_proj"),
    "no number": (lambda tensors: {**tensors, FIRST: torch.full_like(tensors[FIRST], torch.nan)}, "values that are no numbers"),
    "infinite": (lambda tensors: {**tensors, FIRST: torch.full_like(tensors[FIRST], torch.inf)}, "values that are no numbers"),
}


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("read-back") / "adapter"
    trained_losses(tiny_base, folder, HYPER)
    return folder


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_adapter_is_refused_in_one_line(kind: str, tiny_base: Path, adapter: Path, tmp_path: Path) -> None:
    change, said = DAMAGE[kind]
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / lora.CONFIG).write_bytes((adapter / lora.CONFIG).read_bytes())
    save_file(change(load_file(adapter / lora.WEIGHTS)), damaged / lora.WEIGHTS)
    with pytest.raises(AdapterInvalid, match=said) as refused:
        lora.load(load_base(str(tiny_base)).model, damaged)
    assert "\n" not in str(refused.value)
    with pytest.raises(AdapterInvalid, match=said):
        lora.add(lora.load(load_base(str(tiny_base)).model, adapter), damaged, INCUMBENT)


def test_an_adapter_cut_off_anywhere_is_refused(tiny_base: Path, adapter: Path, tmp_path: Path) -> None:
    whole = (adapter / lora.WEIGHTS).read_bytes()
    (tmp_path / lora.CONFIG).write_bytes((adapter / lora.CONFIG).read_bytes())
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / lora.WEIGHTS).write_bytes(whole[:length])
        with pytest.raises(AdapterInvalid, match=r"adapter_model\.safetensors"):
            lora.load(load_base(str(tiny_base)).model, tmp_path)


def test_a_configuration_that_was_cut_down_computes_something_else_and_is_refused(tmp_path: Path) -> None:
    """As the whitelist of old did to a mixture of experts: evaluated 5.54, served 5.79."""
    folder = architectures.build("mixtral", tmp_path / "base")
    experts = HYPER.model_copy(update={"target_modules": ("q_proj", "experts.gate_up_proj"), "dropout": 0.0})
    trained_losses(folder, tmp_path / "adapter", experts)
    config = lora.config_of(tmp_path / "adapter")
    (tmp_path / "adapter" / lora.CONFIG).write_bytes(orjson.dumps({**config, "target_parameters": None}))
    with pytest.raises(AdapterInvalid, match=r"experts.*lora_A.* is no weight of this base"):
        lora.load(load_base(str(folder)).model, tmp_path / "adapter")


def test_a_candidate_that_does_not_come_back_whole_is_not_evaluated(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that keeps half of what it was given: the run ends, and no evaluation says anything of it."""
    members = [training_data.recorded(number) for number in range(8)]
    tests = [training_data.recorded(number, "test") for number in range(40, 44)]
    batch = training_data.batch([made.member for made in members], [made.member for made in tests])
    values = training_data.values(*members, *tests)
    spec = JobSpec(training_data.start(batch), batch, str(tiny_base), values, tmp_path / "run", threads=1)
    saved = lora.save

    def half(wrapped: Any, folder: Path, base: str, *, writes: bool) -> Path:
        os.truncate(saved(wrapped, folder, base, writes=writes) / lora.WEIGHTS, 1000)
        return folder

    monkeypatch.setattr(lora, "save", half)
    with pytest.raises(AdapterInvalid, match=r"adapter_model\.safetensors"):
        run(spec)
    monkeypatch.setattr(lora, "save", saved)
    assert run(replace(spec, folder=tmp_path / "again")).report.comparison.n == 4


@pytest.mark.parametrize(("rank", "alpha"), [(8, 32), (12, 5), (4, 16)])
def test_another_rank_or_scale_goes_on_from_the_same_function(tiny_base: Path, adapter: Path, rank: int, alpha: int) -> None:
    base = load_base(str(tiny_base))
    rows = rows_for(base.tokenizer)
    before = row_losses(lora.load(load_base(str(tiny_base)).model, adapter), rows, base, 8192, "fp32")
    grown, warm = lora.attach(base.model, HYPER.model_copy(update={"r": rank, "alpha": alpha}), 5, adapter)
    assert warm
    assert row_losses(grown, rows, base, 8192, "fp32") == pytest.approx(before, abs=1e-5)
    fresh = {name: tensor for name, tensor in lora.tensors_of(grown).items() if ".lora_A." in name}
    assert all(tensor.count_nonzero() == tensor.numel() for tensor in fresh.values()), "new rows have something to learn with"


def test_more_layers_go_on_from_the_same_function_and_fewer_begin_anew(tiny_base: Path, tmp_path: Path) -> None:
    few = HYPER.model_copy(update={"target_modules": ("q_proj", "v_proj")})
    before = trained_losses(tiny_base, tmp_path / "few", few)
    base = load_base(str(tiny_base))
    more, warm = lora.attach(base.model, HYPER, 5, tmp_path / "few")
    assert warm
    assert row_losses(more, rows_for(base.tokenizer), base, 8192, "fp32") == pytest.approx(before, abs=1e-5)
    lora.save(more, tmp_path / "more")
    assert not lora.attach(load_base(str(tiny_base)).model, few, 5, tmp_path / "more")[1]


def test_a_smaller_rank_begins_with_the_nearest_of_that_rank(tiny_base: Path, adapter: Path) -> None:
    smaller, warm = lora.attach(load_base(str(tiny_base)).model, HYPER.model_copy(update={"r": 2}), 5, adapter)
    assert warm
    old, new = lora.tensors_in(adapter), lora.tensors_of(smaller)
    for name in [name for name in new if ".lora_A." in name]:
        other = name.replace("lora_A", "lora_B")
        product = old[other] @ old[name] * (8 / 4)
        left, values, right = torch.linalg.svd(product, full_matrices=False)
        torch.testing.assert_close(new[other] @ new[name] * (8 / 2), left[:, :2] * values[:2] @ right[:2], rtol=1e-3, atol=1e-6)
