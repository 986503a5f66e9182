"""`python -m bench` in tests/: every measurement, one after the other, and what they found in one table.

A measurement that the report has with the same arguments is left out, so a run that was cut off goes on. One that fails is said,
and the others go on. Nothing else should run on the machine meanwhile: the load average stands beside each.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support import jsonl

FOLDER = Path(__file__).parent
BENCHES = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
# As much as shows a ratio; what is not named here takes no count, or little time as it is. All of it, five times: 20 minutes on
# two cores that do nothing else.
QUICK: dict[str, tuple[str, ...]] = {
    "door": ("--count", "2000"),
    "floor": ("--count", "4000"),
    "latency": ("--count", "3000"),
    "memory": ("--quick",),
    "open_interactions": ("--count", "30000"),
    "rebuild": ("--count", "6000"),
    "restart": ("--count", "50000"),
    "stages": ("--count", "4000"),
    "trainer": ("--count", "24"),
    "verify": ("--count", "8000"),
    "workers": ("--count", "5000"),
}
WITHOUT_RUNS = ("memory",)
LIMIT_SECONDS = 1800.0


def main(arguments: Sequence[str]) -> int:
    """0 when all of them could be measured."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="less of each")
    parser.add_argument("--only", default=",".join(BENCHES), help="which of them (default: all)")
    parser.add_argument("--report", type=Path, default=Path("bench.jsonl"), help="to append to (default: %(default)s)")
    given = parser.parse_args(arguments)
    wanted = given.only.split(",")
    unknown = [name for name in wanted if name not in BENCHES]
    if unknown:
        parser.error(f"--only {','.join(unknown)}: there are {', '.join(BENCHES)}")
    failed = []
    for name in wanted:
        options = [*(() if name in WITHOUT_RUNS else ("--runs", str(given.runs))), *(QUICK.get(name, ()) if given.quick else ())]
        if [name, options] in [[line["bench"], line["options"]] for line in jsonl.read(given.report)]:
            continue
        print(f"{name} {' '.join(options)} …", file=sys.stderr, flush=True)
        line = measure(name, options)
        if line is None:
            failed.append(name)
            continue
        jsonl.add(given.report, line)
    show([line for line in jsonl.read(given.report) if line["bench"] in wanted])
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def measure(name: str, options: list[str]) -> dict[str, Any] | None:
    """What a bench printed, and what it took; None, said, when it failed."""
    began, before, load = time.monotonic(), children_cpu(), os.getloadavg()[0]
    try:
        done = subprocess.run(
            [sys.executable, str(FOLDER / f"bench_{name}.py"), *options],
            stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT_SECONDS,
        )  # fmt: skip
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        return None
    return {
        "bench": name,
        "options": options,
        "seconds": round(time.monotonic() - began, 1),
        "cpu": round(children_cpu() - before, 1),
        "load": round(load, 1),  # of others, before it began
        "lines": done.stdout.splitlines(),
    }


def children_cpu() -> float:
    """Seconds, of all that has ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def show(found: list[dict[str, Any]]) -> None:
    """All lines, each bench under a line of its own. `common.line` has written most: median, spread, ratio, of what."""
    for line in found:
        took = f"{line['seconds']:g} s, {line['cpu']:g} s of CPU, load {line['load']:g} before"
        print("\n".join(["", f"{line['bench']} {' '.join(line['options'])}: {took}", *line["lines"]]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
