"""Every row of the table of objectives: its loss is its formula, however a step is cut, and a run of it can be killed at will."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs
from torch.nn import functional

from headrace_schemas.derived import Content
from headrace_streams.policy import PolicyError
from headrace_trainer.data.pairs import Pair, pairs_of
from headrace_trainer.data.rows import RowTokeniser, TokenisedExample, TokenRow
from headrace_trainer.job.failures import cause_of
from headrace_trainer.job.rows import RowsMissing
from headrace_trainer.job.run import run
from headrace_trainer.learning import checkpoint
from headrace_trainer.learning.loop import train
from headrace_trainer.model import lora
from headrace_trainer.model.base import Base, load_base
from headrace_trainer.model.sharding import Ranks
from headrace_trainer.objectives import distillation, kto
from headrace_trainer.objectives.distillation import TeacherRefused
from headrace_trainer.objectives.loss import Computing, Loss, Unit, accumulate, plan_total
from headrace_trainer.objectives.table import OBJECTIVES, may_avoid
from headrace_trainer.policy import Hyperparameters, TrainerPolicy, load
from headrace_trainer.spec import JobProgress, JobSpec, TeacherSpec
from support import tiny, training_data
from support.training import gradients, moved

HYPER = training_data.HYPER.model_copy(
    update={"dropout": 0.0, "epochs": 1.0, "beta": 0.3, "chosen_loss": 0.2, "teacher_tokens": 1000, "temperature": 2.0}
)
SINGLE = [name for name, objective in OBJECTIVES.items() if not objective.parts]


@pytest.fixture
def base(tiny_base: Path) -> Base:
    return load_base(str(tiny_base))


def examples(base: Base) -> list[TokenisedExample]:
    """Corrections, good answers without one, and bad ones; of two tasks there are both."""
    tokeniser, made = RowTokeniser(base.tokenizer, 200), []
    for number in range(8):
        group = f"g{number % 4}"
        asked = f"{number % 4} + 1 ?"
        if number < 3:
            changed: dict[str, Any] = {"content": Content(prompt=asked, output="?" * number + "no", target=f"it is {number + 1}")}
        else:
            output = f"the sum is {number % 4 + 1}" if number < 5 else "nobody knows " * (number - 4)
            changed = {"content": Content(prompt=asked, output=output, target=output), "quality": 0.8 if number < 5 else -0.7}
        example = training_data.example(number, prompt_group=group, **changed)
        made.append(tokeniser.example(example, 0.5 + number % 3)._replace(scored=number < 5))
    return made


def computing_of(base: Base, model: Any, budget: int = 10**6) -> Computing:
    return Computing(model, base, HYPER, "fp32", budget, teacher=lambda: base)


def prepared(name: str, base: Base, model: Any) -> tuple[Loss, Sequence[Unit]]:
    """Units of the examples, with what is computed of the model before it moves."""
    [loss] = OBJECTIVES[name].losses()
    units = loss.units(examples(base), RowTokeniser(base.tokenizer, 200), HYPER).units
    assert len(units) >= 3
    if loss.prepare is not None and loss.with_prepared is not None:
        with model.disable_adapter():
            units = loss.with_prepared(units, loss.prepare(computing_of(base, model), units))
    return loss, units


@pytest.mark.parametrize("name", SINGLE)
def test_a_step_is_the_same_however_it_is_cut(name: str, base: Base) -> None:
    model = moved(lora.attach(base.model, HYPER, 1)[0], 1)
    loss, units = prepared(name, base, model)
    total = plan_total(units, 1)
    at_once = accumulate(loss, computing_of(base, model), units, total)
    whole = gradients(model)
    one_by_one = accumulate(loss, computing_of(base, model, 1), units, total)
    parts = gradients(model)
    assert one_by_one == pytest.approx(at_once, rel=1e-5)
    assert any(value.abs().max() > 1e-4 for value in whole.values())
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-3, atol=1e-6)


def log_probabilities(model: Any, row: TokenRow) -> torch.Tensor:
    """[completion tokens, vocabulary], of a row by itself."""
    logits = model(input_ids=torch.tensor([[*row.prompt, *row.completion]])).logits[0, len(row.prompt) - 1 : -1]
    return functional.log_softmax(logits, dim=-1)


def told(model: Any, row: TokenRow) -> torch.Tensor:
    return log_probabilities(model, row).gather(1, torch.tensor(row.completion)[:, None]).sum()


def by_the_papers(name: str, model: Any, units: Sequence[Any]) -> torch.Tensor:
    """Weighted mean of the losses of units, written from the formulas, a row at a time; what the run begins with is the base."""

    def ratio(row: TokenRow) -> torch.Tensor:
        with torch.no_grad(), model.disable_adapter():
            before = told(model, row)
        return told(model, row) - before

    def of(unit: Any) -> torch.Tensor:
        if name == "sft":
            return -told(model, unit)
        if name == "dpo":
            wanted = HYPER.beta * (ratio(unit.chosen) - ratio(unit.rejected)) - HYPER.margin * unit.gap / 100
            return -functional.logsigmoid(wanted) - HYPER.chosen_loss * told(model, unit.chosen) / len(unit.chosen.completion)
        if name == "kto":
            away = HYPER.beta * (ratio(unit.row) - z)
            return 1 - torch.sigmoid(away if unit.good else -away)
        with torch.no_grad(), model.disable_adapter():
            teacher = functional.log_softmax(log_probabilities(model, unit.asked) / HYPER.temperature, dim=-1)
        ours = log_probabilities(model, unit.row)
        softened = functional.log_softmax(ours / HYPER.temperature, dim=-1)
        divergence = functional.kl_div(softened, teacher, log_target=True, reduction="sum") * HYPER.temperature**2
        return HYPER.teacher_share * divergence - (1 - HYPER.teacher_share) * told(model, unit.row)

    if name == "kto":
        with torch.no_grad():
            z = max(0.0, float(sum(ratio(unit.other) for unit in units)) / len(units))
    losses = torch.stack([unit.weight * of(unit) for unit in units])
    weights = torch.tensor([float(unit.weight * unit.size) for unit in units])
    return losses.sum() / weights.sum()


@pytest.mark.parametrize("name", SINGLE)
def test_a_loss_and_its_gradient_are_the_formula_of_the_papers(name: str, base: Base) -> None:
    model = moved(lora.attach(base.model, HYPER, 1)[0], 1)
    loss, units = prepared(name, base, model)
    ours = accumulate(loss, computing_of(base, model, 150), units, plan_total(units, 1))
    gradient = gradients(model)
    theirs = by_the_papers(name, model, units)
    torch.autograd.backward(theirs)
    assert ours == pytest.approx(float(theirs.detach()), rel=1e-5)
    for key, value in gradients(model).items():
        torch.testing.assert_close(gradient[key], value, rtol=1e-3, atol=1e-6)


TRAIN = [
    training_data.recorded(
        number, role=role, prompt_group=f"g{number % 8}", quality=quality,
        content=Content(prompt=f"{number % 8} + 1 ?", output=f"no {number}", target=f"{said} {number}"),
    )
    for number, role, quality, said in [(n, "train", -0.2, "is") if n < 16 else (n, "negative", -0.8, "no") for n in range(24)]
]  # fmt: skip
TESTS = [training_data.recorded(number, "test") for number in range(40, 44)]
BATCH = training_data.batch([made.member for made in TRAIN], [made.member for made in TESTS])


def spec_of(objective: str, base: Path, folder: Path, **changed: Any) -> JobSpec:
    hyper = training_data.HYPER.model_copy(update={"objective": objective, "dropout": 0.0, "steps": 3, **changed})
    start = training_data.start(BATCH, hyperparameters=hyper.to_wire(), avoids=OBJECTIVES[objective].avoids or None)
    return JobSpec(
        start, BATCH, str(base), training_data.values(*TRAIN, *TESTS), folder, threads=1, checkpoint_seconds=0.0,
        teacher=TeacherSpec(str(base)) if OBJECTIVES[objective].taught else None,
    )  # fmt: skip


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "sft"])
def test_a_run_that_was_killed_ends_with_the_same_bytes_and_is_judged_as_read_back(
    objective: str, tiny_base: Path, tmp_path: Path
) -> None:
    seen: list[JobProgress] = []

    def kill(progress: JobProgress) -> None:
        if progress.step == 2 and progress.phase == "training":
            raise InterruptedError

    whole = run(spec_of(objective, tiny_base, tmp_path / "whole"), seen.append)
    killed = spec_of(objective, tiny_base, tmp_path / "killed")
    with pytest.raises(InterruptedError):
        run(killed, kill)
    resumed = run(killed)
    files = [{path.name: path.read_bytes() for path in result.folder.iterdir()} for result in (whole, resumed)]
    assert files[0] == files[1]
    assert whole.report == resumed.report
    parts = len(OBJECTIVES[objective].parts) or 1
    assert [each.step for each in seen if each.phase == "training"] == list(range(1, 3 * parts + 1))
    assert list(killed.folder.glob(f"**/{checkpoint.PREPARED}")), "what is computed once is kept"
    assert whole.report.measure in OBJECTIVES[objective].judged_by
    told_by_loss = any(group.loss_gain is not None for head in whole.report.heads for group in head.groups)
    assert told_by_loss == ("loss" in OBJECTIVES[objective].judged_by)


def test_a_run_whose_rows_became_fewer_while_it_was_away_goes_on_with_those_that_are_left(base: Base, tmp_path: Path) -> None:
    [loss], model = OBJECTIVES["dpo"].losses(), moved(lora.attach(base.model, HYPER, 1)[0], 1)
    units = loss.units(examples(base), RowTokeniser(base.tokenizer, 200), HYPER).units

    def trained(rows: Sequence[Unit]) -> int:
        return train(
            model, base, rows, [], HYPER.model_copy(update={"steps": 1}), loss=loss, seed=1, precision="fp32", folder=tmp_path,
            run="r", checkpoint_seconds=math.inf,
        ).steps  # fmt: skip

    assert trained(units) == 1
    (tmp_path / checkpoint.NAME).unlink()
    assert trained(units[1:]) == 1


def test_when_memory_runs_out_before_the_first_step_what_is_computed_once_is_so_in_smaller_passes(base: Base) -> None:
    [loss], model = OBJECTIVES["dpo"].losses(), moved(lora.attach(base.model, HYPER, 1)[0], 1)
    units = loss.units(examples(base), RowTokeniser(base.tokenizer, 200), HYPER).units
    budgets: list[int] = []

    def prepare(computing: Computing, units: Sequence[Unit]) -> dict[str, torch.Tensor]:
        budgets.append(computing.budget)
        if computing.budget > 500:
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert loss.prepare is not None
        return loss.prepare(computing, units)

    hyper = HYPER.model_copy(update={"steps": 1, "batch_tokens": 2000})
    assert train(model, base, units, [], hyper, loss=replace(loss, prepare=prepare), seed=1, precision="fp32").steps == 1
    assert budgets == [2000, 1000, 500]


class _Words:
    """A tokeniser that makes a token of each letter."""

    def example(self, example: Any, weight: float) -> TokenisedExample:
        return TokenisedExample(TokenRow(example.example_id, (1,), tuple(map(ord, example.content.target)), weight), example)


def answer(number: int, text: str, *, scored: bool = True, output: str | None = None, **changed: Any) -> TokenisedExample:
    content = Content(prompt=changed.pop("prompt", "?"), output=text if output is None else output, target=text)
    return (
        _Words().example(training_data.example(number, prompt_group="g", content=content, **changed), 2.0)._replace(scored=scored)
    )


def pairs(*made: TokenisedExample, least_gap: float = 10.0, per_group: int = 9) -> Any:
    return pairs_of(made, _Words(), least_gap, per_group)  # type: ignore[arg-type]


def test_a_correction_is_better_than_what_it_corrects_by_the_points_that_that_lacks() -> None:
    [pair] = pairs(answer(1, "right", output="wrong", score=30.0)).pairs
    assert ("".join(map(chr, pair.chosen.completion)), "".join(map(chr, pair.rejected.completion))) == ("right", "wrong")
    assert (pair.gap, pair.weight) == (70.0, 2.0)
    nearly = pairs(answer(1, "right", output="right.", score=90.0))
    assert (nearly.pairs, list(nearly.left_out)) == ([], ["small_gap"])


def test_a_group_with_good_and_bad_answers_to_one_question_makes_pairs_up_to_a_cap() -> None:
    made = [
        answer(1, "yes", quality=0.5), answer(2, "no", scored=False, quality=-0.5),
        answer(3, "never", scored=False, quality=-0.9),
        answer(4, "yes", scored=False, quality=-0.9), answer(5, "else", scored=False, quality=-0.9, prompt="and?"),
    ]  # fmt: skip
    found = pairs(*made)
    assert [(pair.rejected.example_id, pair.gap) for pair in found.pairs] == [
        (made[2].row.example_id, pytest.approx(70)),
        (made[1].row.example_id, pytest.approx(50)),
    ]
    assert found.left_out == {"equal_texts": [made[3].row.example_id], "no_counterpart": [made[4].row.example_id]}
    capped = pairs(*made, per_group=1)
    assert [pair.rejected.example_id for pair in capped.pairs] == [made[2].row.example_id]
    assert capped.left_out["over_cap"] == [made[1].row.example_id]


def test_bad_answers_weigh_as_much_as_good_ones_unless_policy_says_it() -> None:
    made = [answer(1, "yes"), answer(2, "no", scored=False), answer(3, "never", scored=False)]

    def weights(hyper: Hyperparameters) -> list[float]:
        return [unit.weight for unit in kto.units(made, _Words(), hyper).units]  # type: ignore[arg-type]

    assert weights(Hyperparameters()) == [2.0, 1.0, 1.0]
    assert weights(Hyperparameters(undesirable_weight=3.0)) == [2.0, 6.0, 6.0]
    units = kto.units(made, _Words(), Hyperparameters()).units  # type: ignore[arg-type]
    assert all(unit.other.completion != unit.row.completion and unit.other.prompt == unit.row.prompt for unit in units)


@pytest.mark.parametrize(
    ("objective", "reason"), [("dpo", "no_counterpart"), ("kto", "one_kind"), ("self_distillation", "no_words")]
)
def test_a_batch_with_nothing_that_the_objective_can_use_is_refused_and_says_what_there_is(
    objective: str, reason: str, tiny_base: Path, tmp_path: Path
) -> None:
    plain = [
        training_data.recorded(number, content=Content(prompt=f"{number}?", output=f"is {number}", target=f"is {number}"))
        for number in range(4)
    ]
    batch = training_data.batch([made.member for made in plain])
    spec = replace(spec_of(objective, tiny_base, tmp_path / "run"), batch=batch, values=training_data.values(*plain))
    with pytest.raises(
        RowsMissing, match=rf"^no row is left to learn from: training: 4 {reason} \({objective} needs "
    ) as refused:
        run(replace(spec, start=structs.replace(spec.start, batch_id=batch.batch_id)))
    assert cause_of(refused.value) == "batch", "trying again changes nothing"


def test_a_part_that_has_nothing_is_left_out_and_noted(tiny_base: Path, tmp_path: Path) -> None:
    plain = [
        training_data.recorded(number, content=Content(prompt=f"{number}?", output=f"is {number}", target=f"is {number}"))
        for number in range(4)
    ]
    batch = training_data.batch([made.member for made in plain])
    spec = replace(spec_of("sft_then_dpo", tiny_base, tmp_path / "run"), batch=batch, values=training_data.values(*plain))
    result = run(spec)
    assert list(result.notes) == ["sft_then_dpo: nothing for dpo (training: 4 no_counterpart)"]
    assert (result.rows, result.left_out) == (4, None), "the other part has learnt them"
    assert result.training is not None
    assert result.training.steps == 3


def test_each_example_is_learnt_or_left_out_once_on_its_side(tiny_base: Path, tmp_path: Path) -> None:
    def plain(number: int, **changed: Any) -> training_data.RecordedExample:
        return training_data.recorded(
            number, content=Content(prompt="1 + 1 ?", output=f"is {number}", target=f"is {number}"), **changed
        )

    good = [plain(number, prompt_group=f"g{number}") for number in range(3)]
    bad = [plain(number, prompt_group=f"g{number}", role="negative", quality=-0.8) for number in (3, 4)]
    paired = plain(5, prompt_group="g0", role="negative", quality=-0.8)
    earlier = [*good[2:], bad[1]]
    batch = training_data.batch([made.member for made in (*good[:2], bad[0], paired)])
    for objective, learnt, left in (
        ("dpo", 2, {"training": 2, "rehearsal": 2}),
        ("sft_then_dpo", 4, {"training": 1, "rehearsal": 1}),
    ):
        spec = spec_of(objective, tiny_base, tmp_path / objective, steps=1)
        start = structs.replace(spec.start, batch_id=batch.batch_id, rehearsal=[made.member for made in earlier])
        result = run(replace(spec, start=start, batch=batch, values=training_data.values(*good, *bad, paired)))
        assert result.left_out == {side: {"no_counterpart": count} for side, count in left.items()}
        assert result.rows == learnt
        named = {side: found["no_counterpart"] for side, found in (result.left_out_examples or {}).items()}
        assert named["rehearsal"][-1:] == [bad[1].member.example_id]


def test_a_teacher_of_another_vocabulary_is_refused_in_one_line(tiny_base: Path, tmp_path: Path) -> None:
    other = tiny.build(tmp_path / "other")
    fast = tiny.tokenizer()
    fast.add_tokens(["<tool>"])
    fast.save_pretrained(other)
    spec = replace(spec_of("distillation", tiny_base, tmp_path / "run"), teacher=TeacherSpec(str(other)))
    with pytest.raises(TeacherRefused, match=r"^teacher .*: its tokenizer has other tokens \(\d+\).*write a base") as refused:
        run(spec)
    assert cause_of(refused.value) == "batch"
    (tmp_path / "policy.toml").write_text('[train.buckets."a/b"]\nobjective = "distillation"\n')
    with pytest.raises(PolicyError, match=r"train\.buckets\.a/b\.teacher = None: distillation needs a base that teaches"):
        load(tmp_path / "policy.toml")


def test_what_a_teacher_says_is_learnt_by_one_process(base: Base) -> None:
    computing = computing_of(base, base.model)._replace(ranks=Ranks(0, 2))
    with pytest.raises(TeacherRefused, match=r"^processes = 2: what a teacher says is learnt by one process; write 1$"):
        distillation.prepare(computing, [])


def test_the_tokens_that_are_kept_of_a_teacher_bound_its_divergence_from_below(base: Base) -> None:
    model = moved(lora.attach(base.model, HYPER, 1)[0], 1)
    found = []
    for count in (1, 8, 1000):
        hyper = HYPER.model_copy(update={"teacher_tokens": count, "teacher_share": 1.0})
        computing = computing_of(base, model)._replace(hyper=hyper)
        rows = distillation.units(examples(base), RowTokeniser(base.tokenizer, 200), hyper).units
        with model.disable_adapter():
            rows = distillation.with_prepared(rows, distillation.prepare(computing, rows))
        found.append(accumulate(distillation.LOSS, computing, rows, plan_total(rows, 1)))
    assert 0 < found[0] < found[1] < found[2]
    assert all(math.isfinite(value) for value in found)


def test_policy_and_pins_know_every_objective_and_none_else() -> None:
    for name, objective in OBJECTIVES.items():
        policy = TrainerPolicy(buckets={"a/b": {"objective": name}})
        hyper = policy.hyperparameters("a/b")
        assert Hyperparameters.from_wire(hyper.to_wire()) == hyper
        assert (hyper.dropout == 0) == objective.compares
        assert objective.judged_by
        assert len(objective.losses()) == max(1, len(objective.parts))
    with pytest.raises(ValueError, match=r"there is no such objective; there are sft, dpo"):
        TrainerPolicy.model_validate({"defaults": {"objective": "ppo"}})
    assert [may_avoid(name) for name in ("sft", "kto", "one that somebody added and took out again")] == [False, True, True]


def test_a_pair_is_as_long_as_both_of_its_rows() -> None:
    pair = Pair("e", TokenRow("e", (1, 2), (3,)), TokenRow("e", (1, 2), (3, 4, 5)), 50.0)
    assert (pair.length, pair.padded, pair.size) == (8, 10, 1)
