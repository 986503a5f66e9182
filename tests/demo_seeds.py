"""Runs the demo for some seeds, one after the other, and prints what docs/demo.md shows of them. Knows the demo's JSON, no stage.

    python tests/demo_seeds.py --seeds 41 42 43 --results demo-seeds.jsonl --data-dir /tmp/demo-seeds -- --minutes 25

Nobody need watch: a seed that fails, or takes longer than `--most-minutes`, is told and the others run (exit 1). A second run
goes on from the results file, with the seeds that are not in it; what stands behind `--` goes to the demo.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from headrace_cli.common import PROGRAM
from support import jsonl

COMMAND = (sys.executable, "-c", PROGRAM, "demo", "--json")


def demo(seed: int, data_dir: Path, arguments: Sequence[str], most_minutes: float) -> dict[str, Any]:
    """The demo's last object, with the seed and the machine's load before and after. CalledProcessError when it fails otherwise
    than for want of releases, also when it was stopped since it took too long."""
    before = os.getloadavg()[0]
    command = [*COMMAND, "--seed", str(seed), "--data-dir", str(data_dir), *arguments]
    end: dict[str, Any] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        limit = threading.Timer(most_minutes * 60, process.terminate)  # it then ends what it started
        limit.start()
        for line in process.stdout:
            end = json.loads(line)
            if "note" in end:
                print(f"seed {seed} {end['seconds']:7.1f} s  {end['note']}", file=sys.stderr, flush=True)
        limit.cancel()
    if process.returncode not in (0, 1) or "releases" not in end:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {"seed": seed, **end, "load": [round(load, 1) for load in (before, os.getloadavg()[0])]}


def lines(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A Markdown table: each base, release and control arm of each seed."""
    yield "| seed | bucket | release | after | known wordings | new wordings | descriptions |"
    yield "|---|---|---|---|---|---|---|"
    for result in sorted(results, key=lambda result: int(result["seed"])):
        for row in result["releases"]:
            name = "control" if row["control"] else "base" if row["adapter"] is None else str(row["release"])
            after = "" if row["adapter"] is None else f"{row['seconds'] / 60:.1f} min"
            headings = ("known wordings", "new wordings", "descriptions")
            cells = [f"{row['exam'][name]['success']:.1%}" if name in row["exam"] else "" for name in headings]
            yield f"| {' | '.join((str(result['seed']), row['bucket'], name, after, *cells))} |"
    for result in sorted(results, key=lambda result: int(result["seed"])):
        ended = "" if result["done"] else ", not done"
        load = f"load of the machine {result['load'][0]} before and {result['load'][1]} after"
        yield f"\nSeed {result['seed']}: {result['seconds'] / 60:.1f} minutes in all{ended}; {load}."


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Runs the demo for some seeds.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[41, 42, 43])
    parser.add_argument("--results", type=Path, default=Path("demo-seeds.jsonl"))
    parser.add_argument("--data-dir", type=Path, required=True, help="base models in it are kept from run to run")
    parser.add_argument("--most-minutes", type=float, default=60.0, help="of a seed, with its base model and control arm")
    parser.add_argument("demo", nargs="*", help="arguments for the demo, behind --")
    given = parser.parse_args(arguments)
    done = jsonl.read(given.results)
    for seed in given.seeds:
        if all(result["seed"] != seed for result in done):
            try:
                done.append(demo(seed, given.data_dir, given.demo, given.most_minutes))
            except (subprocess.CalledProcessError, ValueError) as error:
                print(f"seed {seed} failed, the next run tries it again: {error}", file=sys.stderr, flush=True)
                continue
            jsonl.add(given.results, done[-1])
    there = [result for result in done if result["seed"] in given.seeds]
    print("\n".join(lines(there)))
    return 0 if len(there) == len(set(given.seeds)) else 1


if __name__ == "__main__":
    sys.exit(main())
