"""Runs the experiments on the gate: a table, and a file of results that a second run goes on from.

    PYTHONPATH=tests python -m simulations --histories 2000 --results gate-simulations.jsonl

Every experiment has its own seed, made of its name.
"""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from pathlib import Path

import numpy as np

from simulations.experiments import experiments
from support import jsonl


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m simulations", description="Simulates the gate.")
    parser.add_argument("--histories", type=int, default=2000)
    parser.add_argument("--results", type=Path, default=Path("gate-simulations.jsonl"))
    parser.add_argument("--only", default="", help="experiments whose name holds this")
    given = parser.parse_args(arguments)
    done = {row["experiment"]: row for row in jsonl.read(given.results) if row["histories"] == given.histories}
    for name, function, options in experiments():
        if given.only not in name:
            continue
        if name not in done:
            began = time.process_time()
            figures = function(np.random.default_rng(zlib.crc32(name.encode())), given.histories, **options)
            done[name] = {
                "experiment": name,
                "histories": given.histories,
                **figures,
                "cpu_s": round(time.process_time() - began, 1),
            }
            jsonl.add(given.results, done[name])
        row = {key: value for key, value in done[name].items() if key not in ("experiment", "histories")}
        print(
            f"{name:45}",
            "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
