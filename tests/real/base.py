"""A small base model that has learnt to read and write texts of one artifact type, built on the spot for the real corpora.

Plain next-token training on prompt and output; what is learnt there is all that the adapters of the other types start from.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from headrace_trainer.model.precision import autocast, precision_for

WINDOW = 256  # tokens
END = "<|end|>"


def build(
    texts: Sequence[str],
    folder: Path,
    *,
    steps: int = 300,
    seed: int = 0,
    hidden: int = 160,
    layers: int = 3,
    vocabulary: int = 4096,
) -> float:
    """Writes model and tokenizer into `folder` and returns the mean loss (nats per token) of the last 20 steps."""
    tokenizer, precision = _tokenizer(texts, vocabulary), precision_for("auto", "cpu")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    losses: list[float] = []
    for batch in itertools.islice(_windows(tokenizer, texts, seed), steps):
        with autocast("cpu", precision):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.save_pretrained(folder)
    return sum(losses[-20:]) / len(losses[-20:])


def _tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<|pad|>", END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token="<|pad|>")


def _windows(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], seed: int, rows: int = 8) -> Iterator[torch.Tensor]:
    """Batches of shape (rows, WINDOW) out of one stream of all texts in random order, again and again."""
    shuffled = random.Random(seed)
    stream: list[int] = []
    while True:
        order = list(texts)
        shuffled.shuffle(order)
        for text in order:
            stream += [*tokenizer(text).input_ids, tokenizer.eos_token_id]
            while len(stream) >= rows * WINDOW:
                yield torch.tensor(stream[: rows * WINDOW]).view(rows, WINDOW)
                del stream[: rows * WINDOW]
