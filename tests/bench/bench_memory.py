"""What the estimator says a training run takes, beside what one took: a process of its own for each configuration, its highest
resident memory (VmHWM) against `StepMemory.peak`; one line of a table a configuration. Goes on from its results file.

    python tests/bench/bench_memory.py --results memory.jsonl
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))

from bench import common

LLAMA = {
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "hidden_size": 384,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
WIDE = {**LLAMA, "vocab_size": 64_000}
HEADS = {**LLAMA, "head_dim": 64}
GPT = {"n_embd": 384, "n_layer": 6, "n_head": 6, "n_positions": 1024}
# architecture, its size, tokens a micro-batch, tokens a row, precision, activations made twice
CASES: list[tuple[str, dict[str, Any], int, int, str, bool]] = [
    ("llama", {"num_hidden_layers": 2}, 512, 128, "fp32", False),
    ("llama", LLAMA, 1024, 512, "fp32", False),
    ("llama", LLAMA, 2048, 512, "fp32", False),
    ("llama", LLAMA, 4096, 512, "fp32", False),
    ("llama", LLAMA, 2048, 512, "fp32", True),
    ("llama", LLAMA, 8192, 512, "fp32", True),
    ("llama", LLAMA, 2048, 512, "bf16", False),
    ("llama", LLAMA, 2048, 512, "bf16", True),
    ("llama", WIDE, 1024, 512, "fp32", False),
    ("llama", WIDE, 2048, 512, "fp32", True),
    ("qwen2", LLAMA, 2048, 256, "fp32", False),
    ("qwen2", {**LLAMA, "num_hidden_layers": 12}, 2048, 256, "fp32", False),
    ("qwen2", {**LLAMA, "num_hidden_layers": 12}, 2048, 256, "fp32", True),
    ("qwen3", HEADS, 2048, 512, "fp32", False),
    ("mistral", LLAMA, 2048, 512, "fp32", False),
    ("gemma2", HEADS, 1024, 512, "fp32", False),
    ("phi", {**LLAMA, "num_key_value_heads": 6}, 2048, 512, "fp32", False),
    ("phi3", LLAMA, 2048, 512, "fp32", False),
    ("gpt2", GPT, 2048, 512, "fp32", False),
    ("gpt2", GPT, 2048, 512, "fp32", True),
    ("gpt_neox", {**LLAMA, "num_attention_heads": 6}, 2048, 512, "fp32", False),
    ("falcon", {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6}, 2048, 512, "fp32", False),
]


def child(folder: str, tokens: int, width: int, precision: str, twice: bool) -> None:
    """Trains two steps and prints the most that this process ever held."""
    import torch

    from headrace_trainer.data.rows import TokenRow
    from headrace_trainer.learning.loop import train
    from headrace_trainer.model import lora
    from headrace_trainer.model.base import load_base
    from headrace_trainer.policy import Hyperparameters

    torch.set_num_threads(1)
    rows = [TokenRow(str(number), (5,), tuple(range(5, 5 + 64)) * (width // 64)) for number in range(tokens // width)]
    hyper = Hyperparameters(
        steps=2, rows_per_step=len(rows), batch_tokens=10**9, max_sequence_tokens=width + 1,
        activation_checkpointing="on" if twice else "off",
    )  # fmt: skip
    base = load_base(folder)
    model, _ = lora.attach(base.model, hyper, 1)
    train(model, base, rows, [], hyper, seed=1, precision=precision)  # type: ignore[arg-type]
    print(common.memory("VmHWM"))


def main() -> None:
    from transformers import AutoConfig

    from headrace_trainer.model.memory import measure
    from headrace_trainer.policy import Hyperparameters
    from support import architectures

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every fourth configuration")
    parser.add_argument("--results", type=Path, help="a file of results that a later run goes on from")
    given = parser.parse_args()
    known = {}
    if given.results and given.results.exists():
        known = {json.dumps(row["case"]): row for row in map(json.loads, given.results.read_text().splitlines())}
    print(
        "| architecture | layers | hidden | tokens | a row | format | activations twice | told MB | took MB | told/took | CPU s |"
    )
    print("|---|---:|---:|---:|---:|---|---|---:|---:|---:|---:|")
    ratios = []
    for case in CASES[::4] if given.quick else CASES:
        name, size, tokens, width, precision, twice = case
        row = known.get(json.dumps(case))
        if row is None:
            with tempfile.TemporaryDirectory() as folder:
                architectures.build(name, Path(folder), **size)
                config = AutoConfig.from_pretrained(folder)
                began = time.process_time()
                told = measure(config, Hyperparameters(), width, twice, precision=precision)  # type: ignore[arg-type]
                seconds = time.process_time() - began
                arguments = json.dumps([folder, tokens, width, precision, twice])
                done = subprocess.run(
                    [sys.executable, __file__, "--child", arguments], capture_output=True, text=True, check=True
                )
                row = {
                    "case": case, "layers": config.num_hidden_layers, "hidden": config.hidden_size, "told": told.peak(tokens),
                    "took": int(done.stdout.split()[-1]), "seconds": seconds,
                }  # fmt: skip
            if given.results:
                with given.results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        ratios.append(row["told"] / row["took"])
        print(
            f"| {name} | {row['layers']} | {row['hidden']} | {tokens} | {width} | {precision} | {'yes' if twice else 'no'} | "
            f"{row['told'] / 1e6:.0f} | {row['took'] / 1e6:.0f} | {ratios[-1]:.2f} | {row['seconds']:.1f} |", flush=True,
        )  # fmt: skip
    print(f"\ntold / took: least {min(ratios):.2f}, median {sorted(ratios)[len(ratios) // 2]:.2f}, most {max(ratios):.2f}")


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(*json.loads(sys.argv[-1]))
    else:
        main()
