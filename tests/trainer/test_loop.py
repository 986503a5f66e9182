"""The training loop computes what its arguments say: the same for any accumulation, padding, process or number of kills."""

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from headrace_trainer.data.rows import TokenRow
from headrace_trainer.learning import optimiser_state
from headrace_trainer.learning.loop import learning_rate_share, plan_steps, train
from headrace_trainer.model import lora
from headrace_trainer.model import precision as precision_module
from headrace_trainer.model.base import Base, BaseMissing, load_base
from headrace_trainer.model.precision import precision_for
from headrace_trainer.objectives.loss import Computing, accumulate, plan_total, split_by_tokens
from headrace_trainer.objectives.sft import LOSS as SFT
from headrace_trainer.objectives.sft import collate, row_losses, token_losses
from headrace_trainer.policy import Hyperparameters
from headrace_trainer.spec import JobProgress
from support.training import gradients

HYPER = Hyperparameters(
    r=4, alpha=8, learning_rate=1e-2, epochs=2, min_steps=1, rows_per_step=8, batch_tokens=200, validation_rows=2,
    precision="fp32",
)  # fmt: skip


def rows_of(count: int, seed: int = 0) -> list[TokenRow]:
    random = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=random))
        return tuple(torch.randint(3, 250, (length,), generator=random).tolist())

    return [TokenRow(f"e{index}", tokens(2, 12), tokens(1, 20), 0.1 + index % 5) for index in range(count)]


def with_adapter(base: Base) -> Any:
    """With an adapter that changes something, and no dropout."""
    model, _ = lora.attach(base.model, HYPER.model_copy(update={"dropout": 0.0}), 1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.02)
    return model


@pytest.fixture
def base(tiny_base: Path) -> Base:
    return load_base(str(tiny_base))


def test_accumulation_changes_nothing(base: Base) -> None:
    model = with_adapter(base)
    rows = rows_of(8)
    total = plan_total(rows, 1)
    at_once = accumulate(SFT, Computing(model, base, HYPER, "fp32", 10**6), rows, total)
    whole = gradients(model)
    row_by_row = accumulate(SFT, Computing(model, base, HYPER, "fp32", 1), rows, total)
    parts = gradients(model)
    assert row_by_row == pytest.approx(at_once, rel=1e-6)
    assert whole
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6)


def test_weights_are_relative(base: Base) -> None:
    rows = rows_of(6)
    model = with_adapter(base)
    accumulate(SFT, Computing(model, base, HYPER, "fp32", 500), rows, plan_total(rows, 2))
    expected = gradients(model)
    for factor in (7.0, 1e-60, 1e60):  # far below and above what float32 holds: a bucket of old rows only
        others = [row._replace(weight=row.weight * factor) for row in rows]
        accumulate(SFT, Computing(model, base, HYPER, "fp32", 500), others, plan_total(others, 2))
        for name, value in gradients(model).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-7)


def test_a_row_pulls_by_its_weight_in_whatever_step_it_comes(base: Base) -> None:
    """One divisor for all steps: by each step's own weights, a row of a millionth, alone in a step, pulls like a whole one."""
    heavy, light = rows_of(2)
    heavy, light = heavy._replace(weight=1.0), light._replace(weight=1e-6)
    model, total = with_adapter(base), plan_total([heavy, light], 2)
    accumulate(SFT, Computing(model, base, HYPER, "fp32", 500), [light], total)
    alone = gradients(model)
    accumulate(SFT, Computing(model, base, HYPER, "fp32", 500), [light._replace(weight=1.0)], total)
    for name, value in gradients(model).items():
        torch.testing.assert_close(alone[name] * 1e6, value, rtol=1e-3, atol=1e-9)


def test_the_loss_of_equal_weights_is_that_of_every_library(base: Base) -> None:
    """Mean cross-entropy over the completion tokens of a step, as transformers computes it from labels, and its gradient."""
    rows = [row._replace(weight=3.0) for row in rows_of(6)]
    model = with_adapter(base)
    ours = accumulate(SFT, Computing(model, base, HYPER, "fp32", 80), rows, plan_total(rows, 1))
    gradient = gradients(model)
    width = max(row.length for row in rows)
    inputs, labels, mask = (torch.full((len(rows), width), fill) for fill in (base.pad, -100, 0))
    for index, row in enumerate(rows):
        inputs[index, : row.length] = torch.tensor([*row.prompt, *row.completion])
        labels[index, len(row.prompt) : row.length] = torch.tensor(row.completion)
        mask[index, : row.length] = 1
    loss = model(input_ids=inputs, attention_mask=mask, labels=labels).loss
    loss.backward()
    assert ours == pytest.approx(float(loss.detach()), rel=1e-6)
    for name, value in gradients(model).items():
        torch.testing.assert_close(gradient[name], value, rtol=1e-4, atol=1e-7)


def test_the_loss_is_the_formula_of_the_docs(base: Base) -> None:
    rows = rows_of(5)
    total = plan_total(rows, 2)
    assert total == pytest.approx(sum(row.weight * len(row.completion) for row in rows) / 2, rel=1e-12)
    means = row_losses(base.model, rows, base, 500, "fp32")
    wanted = sum(row.weight * len(row.completion) * mean for row, mean in zip(rows, means, strict=True))
    model = lora.attach(base.model, HYPER.model_copy(update={"dropout": 0.0}), 1)[0]
    shown = accumulate(SFT, Computing(model, base, HYPER, "fp32", 500), rows, total)
    assert shown == pytest.approx(wanted / sum(row.weight * len(row.completion) for row in rows), rel=1e-5)


def test_weights_that_add_up_to_nothing_are_refused() -> None:
    rows = rows_of(3)
    for weight in (0.0, math.inf, math.nan):
        with pytest.raises(ArithmeticError, match="weights"):
            plan_total([row._replace(weight=weight) for row in rows], 1)


def test_completion_head_equals_full_logits_with_mask(base: Base) -> None:
    rows = rows_of(5)
    batch = collate(rows, base.pad)
    ours = token_losses(base.model, batch)
    theirs = []
    with torch.no_grad():
        for row in rows:  # each alone, unpadded, all positions
            tokens = torch.tensor([[*row.prompt, *row.completion]])
            logits = base.model(input_ids=tokens).logits[0, len(row.prompt) - 1 : -1]
            theirs.append(functional.cross_entropy(logits, torch.tensor(row.completion), reduction="none"))
    torch.testing.assert_close(ours, torch.cat(theirs), rtol=1e-5, atol=1e-5)


def test_a_model_that_scales_its_logits_goes_the_long_way(tiny_base: Path) -> None:
    base = load_base(str(tiny_base))
    forward = base.model.forward

    def scaled(*arguments: object, **named: object) -> Any:
        made = forward(*arguments, **named)
        made.logits = made.logits * 0.5
        return made

    base.model.forward = scaled
    rows = rows_of(3)
    with torch.no_grad():
        ours = token_losses(base.model, collate(rows, base.pad))
        row = rows[0]
        logits = scaled(input_ids=torch.tensor([[*row.prompt, *row.completion]])).logits[0, len(row.prompt) - 1 : -1]
    expected = functional.cross_entropy(logits, torch.tensor(row.completion), reduction="none")
    torch.testing.assert_close(ours[: len(row.completion)], expected, rtol=1e-5, atol=1e-5)


def test_row_losses_keep_the_order(base: Base) -> None:
    rows = rows_of(9)
    together = row_losses(base.model, rows, base, 60, "fp32")
    assert together == pytest.approx([row_losses(base.model, [row], base, 60, "fp32")[0] for row in rows], rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 90), min_size=1, max_size=70), st.integers(1, 9), st.integers(0, 3))
def test_a_pass_sees_every_row_once(lengths: list[int], batch: int, seed: int) -> None:
    hyper = Hyperparameters(rows_per_step=batch, epochs=1, min_steps=1)
    steps = plan_steps(lengths, hyper, seed)
    longer = plan_steps(lengths, hyper.model_copy(update={"epochs": 2.0}), seed)
    assert all(1 <= len(step) <= batch for step in steps)
    assert max(map(len, steps)) - min(map(len, steps)) <= 1, "what is left of a pass is spread over its steps"
    assert len({index for step in steps for index in step}) == sum(len(step) for step in steps)
    assert sum(len(step) for step in steps) == len(lengths)
    assert longer[: len(steps)] == steps
    least = plan_steps(lengths, hyper.model_copy(update={"min_steps": len(steps) + 3}), seed)
    assert (least[: len(steps)], len(least)) == (steps, len(steps) + 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 200))
def test_micro_batches_hold_the_budget(lengths: list[int], budget: int) -> None:
    rows = [TokenRow(str(index), (1,), (2,) * length) for index, length in enumerate(lengths)]
    batches = split_by_tokens(rows, budget)
    assert sorted(row.example_id for batch in batches for row in batch) == sorted(row.example_id for row in rows)
    assert all(len(batch) == 1 or len(batch) * max(row.length for row in batch) <= budget for batch in batches)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 200), st.integers(0, 60))
def test_no_other_micro_batches_have_fewer_padded_tokens_and_passes(lengths: list[int], budget: int, per_pass: int) -> None:
    rows = sorted((TokenRow(str(index), (1,), (2,) * length) for index, length in enumerate(lengths)), key=lambda row: row.length)

    def cost(batches: list[list[TokenRow]]) -> int:
        return sum(len(batch) * batch[-1].length + per_pass for batch in batches)

    def ways(left: list[TokenRow]) -> Iterator[list[list[TokenRow]]]:
        if not left:
            yield []
        for count in range(1, len(left) + 1):
            if count == 1 or count * left[count - 1].length <= budget:
                yield from ([left[:count], *rest] for rest in ways(left[count:]))

    assert cost(split_by_tokens(rows, budget, per_pass)) == min(cost(way) for way in ways(rows))


def test_the_rate_rises_and_falls() -> None:
    rates = [learning_rate_share(step, 20, 0.2) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(after < before for before, after in itertools.pairwise(rates[3:]))
    assert 0 < rates[-1] < 0.1
    assert learning_rate_share(0, 1, 0.1) == 1.0
    falling = [learning_rate_share(step, 20, 0.0, 0.1) for step in range(20)]
    assert falling[0] == 1.0
    assert 0.1 < falling[-1] < 0.15
    assert {learning_rate_share(step, 20, 0.0, 1.0) for step in range(20)} == {1.0}


def test_training_lowers_the_loss_and_keeps_the_best(base: Base) -> None:
    rows = rows_of(24)
    model, _ = lora.attach(base.model, HYPER, 1)
    before = row_losses(model, rows, base, 500, "fp32")
    validations = []
    result = train(
        model, base, rows, rows[:4], HYPER.model_copy(update={"epochs": 8.0}), seed=3, precision="fp32",
        on_progress=lambda progress: validations.append(progress),
    )  # fmt: skip
    after = row_losses(model, rows, base, 500, "fp32")
    assert sum(after) < sum(before)
    assert result.validation_loss == min(progress.loss for progress in validations if progress.phase == "validation")
    best = sum(row_losses(model, rows[:4], base, 500, "fp32")) / 4
    assert best == pytest.approx(result.validation_loss, rel=1e-5)


def test_each_step_tells_its_rate_and_gradient_and_each_validation_its_own_loss(base: Base) -> None:
    model, _ = lora.attach(base.model, HYPER, 1)
    told: list[JobProgress] = []
    hyper = HYPER.model_copy(update={"learning_rate": 0.2, "patience": 0, "epochs": 3})  # so high that it gets worse again
    train(model, base, rows_of(24), rows_of(8, seed=1), hyper, seed=1, precision="fp32", on_progress=told.append)
    steps = [progress for progress in told if progress.phase == "training"]
    rates = [0.2 * learning_rate_share(step, len(steps), hyper.warmup, hyper.final_rate) for step in range(len(steps))]
    assert [progress.learning_rate for progress in steps] == rates
    assert all(progress.gradient_norm is not None and progress.gradient_norm > 0 for progress in told)
    assert {progress.validation_loss for progress in steps} == {None}
    validations = [progress for progress in told if progress.phase == "validation"]
    losses = [progress.validation_loss for progress in validations if progress.validation_loss is not None]
    assert [progress.loss for progress in validations] == list(itertools.accumulate(losses, min))
    assert len(set(losses)) > len({progress.loss for progress in validations}), "one was worse than the best"


def test_it_stops_when_validation_stops_falling(base: Base) -> None:
    rows, others = rows_of(16, seed=1), rows_of(6, seed=2)  # unrelated random tokens: nothing to learn for the others
    model, _ = lora.attach(base.model, HYPER, 1)
    hyper = HYPER.model_copy(update={"steps": 400, "validations_per_run": 80, "patience": 2, "learning_rate": 3e-2})
    result = train(model, base, rows, others, hyper, seed=3, precision="fp32")
    assert result.steps < 400
    assert result.best_step == result.steps - 2 * 5


def test_with_too_few_validation_rows_it_does_all_steps_that_were_planned(base: Base) -> None:
    rows, others = rows_of(16, seed=1), rows_of(6, seed=2)
    model, _ = lora.attach(base.model, HYPER, 1)
    changed = {"steps": 30, "validations_per_run": 30, "patience": 1, "learning_rate": 3e-2, "validation_rows": 7}
    result = train(model, base, rows, others, HYPER.model_copy(update=changed), seed=3, precision="fp32")
    assert (result.steps, result.validation_loss) == (30, None)


STEADY = HYPER.model_copy(update={"dropout": 0.0, "final_rate": 1.0, "warmup": 0.0, "validation_rows": 99})


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in lora.tensors_of(model).items()}


def chained(base: Path, folder: Path, hyper: Hyperparameters, *steps: int, carry: bool = True) -> dict[str, torch.Tensor]:
    """Weights after runs of so many steps over the same eight rows, each from where the one before ended."""
    model, _ = lora.attach(load_base(str(base)).model, hyper, 1)
    before = None
    for number, count in enumerate(steps):
        after = folder / str(number)
        limited = hyper.model_copy(update={"steps": count})
        train(
            model,
            load_base(str(base)),
            rows_of(8),
            [],
            limited,
            seed=3,
            precision="fp32",
            optimiser_from=before,
            optimiser_to=after,
        )
        before = after if carry else None
    return lora.tensors_of(model)


def test_a_chain_of_runs_that_carries_the_optimiser_is_one_run(tiny_base: Path, tmp_path: Path) -> None:
    whole = chained(tiny_base, tmp_path / "whole", STEADY, 6)
    parts = chained(tiny_base, tmp_path / "parts", STEADY, 2, 3, 1)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7)
    anew = chained(tiny_base, tmp_path / "anew", STEADY, 2, 3, 1, carry=False)
    assert any(not torch.allclose(anew[name], value, rtol=1e-2, atol=1e-5) for name, value in whole.items())


def test_a_run_that_goes_on_with_an_optimiser_does_not_warm_up(tiny_base: Path, tmp_path: Path) -> None:
    """The first steps of a fresh one go as far as the rate lets them whatever the gradient: those need the warm-up."""
    chained(tiny_base, tmp_path, STEADY, 3)
    slow = STEADY.model_copy(update={"warmup": 0.9, "steps": 10, "learning_rate": 1e-5})
    moved = []
    for before in (tmp_path / "0", None):
        base = load_base(str(tiny_base))
        model, _ = lora.attach(base.model, slow, 1)
        path = [weights(model)]
        train(
            model, base, rows_of(8), [], slow, seed=3, precision="fp32", optimiser_from=before,
            on_progress=lambda _, path=path, model=model: path.append(weights(model)),  # type: ignore[misc]
        )  # fmt: skip
        moved.append(sum(float((value - path[0][name]).abs().sum()) for name, value in path[1].items()))
    assert moved[0] > 4 * moved[1], "a fresh one begins at a ninth of the rate"


def test_the_optimiser_of_a_killed_run_ends_with_the_same_bytes(tiny_base: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill_at(step: int) -> Any:
        def told(progress: Any) -> None:
            if progress.step == step and progress.phase == "training":
                raise Killed

        return told

    chained(tiny_base, tmp_path / "before", STEADY, 3)
    ends = []
    for kills in ((), (4, 6)):
        folder = tmp_path / f"run{len(kills)}"
        folder.mkdir()
        for kill in (*kills, 0):
            base = load_base(str(tiny_base))
            model, _ = lora.attach(base.model, HYPER, 1)
            try:
                train(
                    model, base, rows_of(24), rows_of(4, 9), HYPER.model_copy(update={"steps": 8}), seed=3, precision="fp32",
                    folder=folder, run="r", checkpoint_seconds=0.0, optimiser_from=tmp_path / "before" / "0",
                    optimiser_to=folder / "optimiser", on_progress=kill_at(kill),
                )  # fmt: skip
            except Killed:
                assert (folder / "checkpoint.safetensors").exists()
        lora.save(model, folder / "adapter")
        ends.append(
            {path.name: path.read_bytes() for path in [*(folder / "adapter").iterdir(), *(folder / "optimiser").iterdir()]}
        )
    assert ends[0] == ends[1]
    assert "optimiser.safetensors" in ends[0]


def test_an_optimiser_of_other_parameters_or_none_is_not_gone_on_with(tiny_base: Path, tmp_path: Path) -> None:
    chained(tiny_base, tmp_path, STEADY, 1)
    model, _ = lora.attach(load_base(str(tiny_base)).model, STEADY, 1)
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert optimiser_state.read(tmp_path / "0", parameters)
    other, _ = lora.attach(load_base(str(tiny_base)).model, STEADY.model_copy(update={"r": 8}), 1)
    assert optimiser_state.read(tmp_path / "0", dict(other.named_parameters())) is None
    file = tmp_path / "0" / optimiser_state.NAME
    file.write_bytes(file.read_bytes()[:-9])
    assert optimiser_state.read(tmp_path / "0", parameters) is None
    with pytest.raises(OSError, match="nowhere"):
        optimiser_state.read(tmp_path / "nowhere", parameters)


def test_no_rows_and_a_diverged_loss_are_errors(base: Base) -> None:
    model, _ = lora.attach(base.model, HYPER, 1)
    with pytest.raises(ValueError, match="no rows"):
        train(model, base, [], [], HYPER, seed=0, precision="fp32")
    with torch.no_grad():
        next(value for value in model.parameters() if value.requires_grad).fill_(math.inf)
    with pytest.raises(ArithmeticError, match="step 1"):
        train(model, base, rows_of(4), [], HYPER, seed=0, precision="fp32")


def test_a_gradient_without_end_is_an_error_and_not_weights_that_are_no_numbers(base: Base) -> None:
    model, _ = lora.attach(base.model, HYPER, 1)
    last = [value for value in model.parameters() if value.requires_grad][-1]
    last.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(ArithmeticError, match=r"gradient norm is .* at step 1"):
        train(model, base, rows_of(8), [], HYPER.model_copy(update={"steps": 1}), seed=0, precision="fp32")
    assert all(torch.isfinite(value).all() for value in model.parameters())


@pytest.mark.parametrize(("flag", "faster", "chosen"), [(True, 3.0, "bf16"), (True, 0.6, "fp32"), (False, 3.0, "fp32")])
def test_bf16_is_taken_where_it_is_fast(monkeypatch: pytest.MonkeyPatch, flag: bool, faster: float, chosen: str) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: flag)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(precision_module, "_product_seconds", lambda dtype: 1.0 if dtype == torch.float32 else 1.0 / faster)
    assert precision_for("auto", "cpu") == chosen
    assert (precision_for("bf16", "cpu"), precision_for("fp32", "cpu")) == ("bf16", "fp32")


def test_missing_weights_say_so(tmp_path: Path) -> None:
    with pytest.raises(BaseMissing, match="empty"):
        load_base(str(tmp_path / "empty" / "x"))


SCRIPT = """
import sys, pathlib, torch
torch.set_num_threads(int(sys.argv[3]))
sys.path.insert(0, {here!r})
from test_loop import HYPER, rows_of
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from headrace_trainer.learning.loop import train
base = load_base(sys.argv[1])
hyper = HYPER.model_copy(update={{"steps": 60, "validations_per_run": 12, "patience": 0}})
model, _ = lora.attach(base.model, hyper, 5)
folder = pathlib.Path(sys.argv[2])
folder.mkdir(exist_ok=True)
train(model, base, rows_of(30), rows_of(4, 9), hyper, seed=5, precision="fp32", folder=folder, run="r", checkpoint_seconds=0.0,
      on_progress=lambda progress: print(progress.step, progress.phase, flush=True))
lora.save(model, folder / "adapter")
"""


def start(base: Path, folder: Path, threads: int = 1) -> subprocess.Popen[str]:
    script = SCRIPT.format(here=str(Path(__file__).parent))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(base), str(folder), str(threads)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "adapter").iterdir())}


@pytest.mark.slow(seconds=12)
def test_a_killed_run_ends_with_the_same_bytes(tiny_base: Path, tmp_path: Path) -> None:
    whole, killed = start(tiny_base, tmp_path / "whole"), start(tiny_base, tmp_path / "killed")
    while not (tmp_path / "killed" / "checkpoint.safetensors").exists():
        assert killed.poll() is None
        time.sleep(0.001)
    hits = 0
    for _ in range(3):
        temporary = tmp_path / "killed" / "checkpoint.safetensors.tmp"
        while not temporary.exists() and killed.poll() is None:  # kill in the middle of a checkpoint write
            time.sleep(0.0002)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        hits += temporary.exists()
        killed = start(tiny_base, tmp_path / "killed")
    output, _ = killed.communicate(timeout=120)
    assert killed.returncode == 0
    first = int(output.split()[0])
    assert first > 1  # it went on, it did not start again
    whole.communicate(timeout=120)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert set(files_of(tmp_path / "whole")) == {"adapter_config.json", "adapter_model.safetensors"}
    assert hits >= 1
