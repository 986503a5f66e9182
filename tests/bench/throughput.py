"""Our training loop beside TRL's, as it comes and tuned: the same base, rows, adapter and steps, each a process of its own, in
turns; seconds of CPU to the same held-out loss. TRL is no requirement: `pip install trl datasets`, in an environment of its own.

    python tests/bench/throughput.py --results throughput.jsonl --python /tmp/trl/bin/python

A rule that can be learnt (each token follows from the one before, one in ten is noise), so that held-out loss means something.
Goes on from its results file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))

from support import jsonl

VOCABULARY, ROWS, HELD_OUT, BATCH = 8192, 128, 32, 16
RATE, RANK, ALPHA, DROPOUT = 1e-3, 8, 16, 0.0
ROUTES = ("trl", "trl tuned", "ours")


def rows(count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Prompts of 10 to 400 tokens, most of them short, and completions of 5 to 100, which go on by the rule."""
    import numpy as np

    rule = np.random.default_rng(0).permutation(VOCABULARY - 10) + 10
    draw, made = np.random.default_rng(seed), []
    for _ in range(count):
        asked = int(np.clip(draw.lognormal(4.2, 0.9), 10, 400))
        told = int(np.clip(draw.lognormal(3.2, 0.7), 5, 100))
        tokens = [int(draw.integers(10, 60))]
        while len(tokens) < asked + told:
            noise = draw.random() < 0.1 or len(tokens) % 7 == 0
            tokens.append(int(draw.integers(10, 60)) if noise else int(rule[tokens[-1] - 10] % 50 + 10))
        made.append((tokens[:asked], tokens[asked:]))
    return made


def model(folder: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def held_out_loss(trained: Any) -> float:
    """Mean over completion tokens in nats, by transformers' own forward."""
    import torch

    trained.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for asked, told in rows(HELD_OUT, 2):
            logits = trained(input_ids=torch.tensor([[*asked, *told]])).logits[0, len(asked) - 1 : -1].float()
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(told), reduction="sum"))
            count += len(told)
    return total / count


def ours(folder: str, precision: str) -> tuple[float, float]:
    from headrace_trainer.data.rows import TokenRow
    from headrace_trainer.learning.loop import train
    from headrace_trainer.model import lora
    from headrace_trainer.model.base import Base
    from headrace_trainer.policy import Hyperparameters

    hyper = Hyperparameters(
        r=RANK, alpha=ALPHA, dropout=DROPOUT, learning_rate=RATE, epochs=1, rows_per_step=BATCH, warmup=0.0, beta2=0.999,
        weight_decay=0.0,
    )  # fmt: skip
    wrapped, _ = lora.attach(model(folder).requires_grad_(False), hyper, 1)
    learnt = [TokenRow(str(number), tuple(asked), tuple(told)) for number, (asked, told) in enumerate(rows(ROWS, 1))]
    began = time.process_time()
    train(wrapped, Base(wrapped.get_base_model(), _Pads(), "cpu"), learnt, [], hyper, seed=1, precision=precision)  # type: ignore[arg-type]
    return time.process_time() - began, held_out_loss(wrapped)


class _Pads:
    pad_token_id = eos_token_id = 0


def trl(folder: str, precision: str, tuned: bool) -> tuple[float, float]:
    import logging
    from importlib import import_module

    from peft import LoraConfig
    from transformers import AutoTokenizer

    library, datasets = import_module("trl"), import_module("datasets")  # no requirement of ours, so nobody knows their types
    logging.disable(logging.WARNING)
    masked = [
        {"input_ids": [*asked, *told], "completion_mask": [0] * len(asked) + [1] * len(told)} for asked, told in rows(ROWS, 1)
    ]
    # As it comes it recomputes and computes in bf16 where it may. Tuned: no recomputing, rows of like length together.
    options: dict[str, Any] = {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"} if tuned else {}
    with tempfile.TemporaryDirectory() as output:
        config = library.SFTConfig(
            output_dir=output, use_cpu=True, bf16=precision == "bf16", report_to="none", save_strategy="no",
            completion_only_loss=True, max_length=None, learning_rate=RATE, num_train_epochs=1, disable_tqdm=True,
            per_device_train_batch_size=BATCH if tuned else 8, gradient_accumulation_steps=1 if tuned else BATCH // 8,
            logging_strategy="no", **options,
        )  # fmt: skip
        trainer = library.SFTTrainer(
            model=model(folder), args=config, train_dataset=datasets.Dataset.from_list(masked),
            processing_class=AutoTokenizer.from_pretrained(folder),
            peft_config=LoraConfig(
                r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )  # fmt: skip
        began = time.process_time()
        trainer.train()
        return time.process_time() - began, held_out_loss(trainer.model)


def build(folder: Path) -> None:
    """A Qwen2 of 22 M parameters in which LoRA has something to go on from: its embedding is what is random."""
    from support import architectures

    architectures.build(
        "qwen2", folder, vocab_size=VOCABULARY, hidden_size=384, intermediate_size=1152, num_hidden_layers=8,
        num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("throughput.jsonl"))
    parser.add_argument("--python", default=sys.executable, help="the Python that has trl (default: this one)")
    parser.add_argument("--precision", choices=["bf16", "fp32"], help="of all three (default: what is faster here)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--route", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.route:
        route, folder, precision = given.route
        seconds, loss = ours(folder, precision) if route == "ours" else trl(folder, precision, route == "trl tuned")
        print(json.dumps([seconds, loss]))
        return
    from headrace_trainer.model.precision import precision_for

    precision = given.precision or precision_for("auto", "cpu")
    known = jsonl.read(given.results)
    with tempfile.TemporaryDirectory() as name:
        build(Path(name))
        for run in range(given.runs):
            for route in ROUTES:
                if any(row["run"] == run and row["route"] == route and row["precision"] == precision for row in known):
                    continue
                command = [given.python, __file__, "--route", route, name, precision]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                seconds, loss = json.loads(done.stdout.splitlines()[-1])
                known.append({"run": run, "route": route, "precision": precision, "seconds": seconds, "loss": loss})
                jsonl.add(given.results, known[-1])
    base = None
    for route in ROUTES:
        found = [row for row in known if row["route"] == route and row["precision"] == precision]
        seconds = statistics.median(row["seconds"] for row in found)
        loss = statistics.median(row["loss"] for row in found)
        base = base or seconds
        format_ = "fp32" if route == "trl" else precision
        print(
            f"{route:<10} {format_}  {seconds:7.1f} s of CPU  held-out loss {loss:.3f}  x{base / seconds:.2f} of TRL as it comes"
        )


if __name__ == "__main__":
    main()
