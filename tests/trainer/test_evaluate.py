"""Intervals, wins and requirements are what they say, and an adapter is compared with what is served."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace_trainer.evaluation.asked import AskedRows
from headrace_trainer.evaluation.evaluate import INCUMBENT, AskedHeads, evaluate
from headrace_trainer.evaluation.generate import generate, serving
from headrace_trainer.evaluation.grader import Grader
from headrace_trainer.evaluation.groups import group_digest
from headrace_trainer.evaluation.statistics import bootstrap, sign_test
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from headrace_trainer.objectives.sft import row_losses
from headrace_trainer.policy import EvaluationPolicy, GraderPolicy, RequirementPolicy
from support import training_data
from support.training import rows_of

POLICY = EvaluationPolicy(max_new_tokens=24, batch_rows=4)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    hits = 0
    for number in range(200):
        interval = bootstrap(draw.normal(0.3, 1.0, 60).tolist(), 500, number)
        assert interval.low <= interval.value <= interval.high
        hits += interval.low <= 0.3 <= interval.high
    assert 180 <= hits <= 200  # 95 % of 200 is 190
    assert bootstrap([2.0, 2.0], 100, 0) == (2.0, 2.0, 2.0)
    assert bootstrap([1.0, 2.0, 4.0], 300, 9) == bootstrap([1.0, 2.0, 4.0], 300, 9)
    with pytest.raises(ValueError, match="no rows"):
        bootstrap([], 100, 0)


def test_rows_of_one_task_count_together() -> None:
    draw = np.random.default_rng(2)
    groups = [f"g{number // 20}" for number in range(200)]
    passed = alone = 0
    for number in range(150):  # no gain at all, but each of ten tasks has its own luck
        gains = (np.repeat(draw.normal(0, 1.0, 10), 20) + draw.normal(0, 0.3, 200)).tolist()
        passed += bootstrap(gains, 300, number, groups).low > 0
        alone += bootstrap(gains, 300, number).low > 0
    assert passed <= 15 < 30 <= alone
    few = bootstrap([1.0, 2.0, 4.0], 300, 9)
    assert bootstrap([1.0, 2.0, 4.0], 300, 9, ["a", "b", "c"]) == few
    assert bootstrap([1.0, 1.0, 4.0], 300, 9, ["a", "a", "b"]).value == 2.0
    assert bootstrap([-0.1, 0.2, 0.1], 300, 9, ["a"] * 3).low < 0, "one task is no evidence"


def test_the_sign_test() -> None:
    assert sign_test(0, 0) == 1.0
    assert sign_test(5, 0) == 1 / 32
    assert sign_test(0, 5) == 1.0
    assert sign_test(8, 2) == pytest.approx((45 + 10 + 1) / 1024)


def test_broken_weights_lose_in_figures_that_are_numbers(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    model, _ = lora.attach(base.model, training_data.HYPER, 1)
    lora.add(model, trained, INCUMBENT)
    with torch.no_grad():
        next(value for name, value in model.named_parameters() if "lora_B.default" in name).fill_(math.nan)
    report = evaluate(model, base, AskedRows(rows_of(base, range(50, 55))), policy=POLICY)
    gain = report.comparison.loss_gain
    assert gain.low <= gain.value <= gain.high < 0
    assert all(math.isfinite(measure.value) for measure in report.candidate.values())


def test_a_trained_adapter_beats_the_base_and_not_itself(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    tests = rows_of(base, range(50, 80))
    plain = row_losses(base.model, [test.row for test in tests], base, 8192, "fp32")
    model = lora.load(base.model, trained)
    asked = [
        RequirementPolicy(name="good", metric="loss", target=1e9, direction="at_most"),
        RequirementPolicy(name="gains", metric="loss_gain", target=50.0),
        RequirementPolicy(name="works", metric="success", target=0.5),
    ]
    report = evaluate(model, base, AskedRows(tests), policy=POLICY, requirements=asked)
    assert report.incumbent["loss"].value == pytest.approx(sum(plain) / 30, rel=1e-6)
    assert report.comparison.loss_gain.low > 0
    assert report.comparison.n == report.candidate["loss"].n == 30
    gain = report.incumbent["loss"].value - report.candidate["loss"].value
    assert report.comparison.loss_gain.value == pytest.approx(gain, rel=1e-6)
    assert report.candidate["perplexity"].value == pytest.approx(math.exp(report.candidate["loss"].value))
    assert [(met.satisfied, met.current) for met in report.requirements] == [
        (True, report.candidate["loss"].value),
        (False, report.comparison.loss_gain.value),
        (False, None),
    ]
    lora.add(model, trained, INCUMBENT)
    again = evaluate(model, base, AskedRows(tests), policy=POLICY)
    assert again.comparison.loss_gain.value == 0
    assert again.incumbent == again.candidate == report.candidate


def test_generation_is_asked_only_for_what_may_pass(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    tests = rows_of(base, range(50, 80))
    model = lora.load(base.model, trained)
    grader = GraderPolicy(name="support.graders:always", options={"grade": 70.0})
    policy = POLICY.model_copy(update={"generate": "passable"})
    with Grader(grader) as judge:
        passed = evaluate(model, base, AskedRows(tests), policy=policy, grader=judge)
        lora.add(model, trained, INCUMBENT)
        same = evaluate(model, base, AskedRows(tests), policy=policy, grader=judge)
    assert (passed.comparison.wins, passed.comparison.losses, passed.comparison.ties) == (0, 0, 30)
    assert passed.comparison.p_value == 1.0
    assert (passed.candidate["success"].value, passed.candidate["score"].value) == (1.0, 70.0)
    assert same.comparison.wins is None  # no gain in loss: nothing was generated
    assert "success" not in same.candidate
    assert (passed.measure, same.measure) == ("loss", "loss")  # grades that are there only after a gain are no evidence


def test_every_head_is_compared_with_what_is_served_group_by_group_and_that_with_what_was_served_before(
    tiny_base: Path, trained: Path
) -> None:
    base = load_base(str(tiny_base))
    tests = rows_of(base, range(50, 62))
    model = lora.load(base.model, trained)
    lora.add(model, trained, "head_0")
    grader = GraderPolicy(name="support.graders:always", options={"grade": 70.0})
    with Grader(grader) as judge:
        heads = AskedHeads("tiny", earlier={"v1": "head_0"}, watched="head_0")
        report = evaluate(model, base, AskedRows(tests), policy=POLICY, grader=judge, heads=heads)
    assert report.measure == "success"
    assert [(head.version_id, head.invalid) for head in report.heads] == [("v1", None), ("", None)]
    [older, newest] = report.heads
    assert older.groups == newest.groups  # the same adapter
    assert len(newest.groups) == len({test.example.prompt_group for test in tests}) == 12
    assert {(group.rows, group.samples, group.success_gain, group.selected) for group in newest.groups} == {(1, 1, 0.0, True)}
    gains = [group.loss_gain for group in newest.groups if group.loss_gain is not None]
    assert sum(gains) / len(gains) == pytest.approx(report.comparison.loss_gain.value)
    assert report.watched is not None
    assert [group.loss_gain for group in report.watched] == pytest.approx([-gain for gain in gains])  # the base before it


def test_what_is_served_under_another_name_is_invalid(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    model = lora.load(base.model, trained)
    lora.add(model, trained, INCUMBENT)
    [head] = evaluate(model, base, AskedRows(rows_of(base, range(50, 56))), policy=POLICY).heads
    assert (head.invalid or "").startswith("identical")


def test_without_test_rows_the_heads_are_there_and_have_no_groups(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    report = evaluate(
        lora.load(base.model, trained), base, AskedRows([]), policy=POLICY, heads=AskedHeads(earlier={"v1": "head_0"})
    )
    assert [(head.version_id, head.groups) for head in report.heads] == [("v1", []), ("", [])]


def test_batched_answers_are_those_of_one_at_a_time(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    rows = [test.row for test in rows_of(base, range(95, 109))]
    random.Random(3).shuffle(rows)
    model = lora.load(base.model, trained)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with serving(model, "default"):
        batched = generate(model, rows, base, POLICY, "fp32")
    single = [generate(model, [row], base, POLICY.model_copy(update={"max_new_tokens": 24}), "fp32")[0] for row in rows]
    assert [text[:12] for text in batched] == [text[:12] for text in single]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)


def test_without_tests_nothing_is_measured(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    report = evaluate(
        lora.load(base.model, trained),
        base,
        AskedRows([]),
        policy=POLICY,
        requirements=[RequirementPolicy(name="a", metric="loss", target=1)],
    )
    assert (report.candidate, report.incumbent, report.comparison.n) == ({}, {}, 0)
    assert not report.requirements[0].satisfied


def test_answers_go_by_policy_and_not_by_the_settings_that_came_with_the_base(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    rows = [test.row for test in rows_of(base, range(95, 99))]
    model = lora.load(base.model, trained)
    plain = generate(model, rows, base, POLICY, "fp32")
    own = base.model.generation_config
    own.repetition_penalty, own.do_sample, own.temperature, own.max_length, own.no_repeat_ngram_size = 1.9, True, 1.5, 3, 1
    own.bad_words_ids, own.forced_eos_token_id = [[token] for token in range(20, 60)], 5
    assert generate(model, rows, base, POLICY, "fp32") == plain
    assert base.model.generation_config is own
    assert generate(model, rows, base, POLICY.model_copy(update={"repetition_penalty": 1.9}), "fp32") != plain


def test_both_sides_have_the_room_that_policy_says_whatever_the_references_are(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    rows = [test.row for test in rows_of(base, range(95, 99))]
    short = [row._replace(completion=row.completion[:1]) for row in rows]
    model = lora.load(base.model, trained)
    roomy = POLICY.model_copy(update={"max_new_tokens": 40})
    assert generate(model, short, base, roomy, "fp32") == generate(model, rows, base, roomy, "fp32")
    long = rows[0]._replace(prompt=rows[0].prompt * 100)
    limit = base.positions
    assert limit is not None
    fitted = long._replace(prompt=long.prompt[: limit - 2])
    together = generate(model, [*rows, fitted], base, roomy.model_copy(update={"batch_rows": 4}), "fp32")
    assert together[:4] == generate(model, rows, base, roomy, "fp32"), "one long prompt takes no room from the others"


def test_sampled_answers_follow_from_the_seed(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    rows = [test.row for test in rows_of(base, range(95, 99))]
    model = lora.load(base.model, trained)
    sampled = POLICY.model_copy(update={"temperature": 1.5})
    first = generate(model, rows, base, sampled, "fp32", seed=1)
    assert generate(model, rows, base, sampled, "fp32", seed=1) == first
    assert generate(model, rows, base, sampled, "fp32", seed=2) != first


def test_where_memory_runs_out_fewer_answers_are_made_together(
    tiny_base: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(str(tiny_base))
    rows = [test.row for test in rows_of(base, range(95, 102))]
    model = lora.load(base.model, trained)
    plain = generate(model, rows, base, POLICY.model_copy(update={"batch_rows": 2}), "fp32")
    whole, sizes = base.model.generate, []

    def narrow(**named: torch.Tensor) -> object:
        sizes.append(len(named["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(**named)

    monkeypatch.setattr(base.model, "generate", narrow)
    assert generate(model, rows, base, POLICY.model_copy(update={"batch_rows": 8}), "fp32") == plain
    assert sizes == [7, 4, 2, 2, 2, 1]


def test_weights_in_bf16_are_merged_for_answers_and_given_back_exactly(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    model = lora.load(base.model.to(torch.bfloat16), trained)
    rows = [test.row for test in rows_of(base, range(95, 109))]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tokens = torch.tensor([list(rows[0].prompt)])
    with torch.no_grad():
        model.set_adapter("default")
        apart = model(input_ids=tokens).logits.float()
        with serving(model, "default"):
            assert all(layer.merged for layer in model.modules() if hasattr(layer, "lora_A"))
            merged = model(input_ids=tokens).logits.float()
        again = model(input_ids=tokens).logits.float()
    plain = apart.abs().max()
    assert (merged - apart).abs().max() <= 0.03 * plain, "8 bits of a number"
    assert torch.equal(again, apart)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_rows_that_earlier_heads_cannot_know_are_evidence_for_them_alone(tiny_base: Path, trained: Path) -> None:
    base = load_base(str(tiny_base))
    model = lora.load(base.model, trained)
    lora.add(model, trained, "head_0")
    tests, window = rows_of(base, range(50, 54)), rows_of(base, range(52, 60))
    options = {"policy": POLICY, "heads": AskedHeads("tiny", earlier={"v1": "head_0"}), "window": window}
    older, own = evaluate(model, base, AskedRows(tests), **options).heads  # type: ignore[arg-type]
    sides = {group.group: group.side for group in older.groups}
    later = {group_digest(row.example) for row in window[2:]}
    assert {group for group, side in sides.items() if side == "train"} == later, "tested groups stay on their side"
    assert len(sides) == len(older.groups) == 10
    assert {group.side for group in own.groups} == {"test"}, "the version has learnt them"
    gains = [group.loss_gain for group in older.groups if group.side == "train" and group.loss_gain is not None]
    rows = [row.row for row in window[2:]]
    with serving(model, None):
        served = row_losses(model, rows, base, 8192, "fp32")
    with serving(model, "head_0", merged=False):
        ours = row_losses(model, rows, base, 8192, "fp32")
    assert sorted(gains) == pytest.approx(sorted(theirs - our for our, theirs in zip(ours, served, strict=True)), rel=1e-5)
    with Grader(GraderPolicy(name="support.graders:same")) as judge:
        graded = evaluate(model, base, AskedRows(tests), grader=judge, **options)  # type: ignore[arg-type]
    assert {group.side for head in graded.heads for group in head.groups} == {"test"}
    [alone] = evaluate(model, base, AskedRows(tests), policy=POLICY, window=window).heads
    assert {group.side for group in alone.groups} == {"test"}
