"""Every base is looked at before a batch needs it: what it is, what it takes, or in one line why nothing can be trained."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from headrace_cli.main import invoke
from headrace_streams.settings import Settings
from headrace_trainer.data.rows import RowUnfit
from headrace_trainer.job.check import CheckSpec, check
from headrace_trainer.job.process import Hardware
from headrace_trainer.policy import BasePolicy, Hyperparameters, TrainerPolicy
from headrace_trainer.stage.bases import BaseRefused, check_at_start, look_at
from headrace_trainer.stage.context import TrainerContext
from support import training_data

HYPER = training_data.HYPER


def test_the_whole_check_trains_a_step_and_asks_once(tiny_base: Path) -> None:
    found = check(CheckSpec(tiny_base, HYPER, "cpu", "fp32", threads=1))
    assert (found.architecture, found.template, found.format, found.fits) == ("qwen2", True, "float32", True)
    assert found.layers == "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    assert 0 < found.trained < found.parameters
    assert found.loss is not None
    assert 0 < found.loss < 20
    assert found.answer is not None
    assert found.stops == ["2 <|im_end|>"]
    assert "GB at most" in found.memory


def test_the_cheap_check_loads_no_weights(tiny_base: Path, tmp_path: Path) -> None:
    for path in tiny_base.iterdir():
        (tmp_path / path.name).write_bytes(b"" if path.suffix == ".safetensors" else path.read_bytes())
    found = check(CheckSpec(tmp_path, HYPER, "cpu", "fp32", threads=1, whole=False))
    assert (found.architecture, found.stops, found.loss) == ("qwen2", ["2 <|im_end|>"], None)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('nothing pleases me') }}")
    with pytest.raises(RowUnfit, match="nothing pleases me") as refused:
        check(CheckSpec(tmp_path, HYPER, "cpu", "fp32", threads=1, whole=False))
    assert "\n" not in str(refused.value)


def context(tmp_path: Path, base: BasePolicy, hyper: Hyperparameters = HYPER, **named: object) -> TrainerContext:
    settings = Settings(data_dir=tmp_path / "data", store=f"file://{tmp_path}/store", deployment="checks")
    policy = TrainerPolicy(bases={"tiny": base}, defaults=hyper, threads=1, memory_gb=4.0, **named)
    return TrainerContext(settings, policy, Hardware("cpu", "fp32"))


def test_what_policy_has_wrong_stops_a_trainer_and_what_may_pass_does_not(
    tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    here = BasePolicy(weights=str(tiny_base))
    asyncio.run(check_at_start(context(tmp_path, here), told.append))
    assert any(line.startswith("for base tiny: ") for line in told)
    asyncio.run(check_at_start(context(tmp_path, BasePolicy(weights=str(tmp_path / "later"))), told.append))
    assert "base tiny: base weights" in caplog.text
    assert "held until it can be had" in caplog.text
    wrong = HYPER.model_copy(update={"target_modules": ("q_prj",)})
    for refused, said in (
        (context(tmp_path, here, wrong), "AdapterInvalid: target_modules 'q_prj'"),
        (
            context(tmp_path, here, buckets={"sums/tiny": {"modules_to_save": ["heads"]}}),
            "AdapterInvalid: modules_to_save 'heads'",
        ),
        (
            context(tmp_path, BasePolicy(weights=str(tiny_base), identity=f"sha256:{'0' * 64}")),
            r"train\.bases\.tiny\.identity says",
        ),
    ):
        with pytest.raises(BaseRefused, match=said) as error:
            asyncio.run(check_at_start(refused, told.append))
        assert "\n" not in str(error.value)


def test_the_command_says_what_it_found_and_needs_no_kafka(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        f'[train]\nthreads = 1\nmemory_gb = 4\n[train.bases.tiny]\nweights = "{tiny_base}"\n'
        '[train.bases.away]\nweights = "./none"\n'
    )
    monkeypatch.setenv("HEADRACE_POLICY", str(policy))
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path / "data"))
    assert invoke(["trainer", "--check", "--json", "--device", "cpu"]) == 1
    tiny, away = map(json.loads, capsys.readouterr().out.splitlines())
    assert (tiny["error"], tiny["report"]["architecture"]) == (None, "qwen2")
    assert tiny["identity"]["digest"].startswith("sha256:")
    assert "there is no such folder" in away["error"]


def test_all_hyperparameters_of_a_base_are_looked_at(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def child(_function: object, spec: CheckSpec) -> None:
        asked.append(spec.hyper.r)

    monkeypatch.setattr("headrace_trainer.stage.bases.in_child", child)
    several = {"sql/tiny": {"r": 2}, "docs/tiny": {"r": 6}, "sql/other": {"r": 99}, "sums/tiny": {}}
    asyncio.run(look_at(context(tmp_path, BasePolicy(weights=str(tiny_base)), buckets=several), lambda _: None, whole=False))
    assert asked == [HYPER.r, 2, 6]
