"""The base model: a function of its recipe, an ordinary folder, the same text in as the trainer sees."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from headrace_demo.agent.serve import Model
from headrace_demo.base_model import build as base
from headrace_demo.base_model import corpus, tokens
from headrace_demo.base_model.muon import orthogonalised
from headrace_demo.base_model.recipe import Recipe
from headrace_trainer.model.base import load_base

QUICK = Recipe(seed=1, steps=30, batch=16, hidden=64)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return base.build(tmp_path_factory.mktemp("base"), QUICK)


def test_the_loss_falls(tmp_path: Path) -> None:
    losses: list[float] = []
    base.build(tmp_path, QUICK, lambda step, steps, loss: losses.append(loss))
    assert losses[-1] < losses[0] / 2


def test_the_same_recipe_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    again = base.build(tmp_path, QUICK)
    for name in ("model.safetensors", "tokenizer.json"):
        assert (again / name).read_bytes() == (built / name).read_bytes()


def test_a_base_that_is_there_is_not_built_again(built: Path) -> None:
    def never(step: int, steps: int, loss: float) -> None:
        raise AssertionError("built again")

    assert base.build(built.parent, QUICK, never) == built


def test_what_was_loaded_splits_text_as_what_was_trained(built: Path) -> None:
    """A model type that transformers has a tokenizer class of its own for would split values into pieces."""
    trained = tokens.train_tokenizer(text for pair in base.corpus_of(QUICK) for text in pair)
    loaded = load_base(str(built)).tokenizer
    for text in itertools.chain.from_iterable(corpus.pairs(7, 50)):
        assert loaded.tokenize(text) == trained.tokenize(text)
        assert loaded.decode(loaded(text)["input_ids"]) == text


def test_the_chat_template_is_question_and_answer(built: Path) -> None:
    tokenizer = load_base(str(built)).tokenizer
    asked = [{"role": "user", "content": "How many?"}]
    assert tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False) == (
        "<|im_start|>How many?<|im_end|><|im_start|>"
    )


def test_answers_do_not_depend_on_the_company(built: Path) -> None:
    model = Model(built)
    prompts = [question for question, _ in corpus.pairs(9, 12)]
    together = model.answers(prompts)
    assert together == [model.answers([prompt])[0] for prompt in prompts]


def test_muon_makes_matrices_orthogonal() -> None:
    torch.manual_seed(0)
    for shape in ((3, 64, 128), (2, 128, 32)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape), steps=5))
        assert values.min() > 0.3
        assert values.max() < 1.4
