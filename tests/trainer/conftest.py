"""Trainer tests share one tiny base and one adapter of it, and run on one thread."""

from pathlib import Path

import pytest
import torch

from headrace_trainer.learning.loop import train
from headrace_trainer.model import lora
from headrace_trainer.model.base import load_base
from support import tiny, training_data
from support.training import rows_of


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def plain_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("plain"), template=None)


@pytest.fixture(scope="session")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adapter that has learnt the sums 0 to 39."""
    base = load_base(str(tiny_base))
    model, _ = lora.attach(base.model, training_data.HYPER, 3)
    rows = [test.row for test in rows_of(base, range(40))]
    train(model, base, rows, [], training_data.HYPER, seed=3, precision="fp32")
    return lora.save(model, tmp_path_factory.mktemp("trained") / "adapter")
