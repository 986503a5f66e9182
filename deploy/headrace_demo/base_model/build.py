"""Builds the demo's base model from nothing: tokenizer, a two-layer Llama, and a short pretraining on the corpus.

The result is an ordinary transformers folder. It is a function of the recipe (and of the kind of CPU): a fixed number of
steps, never a time limit. Knows the corpus, and of the shop only which SQL must not occur in it.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from headrace_demo.base_model import corpus, tokens
from headrace_demo.base_model.muon import Muon
from headrace_demo.base_model.recipe import Recipe
from headrace_demo.shop import database as shop
from headrace_demo.shop import questions

POOL = 16  # batches that are sorted by length together


Progress = Callable[[int, int, float], None]  # (step, steps, loss)


def forbidden_sql(seed: int) -> frozenset[str]:
    """The SQL of every combination of the seed's shop, trained on or held out."""
    values = questions.slot_values(shop.shop_of(seed))
    return frozenset(questions.ask(family, key, filled, 0).sql for family, key, filled in questions.combinations(values))


def corpus_of(recipe: Recipe) -> list[tuple[str, str]]:
    """The pairs (question, SQL) that the recipe's base is trained on, in order."""
    return list(corpus.pairs(recipe.seed, recipe.pairs, forbidden_sql(recipe.seed)))


def build(folder: Path, recipe: Recipe, progress: Progress = lambda step, steps, loss: None) -> Path:
    """The folder of the recipe's base in `folder`; built when it is not there yet, whole or not at all."""
    target = recipe.folder(folder)
    if target.exists():
        return target
    unfinished = target.with_name(target.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    pairs = corpus_of(recipe)
    tokenizer = tokens.train_tokenizer(text for pair in pairs for text in pair)
    model = pretrain(new_model(tokenizer, recipe), tokenizer, pairs, recipe, progress)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.replace(target)
    return target


def new_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Any:
    """A fresh model of 0.66 M parameters (with the default recipe), initialised by the seed."""
    torch.manual_seed(recipe.seed)
    make: Any = LlamaForCausalLM  # transformers' classes are typed in part only
    model = make(
        LlamaConfig(
            vocab_size=tokens.VOCABULARY,
            hidden_size=recipe.hidden,
            intermediate_size=3 * recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def pretrain(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[tuple[str, str]],
    recipe: Recipe,
    progress: Progress,
) -> Any:
    """One pass over `pairs`: Muon on the layers' matrices, AdamW on the rest; loss on SQL tokens only."""
    matrices = [value for name, value in model.named_parameters() if value.ndim == 2 and "embed" not in name]
    others = [value for name, value in model.named_parameters() if value.ndim != 2 or "embed" in name]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=recipe.embedding_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    model.train()
    for step, (inputs, rows, columns, targets) in enumerate(_batches(tokenizer, pairs, recipe)):
        hidden = model.model(input_ids=inputs).last_hidden_state
        loss = cross_entropy(model.lm_head(hidden[rows, columns]), targets)
        torch.autograd.backward(loss)
        factor = _schedule(step, recipe.steps)
        muon.step(recipe.matrix_rate * factor)
        adam.param_groups[0]["lr"] = recipe.embedding_rate * factor
        adam.step()
        adam.zero_grad()
        if step % 10 == 0 or step + 1 == recipe.steps:
            progress(step + 1, recipe.steps, loss.item())
    return model.eval()


def _schedule(step: int, steps: int) -> float:
    """Up over the first 3 %, flat, down to a twentieth over the last 60 %."""
    done = (step + 1) / steps
    return min(1.0, done / 0.03, 0.05 + 0.95 * (1 - done) / 0.6)


def _batches(
    tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]], recipe: Recipe
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """(token ids (batch, length) padded on the right, and of each SQL token: its row, the column before it, its id)."""
    draw = random.Random(f"order:{recipe.seed}")
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    prompts = tokenizer([question for question, _ in pairs], add_special_tokens=False)["input_ids"]
    answers = tokenizer([sql for _, sql in pairs], add_special_tokens=False)["input_ids"]
    encoded = [([start, *prompt, end, start], [*answer, end]) for prompt, answer in zip(prompts, answers, strict=True)]
    size = recipe.batch
    for first in range(0, len(encoded), POOL * size):
        pool = sorted(encoded[first : first + POOL * size], key=lambda row: len(row[0]) + len(row[1]))
        places = list(range(0, len(pool), size))
        draw.shuffle(places)
        for place in places:
            batch = pool[place : place + size]
            width = max(len(prompt) + len(answer) for prompt, answer in batch)
            inputs = torch.full((len(batch), width), pad)
            rows: list[int] = []
            columns: list[int] = []
            targets: list[int] = []
            for row, (prompt, answer) in enumerate(batch):
                inputs[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
                rows += [row] * len(answer)
                columns += range(len(prompt) - 1, len(prompt) + len(answer) - 1)
                targets += answer
            yield inputs, torch.tensor(rows), torch.tensor(columns), torch.tensor(targets)


def main() -> None:
    """`python -m headrace_demo.base_model.build SEED FOLDER THREADS`: builds it; prints lines `step steps loss`."""
    seed, folder, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    logging.disable_progress_bar()
    build(Path(folder), Recipe(seed=int(seed)), lambda step, steps, loss: print(step, steps, f"{loss:.4f}", flush=True))


if __name__ == "__main__":
    main()
