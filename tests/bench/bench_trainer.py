"""How soon a batch is being learnt, and how fast: a real `headrace trainer`, and the training loop beside a plain one.

Start: append time of the first `TrainingProgressed` (it tells of the first optimiser step) minus that of its `BatchReady`, one
batch after the other; the baseline is a fresh Python that loads torch, transformers and peft. Speed: real tokens a second of a
LoRA run on a 10 M model over rows of mixed lengths; the baseline is the usual loop of transformers: rows as they come, padded to
the longest, attention mask, labels, the output head over every token; same adapter, optimiser, precision and threads.
"""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from bench import common
from headrace_schemas.codec import decode
from headrace_schemas.events import EvaluationCompleted
from headrace_schemas.ids import derive_id
from headrace_streams.kafka import admin
from headrace_streams.kafka.reader import Reader
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings
from headrace_trainer.data.rows import TokenRow
from headrace_trainer.learning.loop import learning_rate_share, train
from headrace_trainer.model import lora
from headrace_trainer.model.base import Base
from headrace_trainer.model.precision import autocast, precision_for
from headrace_trainer.policy import Hyperparameters
from support import tiny
from support.ring import Ring
from support.train_log import TrainLog

HYPER = Hyperparameters(epochs=1, rows_per_step=16, batch_tokens=8192)
VOCABULARY = 16_384


def fresh_python() -> float:
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", "import torch, transformers, peft, transformers.models.qwen2.modeling_qwen2"], check=True
    )
    return time.monotonic() - began


async def started(settings: Settings, train_log: TrainLog, number: int) -> float:
    """Seconds from a batch's append to that of the first progress on it; then releases it, so that the next may begin."""
    batch = await train_log.publish_batch(f"b{number}", range(10_000 * number, 10_000 * number + 24))
    evaluations = await train_log.wait_for(EvaluationCompleted, "outcomes", number + 1)
    await train_log.publish_release(evaluations[-1], promote=False)
    ready = await _appended(settings, "batches", lambda data: data.batch_id == batch.batch_id)
    start = derive_id("run", batch.batch_id)
    stepped = await _appended(settings, "runs", lambda data: data.run_id == start and getattr(data, "step", 0) >= 1)
    return (stepped - ready) / 1000


async def _appended(settings: Settings, topic: str, wanted: Callable[[Any], bool]) -> int:
    """Append time in ms of the first record whose data is `wanted`."""
    return min(
        [int(record.timestamp) async for record in Reader(settings).read_topic(topic) if wanted(decode(record.value).data)]
    )


def starts(runs: int) -> tuple[list[float], list[float]]:
    """Seconds to the first step, and of the baseline."""
    with tempfile.TemporaryDirectory() as name, LocalKafka(Path(name) / "kafka") as kafka:
        folder = Path(name)
        base = tiny.build(folder / "base")
        policy = folder / "policy.toml"
        policy.write_text(f"[train]\nthreads = 1\n[train.bases.tiny]\nweights = {str(base)!r}\n")
        settings = Settings(bootstrap=kafka.bootstrap, deployment="bench", partitions=1, data_dir=folder / "data", policy=policy)
        asyncio.run(admin.declare(settings))
        train_log = TrainLog(settings)
        with Ring(settings, folder / "ring") as ring:
            ring.start("trainer")
            found = [asyncio.run(started(settings, train_log, number)) for number in range(runs + 1)]
            return found[1:], [fresh_python() for _ in range(runs)]  # the first waits for the fork server to load torch


def model() -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    frozen: Any = Qwen2ForCausalLM(config)
    return lora.attach(frozen.requires_grad_(False), HYPER, 0)[0]


def rows(count: int) -> list[TokenRow]:
    """Prompts of 10 to 400 tokens, most of them short, and completions of 5 to 100."""
    draw = np.random.default_rng(1)
    made = []
    for number in range(count):
        prompt = int(np.clip(draw.lognormal(4.2, 0.9), 10, 400))
        completion = int(np.clip(draw.lognormal(3.2, 0.7), 5, 100))
        tokens = draw.integers(1, VOCABULARY, prompt + completion).tolist()
        made.append(TokenRow(str(number), tuple(tokens[:prompt]), tuple(tokens[prompt:])))
    return made


class _Pads:
    pad_token_id = 0
    eos_token_id = 0


def ours(count: int) -> float:
    """Real tokens a second of the training loop."""
    learner, learnt = model(), rows(count)
    base = Base(learner.get_base_model(), _Pads(), "cpu")
    began = time.monotonic()
    done = train(learner, base, learnt, [], HYPER, seed=0, precision=precision_for("auto", "cpu"))
    return done.tokens / (time.monotonic() - began)


def plain(count: int) -> float:
    """Real tokens a second of the baseline."""
    learner, learnt = model(), rows(count)
    wanted = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(wanted, lr=HYPER.learning_rate, betas=(0.9, HYPER.beta2), weight_decay=HYPER.weight_decay)
    steps = math.ceil(count / HYPER.rows_per_step)
    began = time.monotonic()
    learner.train()
    for step in range(steps):
        chosen = learnt[step * HYPER.rows_per_step : (step + 1) * HYPER.rows_per_step]
        width = max(row.length for row in chosen)
        ids = torch.tensor([[*row.prompt, *row.completion, *[0] * (width - row.length)] for row in chosen])
        mask = torch.tensor([[1] * row.length + [0] * (width - row.length) for row in chosen])
        labels = torch.tensor([[-100] * len(row.prompt) + [*row.completion] + [-100] * (width - row.length) for row in chosen])
        for group in optimiser.param_groups:
            group["lr"] = HYPER.learning_rate * learning_rate_share(step, steps, HYPER.warmup)
        with autocast("cpu", precision_for("auto", "cpu")):
            loss = learner(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(wanted, HYPER.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad()
    return sum(row.length for row in learnt) / (time.monotonic() - began)


def main() -> None:
    runs, count = common.arguments(__doc__, count=48)
    first, fresh = starts(runs)
    print(f"Training, median of {runs} runs")
    common.line("a fresh Python with torch loaded", fresh, "s")
    common.line("BatchReady to the first optimiser step", first, "s", ("a fresh Python", fresh))
    ours(HYPER.rows_per_step)  # kernels and allocator warm, for both
    baseline, speed = [], []
    for _ in range(runs):
        baseline.append(plain(count))
        speed.append(ours(count))
    print(f"{count} rows of {sum(row.length for row in rows(count)) // count} tokens, {precision_for('auto', 'cpu')}, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    common.line("plain padded loop, full head", baseline, "tokens/s")
    common.line("our training loop", speed, "tokens/s", ("the plain loop", baseline))


if __name__ == "__main__":
    main()
