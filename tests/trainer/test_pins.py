"""Pins that are on the log train as they did when they were written, whatever the policy calls its keys today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from headrace_streams.runtime.stage import Record
from headrace_trainer.data.rows import RowTokeniser
from headrace_trainer.job.run import run
from headrace_trainer.learning.loop import train
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from headrace_trainer.policy import Hyperparameters, TrainerPolicy
from headrace_trainer.spec import JobSpec
from headrace_trainer.stage.events import Origin, pins
from support import training_data

# As `TrainingStarted` carried them before the policy's keys got other names.
RECORDED: dict[str, Any] = {
    "method": "lora", "r": 4, "alpha": 8, "dropout": 0.05, "learning_rate": 0.02, "beta2": 0.9, "weight_decay": 0.01,
    "clip": 0.5, "epochs": 4.0, "steps": None, "warmup": 0.2, "batch_rows": 4, "batch_tokens": 300, "max_tokens": 20,
    "rehearsal": 0.5, "warm_start": False, "evaluations": 5, "patience": 1, "validation_rows": 2, "precision": "fp32",
}  # fmt: skip
# What pins have had since; absent, it was this.
ADDED: dict[str, Any] = {
    "target_modules": "all-linear", "modules_to_save": [], "activation_checkpointing": "auto", "min_steps": 1,
    "final_rate": 0.0, "carry_optimiser": False, "objective": "sft", "beta": 0.1, "margin": 0.5, "least_gap": 10.0,
    "pairs_per_group": 4, "chosen_loss": 0.0, "undesirable_weight": None, "teacher": None, "teacher_share": 0.5,
    "temperature": 1.0, "teacher_tokens": 64, "rslora": False, "dora": False, "init": "default", "lora_plus": 1.0,
}  # fmt: skip
SAME = Hyperparameters(
    r=4, alpha=8, dropout=0.05, learning_rate=0.02, beta2=0.9, weight_decay=0.01, max_grad_norm=0.5, epochs=4.0, warmup=0.2,
    rows_per_step=4, batch_tokens=300, max_sequence_tokens=20, rehearsal=0.5, warm_start=False, validations_per_run=5, patience=1,
    validation_rows=2, precision="fp32", min_steps=1, final_rate=0.0, carry_optimiser=False,
)  # fmt: skip


def test_recorded_pins_are_read_and_written_by_their_names_on_the_log() -> None:
    assert Hyperparameters.from_wire(RECORDED) == SAME
    assert SAME.to_wire() == RECORDED | ADDED


def test_a_run_is_pinned_by_the_names_on_the_log() -> None:
    batch = training_data.batch([training_data.recorded(1).member])
    origin = Origin(Record("batches", 0, 0, 0, 0, None, None), batch)
    policy = TrainerPolicy(defaults=SAME)
    start = pins(origin, policy, "fp32", parent_adapter=None, parent_release_id=None, rehearsal=[])
    assert start.hyperparameters == RECORDED | ADDED
    again = pins(origin._replace(request_id="r1"), policy, "fp32", parent_adapter=None, parent_release_id=None, rehearsal=[])
    assert again == msgspec.structs.replace(start, run_id=again.run_id)
    assert again.run_id != start.run_id, "asked for again, it is another run, with its own version and evaluation"


def test_a_pin_that_nobody_wrote_is_refused() -> None:
    with pytest.raises(ValidationError, match="rank"):
        Hyperparameters.from_wire({**RECORDED, "rank": 8})


def test_a_policy_that_was_recorded_before_the_keys_were_renamed_is_read() -> None:
    today = TrainerPolicy(defaults=SAME, buckets={"sql/tiny": {"rows_per_step": 2}})
    recorded = {**today.body(), "defaults": RECORDED, "buckets": {"sql/tiny": {"batch_rows": 2}}}
    assert TrainerPolicy.from_recorded(recorded) == today
    assert TrainerPolicy.from_recorded(today.body()) == today
    assert TrainerPolicy.from_recorded({}) == TrainerPolicy()


def test_recorded_pins_train_the_adapter_that_today_s_names_train(tiny_base: Path, tmp_path: Path) -> None:
    learnt = [training_data.recorded(number) for number in range(24)]
    watched = [training_data.recorded(number, "validation") for number in range(30, 34)]
    everything = [*learnt, *watched]
    batch = training_data.batch(recorded.member for recorded in everything)
    start = training_data.start(batch, hyperparameters=RECORDED)
    values = training_data.values(*everything)
    by_pins = run(JobSpec(start, batch, str(tiny_base), values, tmp_path / "run", threads=1))

    base = load_base(str(tiny_base))
    model, _ = lora.attach(base.model, SAME, start.seed)
    tokeniser = RowTokeniser(base.tokenizer, 20)
    rows, validation = ([tokeniser.example(each.example, 1.0).row for each in chosen] for chosen in (learnt, watched))
    assert any(row.length == 20 for row in rows), "the limit of tokens must cut something"
    trained = train(model, base, rows, validation, SAME, seed=start.seed, precision="fp32")
    folder = lora.save(model, tmp_path / "direct", batch.base)
    assert by_pins.training is not None
    assert (by_pins.training.steps, by_pins.training.best_step) == (trained.steps, trained.best_step)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (by_pins.folder / name).read_bytes() == (folder / name).read_bytes()
