"""Every row of the table of methods, and each way to make an adapter: a step is the same however it is cut, what was killed ends
in the same bytes, and what is read back computes what was trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace_streams.policy import PolicyError
from headrace_trainer.data.rows import TokenRow
from headrace_trainer.job.run import run
from headrace_trainer.learning.loop import train
from headrace_trainer.model import lora
from headrace_trainer.model.base import Base, load_base
from headrace_trainer.model.methods import METHODS
from headrace_trainer.objectives.loss import Computing, accumulate, plan_total
from headrace_trainer.objectives.sft import LOSS, row_losses
from headrace_trainer.policy import Hyperparameters, load
from headrace_trainer.spec import JobProgress, JobSpec
from support import training_data
from support.training import gradients

WAYS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in METHODS},
    "rslora": {"rslora": True}, "dora": {"dora": True}, "orthogonal": {"init": "orthogonal"}, "lora+": {"lora_plus": 4.0},
}  # fmt: skip
HYPER = training_data.HYPER.model_copy(update={"dropout": 0.0, "steps": 3, "learning_rate": 5e-3})
ROWS = [TokenRow(f"e{n}", tuple(range(3, 6 + n)), tuple(range(20, 24 + 3 * n)), 1.0 + n % 2) for n in range(6)]


def base_for(way: str, folder: Path) -> Base:
    if METHODS.get(way, METHODS["lora"]).quantised:
        pytest.importorskip("bitsandbytes")
        return load_base(str(folder), quantisation="nf4")
    return load_base(str(folder))


@pytest.mark.parametrize("way", WAYS)
def test_it_learns_the_same_however_it_is_cut_or_killed_and_is_read_back_as_it_was_trained(
    way: str, tiny_base: Path, tmp_path: Path
) -> None:
    hyper = Hyperparameters.model_validate({**HYPER.model_dump(), **WAYS[way]})

    def trained(folder: Path, kill: int | None = None) -> tuple[Any, Base]:
        base = base_for(way, tiny_base)
        model, _ = lora.attach(base.model, hyper, 1)
        folder.mkdir(exist_ok=True)

        def tell(progress: JobProgress) -> None:
            if progress.step == kill:
                raise InterruptedError

        train(
            model, base, ROWS, [], hyper, seed=1, precision="fp32", folder=folder, run="r", checkpoint_seconds=0, on_progress=tell
        )
        return model, base

    model, base = trained(tmp_path / "whole")
    saved = lora.save(model, tmp_path / "whole" / "adapter")
    with pytest.raises(InterruptedError):
        trained(tmp_path / "killed", kill=2)
    again = lora.save(trained(tmp_path / "killed")[0], tmp_path / "killed" / "adapter")
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == {
        path.name: path.read_bytes() for path in again.iterdir()
    }
    losses = row_losses(model, ROWS, base, 500, "fp32")
    with model.disable_adapter():
        before = row_losses(model, ROWS, base, 500, "fp32")
    assert sum(losses) < sum(before)
    fresh = base_for(way, tiny_base)
    assert row_losses(lora.load(fresh.model, saved), ROWS, fresh, 500, "fp32") == pytest.approx(losses, abs=1e-5)
    whole, parts = (
        (accumulate(LOSS, Computing(model, base, hyper, "fp32", budget), ROWS, plan_total(ROWS, 1)), gradients(model))
        for budget in (10**6, 1)
    )
    assert whole[0] == pytest.approx(parts[0], rel=1e-5)
    for name, value in whole[1].items():
        torch.testing.assert_close(parts[1][name], value, rtol=1e-3, atol=1e-6)
    further = base_for(way, tiny_base)
    continued, goes_on = lora.attach(further.model, hyper, 2, saved)
    assert goes_on
    assert row_losses(continued, ROWS, further, 500, "fp32") == pytest.approx(losses, abs=1e-5)


def test_whole_layers_and_an_adapter_are_not_compared_and_that_is_said_before_anything_is_trained(
    tiny_base: Path, tmp_path: Path
) -> None:
    ways: dict[str, dict[str, Any]] = {"lora": {}, "full": {"method": "full"}, "part": {"modules_to_save": ("o_proj",)}}
    hypers = {way: Hyperparameters.model_validate({**HYPER.model_dump(), **changed}) for way, changed in ways.items()}
    folders: dict[str, Path] = {}
    for way, hyper in hypers.items():
        model, _ = lora.attach(load_base(str(tiny_base)).model, hyper, 1)
        folders[way] = lora.save(model, tmp_path / way)
    made = [training_data.recorded(number) for number in range(4)]
    batch = training_data.batch([each.member for each in made])
    steps: list[JobProgress] = []
    for way, other, side in (
        ("full", "lora", "parent"), ("lora", "full", "parent"), ("full", "lora", "watched"), ("part", "lora", "parent"),
        ("lora", "part", "watched"),
    ):  # fmt: skip
        start = training_data.start(batch, hyperparameters=hypers[way].to_wire())
        spec = JobSpec(start, batch, str(tiny_base), training_data.values(*made), tmp_path / "run")
        beside: dict[str, Any] = {side: folders[other]}
        with pytest.raises(
            lora.AdapterInvalid, match=r"one has model\.layers\.0\..*_proj whole.*`headrace rollback .* --to base`"
        ):
            run(replace(spec, **beside), steps.append)
    assert not steps


def test_all_layers_are_trained_but_an_embedding_that_is_also_the_output(tiny_base: Path) -> None:
    base = load_base(str(tiny_base))
    whole = sum(value.numel() for value in base.model.parameters()) - base.model.get_input_embeddings().weight.numel()
    model, _ = lora.attach(base.model, HYPER.model_copy(update={"method": "full"}), 1)
    assert sum(value.numel() for value in model.parameters() if value.requires_grad) == whole


@pytest.mark.parametrize(
    ("method", "quantisation", "said"),
    [
        ("qlora", "", 'held in full; write quantisation = "nf4" under'),
        ("full", "quantisation = 'nf4'", "held in four bits; leave"),
    ],
)
def test_a_method_on_a_base_that_is_held_otherwise_is_refused_in_one_line(
    method: str, quantisation: str, said: str, tmp_path: Path
) -> None:
    bases = f"[train.bases.b]\nweights = 'x/y'\n{quantisation}\n"
    for table in ("defaults", 'buckets."sql/b"'):
        (tmp_path / "policy.toml").write_text(f"{bases}[train.{table}]\nmethod = '{method}'\n")
        with pytest.raises(PolicyError, match=rf"method = '{method}': base 'b' is {said}"):
            load(tmp_path / "policy.toml")
    teaches = "[train.bases.t]\nweights = 'x/z'\n[train.bases.b]\nweights = 'x/y'\nquantisation = 'nf4'\n"
    (tmp_path / "policy.toml").write_text(
        f"{teaches}[train.defaults]\nmethod = 'qlora'\nobjective = 'distillation'\nteacher = 't'\n"
    )
    assert load(tmp_path / "policy.toml").defaults.method == "qlora", "a base that teaches is held as it likes"
    (tmp_path / "policy.toml").write_text("[train.defaults]\nmethod = 'prefix'\n")
    with pytest.raises(PolicyError, match="there is no such method; there are lora, full, qlora"):
        load(tmp_path / "policy.toml")
