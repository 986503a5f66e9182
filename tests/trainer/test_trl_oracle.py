"""Our losses are TRL's, where TRL is installed (it is no requirement: `pip install trl datasets`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace_trainer.data.pairs import Pair
from headrace_trainer.data.rows import TokenRow
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from headrace_trainer.objectives import distillation, dpo, kto
from headrace_trainer.objectives.distillation import TaughtRow
from headrace_trainer.objectives.kto import Opinion
from headrace_trainer.objectives.loss import Computing, Loss, accumulate, plan_total
from headrace_trainer.objectives.sft import LOSS as SFT
from support import tiny, training_data
from support.training import moved

HYPER = training_data.HYPER.model_copy(update={"dropout": 0.0})


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
    ours = accumulate(SFT, Computing(model, base, training_data.HYPER, "fp32", budget), rows, plan_total(rows, 1))
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


def prepared(loss: Loss, computing: Computing, units: Sequence[Any]) -> list[Any]:
    assert loss.prepare is not None
    assert loss.with_prepared is not None
    with computing.model.disable_adapter():
        return loss.with_prepared(units, loss.prepare(computing, units))


def drawn(lengths: Sequence[tuple[int, int]]) -> list[TokenRow]:
    random = torch.Generator().manual_seed(3)
    rows = [torch.randint(3, 250, (sum(each),), generator=random).tolist() for each in lengths]
    return [
        TokenRow(str(n), tuple(row[:asked]), tuple(row[asked:]))
        for n, ((asked, _), row) in enumerate(zip(lengths, rows, strict=True))
    ]


def same_step(loss: Loss, computing: Computing, units: Sequence[Any], theirs: Callable[[], Any]) -> None:
    """A step's loss and gradient are those of TRL, whose loss is `theirs`."""
    trainable = {name: value for name, value in computing.model.named_parameters() if value.requires_grad}
    ours = accumulate(loss, computing, units, plan_total(units, 1))
    gradient = {name: value.grad.clone() for name, value in trainable.items()}
    computing.model.zero_grad()
    found = theirs()
    torch.autograd.backward(found)
    assert ours == pytest.approx(float(found.detach()), rel=1e-5)
    for name, value in trainable.items():
        torch.testing.assert_close(gradient[name], value.grad, rtol=1e-3, atol=1e-7)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chosen_loss", [0.0, 0.7], ids=["dpo", "sft and dpo"])
def test_the_loss_of_pairs_is_that_of_trl(tiny_base: Path, tmp_path: Path, chosen_loss: float) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    base = load_base(str(tiny_base))
    model = moved(lora.attach(base.model, HYPER, 1)[0], 0)
    # TRL takes the mean over all tokens of the better answers, RPO that of each: of equal length they are one.
    chosen, rejected = drawn([(3, 7), (9, 7), (4, 7)]), drawn([(3, 5), (9, 11), (4, 2)])
    rows = [
        Pair(str(n), one, one._replace(completion=other.completion), 50.0)
        for n, (one, other) in enumerate(zip(chosen, rejected, strict=True))
    ]
    hyper = HYPER.model_copy(update={"margin": 0.0, "chosen_loss": chosen_loss, "beta": 0.2})
    computing = Computing(model, base, hyper, "fp32", 40)
    told = [
        {
            "prompt_ids": list(row.chosen.prompt),
            "chosen_ids": list(row.chosen.completion),
            "rejected_ids": list(row.rejected.completion),
        }
        for row in rows
    ]
    weights = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, chosen_loss]} if chosen_loss else {}
    config = trl.DPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=3, gradient_checkpointing=False, use_cpu=True, bf16=False,
        report_to="none", max_length=None, beta=0.2, **weights,
    )  # fmt: skip
    text = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 3
    units = prepared(dpo.LOSS, computing, rows)
    trainer = trl.DPOTrainer(
        model=model, args=config, train_dataset=datasets.Dataset.from_list(text), processing_class=base.tokenizer
    )
    trainer.ref_model = None
    model.peft_config.pop("ref", None)
    inputs = trainer.data_collator(told)
    same_step(dpo.LOSS, computing, units, lambda: trainer.compute_loss(trainer.model, inputs))


@pytest.mark.filterwarnings("ignore")
def test_the_loss_of_opinions_is_that_of_trl(tiny_base: Path, tmp_path: Path) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    base = load_base(str(tiny_base))
    model = moved(lora.attach(base.model, HYPER, 1)[0], 0)
    rows = drawn([(3, 5), (9, 4), (4, 17), (7, 11)])
    opinions = [
        Opinion(row.example_id, row, n < 2, row._replace(completion=rows[n - 1].completion)) for n, row in enumerate(rows)
    ]
    computing = Computing(model, base, HYPER.model_copy(update={"beta": 0.2}), "fp32", 40)
    units = prepared(kto.LOSS, computing, opinions)
    config = trl.KTOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, gradient_checkpointing=False, use_cpu=True, bf16=False,
        report_to="none", max_length=None, beta=0.2,
    )  # fmt: skip
    text = [{"prompt": "a", "completion": "b", "label": number < 2} for number in range(4)]
    trainer = trl.KTOTrainer(
        model=model, args=config, train_dataset=datasets.Dataset.from_list(text), processing_class=base.tokenizer
    )
    model.peft_config.pop("ref", None)
    told = [
        {
            "prompt_ids": list(each.row.prompt), "completion_ids": list(each.row.completion),
            "KL_completion_ids": list(each.other.completion), "label": each.good,
        }
        for each in units
    ]  # fmt: skip
    inputs = trainer.data_collator(told)
    same_step(kto.LOSS, computing, units, lambda: trainer.compute_loss(trainer.model, inputs))


@pytest.mark.filterwarnings("ignore")
def test_the_divergence_of_a_teacher_is_that_of_trl(tiny_base: Path, tmp_path: Path) -> None:
    gkd = pytest.importorskip("trl.experimental.gkd")
    base, teacher = load_base(str(tiny_base)), load_base(str(tiny.build(tmp_path, seed=5)))
    model = moved(lora.attach(base.model, HYPER, 1)[0], 0)
    rows = drawn([(3, 5), (9, 4), (4, 17)])
    hyper = HYPER.model_copy(update={"temperature": 2.0, "teacher_share": 1.0, "teacher_tokens": 1000})
    computing = Computing(model, base, hyper, "fp32", 40, teacher=lambda: teacher)
    taught = prepared(distillation.LOSS, computing, [TaughtRow(row.example_id, row, row) for row in rows])
    width = max(row.length for row in rows)
    inputs, labels = torch.full((3, width), base.pad), torch.full((3, width), -100)
    for number, row in enumerate(rows):
        inputs[number, : row.length] = torch.tensor([*row.prompt, *row.completion])
        labels[number, len(row.prompt) : row.length] = torch.tensor(row.completion)

    def theirs() -> Any:
        with torch.no_grad():
            wanted = teacher.model(input_ids=inputs).logits
        said = gkd.GKDTrainer.generalized_jsd_loss(
            model(input_ids=inputs).logits[:, :-1], wanted[:, :-1], labels=labels[:, 1:], beta=0.0, temperature=2.0
        )
        return said * 2.0**2  # Hinton et al. make up for the softening, GKD does not

    same_step(distillation.LOSS, computing, taught, theirs)
