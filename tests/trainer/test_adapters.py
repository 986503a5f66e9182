"""Adapters are switched in a model of the agent's own process: each answer is made by one of them, and none is lost."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import headrace
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from support import training, training_data

IDS = torch.tensor([[5, 17, 80, 41]])


@pytest.fixture(scope="module")
def others(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters that answer unlike the base and each other."""
    folders = []
    for seed in (1, 2):
        model = training.moved(lora.attach(load_base(str(tiny_base)).model, training_data.HYPER, seed)[0], seed, 1.0)
        folders.append(lora.save(model, tmp_path_factory.mktemp("adapters") / f"{seed}"))
    return folders


def logits(served: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(served.model(IDS).logits)


def alone(base: Path, folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(lora.load(load_base(str(base)).model, folder)(IDS).logits)


def test_two_adapters_answer_side_by_side_and_the_base_beneath_them(tiny_base: Path, others: list[Path]) -> None:
    adapters = headrace.Adapters(load_base(str(tiny_base)).model)
    with adapters.using() as served:
        plain = logits(served)
        assert served.digest is None
    first, second = adapters.serve(others[0]), adapters.load(others[1])
    assert first is not None
    assert second is not None
    assert (adapters.served, adapters.loaded) == (first, [first, second])
    for digest, folder in ((first, others[0]), (second, others[1]), (first, others[0])):
        with adapters.using(digest) as served:
            assert torch.equal(logits(served), alone(tiny_base, folder))
    with adapters.using(None) as served:
        assert torch.equal(logits(served), plain)
    with adapters.using() as served, torch.no_grad():
        mixed = served.model(IDS.repeat(2, 1), adapter_names=[adapters.name(first), adapters.name(second)]).logits
    torch.testing.assert_close(mixed[0], alone(tiny_base, others[0])[0])
    torch.testing.assert_close(mixed[1], alone(tiny_base, others[1])[0])
    assert adapters.serve(others[1]) == second
    assert adapters.loaded == [second], "what nobody serves any more is dropped"
    assert adapters.serve(None) is None
    assert adapters.loaded == []
    with adapters.using() as served:
        assert torch.equal(logits(served), plain)
    with pytest.raises(ValueError, match="it is not loaded"), adapters.using(first):
        pass


def test_whoever_answers_while_adapters_are_switched_answers_with_one_of_them(tiny_base: Path, others: list[Path]) -> None:
    adapters = headrace.Adapters(load_base(str(tiny_base)).model)
    wanted = {adapters.load(folder): alone(tiny_base, folder) for folder in others}
    adapters.serve(others[0], keep=True)
    answers: list[tuple[str | None, torch.Tensor]] = []
    switched = threading.Event()

    def answer() -> None:
        while not switched.is_set():
            with adapters.using() as served:
                answers.append((served.digest, logits(served)))

    threads = [threading.Thread(target=answer) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(6):
            adapters.serve(others[number % 2])
    finally:
        switched.set()
        for thread in threads:
            thread.join(30)
    assert {digest for digest, _ in answers} == set(wanted)
    assert all(torch.equal(found, wanted[digest]) for digest, found in answers)


def test_an_adapter_that_does_not_fit_is_refused_and_what_is_served_stays(
    tiny_base: Path, others: list[Path], tmp_path: Path
) -> None:
    adapters = headrace.Adapters(load_base(str(tiny_base)).model)
    first = adapters.serve(others[0])
    (tmp_path / lora.CONFIG).write_bytes((others[1] / lora.CONFIG).read_bytes())
    tensors = load_file(others[1] / lora.WEIGHTS)
    for change in ({name: value[..., :3].contiguous() for name, value in tensors.items()}, dict(list(tensors.items())[2:])):
        save_file(change, tmp_path / lora.WEIGHTS)
        with pytest.raises(headrace.AdapterRefused, match="adapter sha256:") as refused:
            adapters.serve(tmp_path)
        assert "\n" not in str(refused.value)
        assert adapters.loaded == [first]
        with adapters.using() as served:
            assert torch.equal(logits(served), alone(tiny_base, others[0]))
    with pytest.raises(ValueError, match="it is served"):
        adapters.drop(str(first))


def test_layers_that_were_trained_whole_and_layers_beside_them_follow_each_other_by_the_base(
    tiny_base: Path, others: list[Path], tmp_path: Path
) -> None:
    model, _ = lora.attach(load_base(str(tiny_base)).model, training_data.HYPER.model_copy(update={"method": "full"}), 1)
    for value in (each for each in model.parameters() if each.requires_grad):
        torch.nn.init.normal_(value, std=0.3, generator=torch.Generator().manual_seed(3))
    whole, beside = lora.save(model, tmp_path / "whole"), others[0]
    base = load_base(str(tiny_base)).model
    names = [name for name, _ in base.named_modules()]
    adapters = headrace.Adapters(base)
    for folder, other in ((beside, whole), (whole, beside), (beside, whole)):
        assert adapters.serve(None) is None
        assert [name for name, _ in base.named_modules()] == names, "nothing of peft is left in it"
        first = adapters.serve(folder)
        with pytest.raises(headrace.AdapterRefused, match="adapter sha256:"):
            adapters.serve(other)  # one kind beside the other is what peft can't
        with adapters.using() as served:
            assert served.digest == first
            assert torch.equal(logits(served), alone(tiny_base, folder))


def test_who_is_interrupted_while_it_waits_for_its_turn_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = headrace.Adapters(torch.nn.Linear(1, 1))

    def interrupted(_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(adapters._turns._changed, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt), adapters.using():
            pass
    answered = threading.Event()

    def answer() -> None:
        with adapters.using():
            answered.set()

    threading.Thread(target=answer, daemon=True).start()
    assert answered.wait(10)


def test_who_has_the_turn_and_asks_for_another_is_told_and_does_not_wait_for_itself() -> None:
    adapters, found = headrace.Adapters(object()), []

    def ask() -> None:
        with adapters.using(), pytest.raises(RuntimeError, match=r"this thread is within `using\(\)`") as told:
            adapters.serve(None)
        found.append(told)
        with adapters.using():
            found.append(told)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(10)
    assert len(found) == 2
