"""A base of the size of Qwen2.5-0.5B, trained and evaluated by a real job on this machine: seconds a step, and its highest
resident memory beside what the estimator told. Random weights: what a step costs does not depend on them.

    python tests/bench/half_billion.py --folder half-billion --memory-gb 12

Goes on where it was stopped: the base is built once, the job keeps a checkpoint of every step, and its result is a file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))

from bench import common
from headrace_schemas.derived import Content
from headrace_trainer.job.plan import describe, plan_of
from headrace_trainer.job.run import run
from headrace_trainer.model.precision import precision_for
from headrace_trainer.policy import EvaluationPolicy, GraderPolicy, Hyperparameters
from headrace_trainer.spec import JobProgress, JobSpec
from support import training_data

SIZE: dict[str, Any] = {
    "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "max_position_embeddings": 32_768, "tie_word_embeddings": True,
}  # fmt: skip
ROWS, TESTS = 16, 4
HYPER = Hyperparameters(steps=4, rows_per_step=4, max_sequence_tokens=512, batch_tokens=2048)


def job(folder: Path, memory_gb: float, threads: int) -> None:
    """The job of this folder, and its figures into `result.json`."""
    planned = plan_of(folder / "base", HYPER, "cpu", precision_for("auto", "cpu"), memory_gb)
    print(describe(planned), flush=True)
    hyper = HYPER.model_copy(
        update={"batch_tokens": planned.batch_tokens, "activation_checkpointing": planned.activation_checkpointing}
    )
    long = "select a , b from orders where customer = 7 and total > 9 ; " * 12

    def made(numbers: range, split: training_data.Split) -> list[training_data.RecordedExample]:
        content = {number: Content(prompt=f"{number} ? {long}", output="?", target=long) for number in numbers}
        return [training_data.recorded(number, split, content=content[number]) for number in numbers]

    learnt, tests = made(range(ROWS), "train"), made(range(1000, 1000 + TESTS), "test")
    batch = training_data.batch([row.member for row in learnt], [row.member for row in tests])
    spec = JobSpec(
        training_data.start(batch, hyperparameters=hyper.to_wire()), batch, str(folder / "base"),
        {(row.member.example_id, row.member.revision): row.value for row in (*learnt, *tests)}, folder / "run",
        evaluation=EvaluationPolicy(max_new_tokens=16), grader=GraderPolicy(name="support.graders:same"), threads=threads,
        checkpoint_seconds=0.0,
    )  # fmt: skip
    steps: list[float] = []
    found: dict[str, Any] = {}

    def note(progress: JobProgress) -> None:
        if progress.phase == "training":
            steps.append(time.monotonic())
            found["training"] = common.memory("VmHWM")
            print(f"step {progress.step}/{progress.steps} loss {progress.loss:.4f} {progress.tokens_per_second:.0f} tokens/s",
                  flush=True)  # fmt: skip
        elif progress.phase == "evaluation":
            print("evaluation", flush=True)

    result = run(spec, note)
    assert result.training is not None
    seconds = [after - before for before, after in itertools.pairwise(steps)]
    found |= {
        "told": planned.peak, "precision": precision_for("auto", "cpu"), "threads": threads, "plan": describe(planned),
        "took": found["training"], "whole": common.memory("VmHWM"), "tokens": result.training.tokens,
        "steps": result.training.steps, "step_seconds": sorted(seconds)[len(seconds) // 2] if seconds else None,
        "cpu_seconds": time.process_time(), "seconds": result.seconds, "loss": result.training.loss,
        "gain": result.report.comparison.loss_gain.value, "graded": result.report.candidate["success"].n,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(found, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("half-billion"))
    parser.add_argument("--memory-gb", type=float, default=12.0, help="granted to the job, in 10^9 bytes (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.job:
        return job(given.folder, given.memory_gb, given.threads)
    if not (given.folder / "result.json").exists():
        if not (given.folder / "base" / "config.json").exists():
            subprocess.run([sys.executable, "-c", _BUILD, str(given.folder / "base")], check=True)
        command = [sys.executable, __file__, "--job", "--folder", given.folder, "--memory-gb", given.memory_gb]
        subprocess.run([*map(str, command), "--threads", str(given.threads)], check=True, env=dict(os.environ))
    found = json.loads((given.folder / "result.json").read_text())
    told, took, whole = (found[name] / 1e9 for name in ("told", "took", "whole"))
    print(found["plan"])
    print(f"told {told:.2f} GB, took {took:.2f} in training (x{told / took:.2f}), {whole:.2f} with the evaluation")
    print(
        f"{found['precision']}, {found['threads']} threads: {found['step_seconds']:.1f} s a step of "
        f"{found['tokens'] / found['steps']:.0f} tokens, {found['cpu_seconds']:.0f} s of CPU in all; loss {found['loss']:.3f}, "
        f"gain {found['gain']:.3f}"
    )


_BUILD = f"""
import sys; sys.path.append({str(Path(__file__).parent.parent)!r})
from pathlib import Path
import torch
from bench.half_billion import SIZE
from support import architectures
torch.set_default_dtype(torch.bfloat16)
architectures.build("qwen2", Path(sys.argv[1]), **SIZE)
"""


if __name__ == "__main__":
    main()
