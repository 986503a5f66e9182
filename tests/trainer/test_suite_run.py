"""A model is asked a suite one task at a time: what came, how long it took, and the command's table, JSON and exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec import json
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from headrace_cli.main import invoke
from headrace_trainer.evaluation.suite_run import ask, embedder
from headrace_trainer.model import lora
from headrace_trainer.model.base import BaseMissing, load_base
from headrace_trainer.policy import EvaluationPolicy
from headrace_trainer.suites import read

SUITE = """
name = "sums"
role = "coder"
artifact_type = "sums"

[[tasks]]
name = "one"
level = "easy"
messages = [{ role = "user", content = "1 + 1 ?" }]
reference = "the sum is 2"
check = { kind = "text", matches = ["^the"] }

[[tasks]]
name = "two"
level = "hard"
messages = [{ role = "user", content = "2 + 1 ?" }]
check = { kind = "text", equals = ["never"] }
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "sums.toml"
    path.write_text(SUITE)
    return path


def test_each_answer_is_timed_checked_and_compared(tiny_base: Path, trained: Path, suite: Path) -> None:
    base = load_base(str(tiny_base))
    told: list[tuple[int, int]] = []
    policy = EvaluationPolicy(max_new_tokens=6)
    found = ask(
        lora.load(base.model, trained), base, read(suite), policy=policy, adapter="default",
        embed=lambda texts: torch.tensor([[1.0, 0.0], [0.6, 0.8]]), on_task=lambda *at: told.append(at),
    )  # fmt: skip
    one, two = found.answers
    assert ((one.task, one.passed, two.passed), told) == (("one", True, False), [(1, 2), (2, 2)])
    assert (one.role, one.level, one.artifact_type, one.reference) == ("coder", "easy", "sums", "the sum is 2")
    assert one.embedding == pytest.approx(0.6)
    assert two.embedding is None
    for each in found.answers:
        assert each.seconds is not None
        assert each.first_token_seconds is not None
        assert 0 < each.first_token_seconds <= each.seconds
        assert each.tokens is not None
        assert 0 < each.tokens <= 6
        assert (each.peak_bytes or 0) > 1 << 20


def test_the_command_prints_a_table_per_slice_and_says_no_below_a_share(
    tiny_base: Path, trained: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["evaluate", "--suite", str(suite), "--base", str(tiny_base), "--adapter", str(trained), "--max-new-tokens", "4"]
    assert invoke([*asked, "--min-success", "0.9"]) == 1
    out, err = capsys.readouterr()
    head, every, *rest = out.splitlines()
    assert head.split()[:3] == ["slice", "n", "success"]
    assert every.split()[:3] == ["all", "2", "0.5"]
    assert [line.split()[:2] for line in rest] == [
        ["role", "coder"], ["artifact_type", "sums"], ["level", "easy"], ["level", "hard"],
    ]  # fmt: skip
    assert "task 2/2" in err
    assert err.splitlines()[-1].endswith("success 0.5 is below 0.9")
    assert invoke([*asked, "--json"]) == 0
    told = json.decode(capsys.readouterr().out)
    assert (told["suite"], told["slices"][0]["metrics"]["success"], len(told["answers"])) == ("sums", 0.5, 2)
    assert told["metrics"]["latency_p95"] == {"needs": "seconds", "direction": "lower", "unit": "s"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "nobody", "--base", "x"], "suite 'nobody': there is no such file, and the package brings coder"),
        (["--suite", "coder"], "which model? give --release, --adapter or --base"),
        (["--suite", "coder", "v1"], "--suite goes with --release, --adapter or --base"),
        (["--base", "x"], "--base goes with --suite"),
        ([], "which VERSION? or give --suite"),
    ],
)
def test_what_cannot_be_asked_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["evaluate", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_suite_that_is_wrong_is_one_line_before_anything_is_loaded(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite.write_text(SUITE.replace('level = "hard"', 'level = "odd"'))
    assert invoke(["evaluate", "--suite", str(suite), "--base", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith(f"headrace: suite file {suite} line 15: task 'two': level = 'odd': ")


def test_an_embedding_is_the_mean_of_the_last_states(tiny_base: Path, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_base)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    first, second = embedder(str(tmp_path))(["the sum is 2", "the sum is 3"])
    with torch.no_grad():
        states = model(torch.tensor([tokenizer("the sum is 2")["input_ids"]])).last_hidden_state[0]
    mean = states.sum(dim=0) / len(states)
    assert torch.allclose(first, mean / mean.norm(), atol=1e-5)
    assert float(first @ second) < 1
    with pytest.raises(BaseMissing, match=r"embedding model .*nowhere"):
        embedder(str(tmp_path / "nowhere"))
