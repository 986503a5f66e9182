"""What fits one GPU of 80 GB, by the estimator alone: no weights, no GPU. Bases of public sizes, built from their configurations.

    python tests/bench/fits.py --results fits.jsonl

A cell is what a run takes with one row at a time, in 10^9 bytes; in bold what stays under 72 (0.9 of the GPU, as the
policy's default is). Goes on from its results file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))

from transformers import Qwen2Config

from headrace_trainer.model.memory import measure
from headrace_trainer.policy import Hyperparameters
from support import jsonl

AVAILABLE = 72e9
# Of Qwen2.5: hidden, intermediate, layers, heads, heads of keys, vocabulary, output layer tied to the embedding.
SIZES = {
    "0.5B": (896, 4864, 24, 14, 2, 151_936, True),
    "1.5B": (1536, 8960, 28, 12, 2, 151_936, True),
    "3B": (2048, 11_008, 36, 16, 2, 151_936, True),
    "7B": (3584, 18_944, 28, 28, 4, 152_064, False),
    "14B": (5120, 13_824, 48, 40, 8, 152_064, False),
    "32B": (5120, 27_648, 64, 40, 8, 152_064, False),
}
WAYS: dict[str, tuple[dict[str, Any], str | None]] = {
    "LoRA r 8": ({}, None),
    "LoRA r 8, `lm_head` whole": ({"modules_to_save": ("lm_head",)}, None),
    "LoRA r 8 on NF4": ({}, "nf4"),
}
COLUMNS = [(2048, False), (2048, True), (8192, False), (8192, True)]


def config_of(size: str) -> Qwen2Config:
    hidden, intermediate, layers, heads, key_heads, vocabulary, tied = SIZES[size]
    return Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_heads, max_position_embeddings=32_768, tie_word_embeddings=tied,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="a file of results that a later run goes on from")
    given = parser.parse_args()
    known: dict[str, int] = dict(jsonl.read(given.results))
    print("| base | how | 2,048 tokens | activations twice | 8,192 tokens | activations twice |")
    print("|---|---|---:|---:|---:|---:|")
    for size in SIZES:
        for way, (changed, quantisation) in WAYS.items():
            cells = []
            for width, twice in COLUMNS:
                key = f"{size} {way} {width} {twice}"
                if key not in known:
                    hyper = Hyperparameters(r=8, **changed)
                    found = measure(config_of(size), hyper, width, twice, "cuda", "bf16", quantisation=quantisation)
                    known[key] = found.peak(width, "cuda")
                    jsonl.add(given.results, [key, known[key]])
                text = f"{known[key] / 1e9:.1f}"
                cells.append(f"**{text}**" if known[key] <= AVAILABLE else text)
            print(f"| {size} | {way} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
