"""Our loss is TRL's, where TRL is installed (it is no requirement: `pip install trl datasets`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from headrace_trainer.data.rows import TokenRow
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from headrace_trainer.objectives.sft import accumulate, plan_total
from support import training_data


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("budget", [10**6, 60], ids=["at once", "accumulated"])
def test_the_loss_and_its_gradient_are_those_of_trl(tiny_base: Path, tmp_path: Path, budget: int) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    base = load_base(str(tiny_base))
    model: Any = lora.attach(base.model, training_data.HYPER.model_copy(update={"dropout": 0.0}), 1)[0]
    random = torch.Generator().manual_seed(0)
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    with torch.no_grad():
        for value in trainable.values():
            value.add_(torch.randn(value.shape, generator=random) * 0.02)
    lengths = [(3, 5), (9, 1), (4, 17), (7, 11), (2, 2), (11, 8)]
    drawn = [tuple(torch.randint(3, 250, (sum(length),), generator=random).tolist()) for length in lengths]
    rows = [
        TokenRow(str(place), row[:asked], row[asked:], 2.0)
        for place, ((asked, _), row) in enumerate(zip(lengths, drawn, strict=True))
    ]
    ours = accumulate(model, rows, base, budget, "fp32", plan_total(rows, 1))
    gradient = {name: value.grad.clone() for name, value in trainable.items()}
    model.zero_grad()

    masked = [
        {"input_ids": [*row.prompt, *row.completion], "completion_mask": [0] * len(row.prompt) + [1] * len(row.completion)}
        for row in rows
    ]
    config = trl.SFTConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=len(rows), gradient_checkpointing=False, use_cpu=True, bf16=False,
        report_to="none", completion_only_loss=True, max_length=None,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=model, args=config, train_dataset=datasets.Dataset.from_list(masked), processing_class=base.tokenizer
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=(inputs["labels"] != -100).sum())
    loss.backward()
    assert ours == pytest.approx(float(loss.detach()), rel=1e-6)
    for name, value in trainable.items():
        torch.testing.assert_close(gradient[name], value.grad, rtol=1e-4, atol=1e-7)
