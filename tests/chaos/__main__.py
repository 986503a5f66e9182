"""`python -m chaos` in tests/: runs seeds, appends to a report as JSON lines, and shows what it and others hold.

A seed that the report has is left out, so a run that was cut off goes on; reports of several machines merge by being named
together.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from headrace_streams.kafka import compat
from support import jsonl

from . import rig
from .faults import KINDS


def main(arguments: list[str]) -> int:
    """0 when nothing was lost, doubled, different or not recovered."""
    parser = argparse.ArgumentParser(prog="chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", default="1-50", help="one, or first-last (default: %(default)s)")
    parser.add_argument("--faults", type=int, default=20, help="of each seed (default: %(default)s)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which of them (default: all)")
    parser.add_argument("--report", type=Path, default=Path("chaos.jsonl"), help="to append to (default: %(default)s)")
    parser.add_argument("--merge", type=Path, nargs="*", default=[], help="other reports to show with it")
    parser.add_argument("--keep", type=Path, help="a folder that keeps the logs of every seed")
    given = parser.parse_args(arguments)
    kinds = given.kinds.split(",")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        parser.error(f"--kinds {','.join(unknown)}: there are {', '.join(KINDS)}")
    if "clock-jump" in kinds and rig.faketime() is None:
        print("clock-jump is left out: libfaketime is not installed (Debian: apt-get install libfaketime)", file=sys.stderr)
        kinds.remove("clock-jump")
    compat.install()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that the broker is away is no news here
    first, _, last = given.seeds.partition("-")
    done = {line["seed"] for line in jsonl.read(given.report) if "verify" in line}
    for seed in range(int(first), int(last or first) + 1):
        if seed not in done:
            run(seed, kinds, given)
    return show([line for path in (given.report, *given.merge) for line in jsonl.read(path)])


def run(seed: int, kinds: list[str], given: argparse.Namespace) -> None:
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-", dir=given.keep))
    outcome = rig.run(seed, kinds, given.faults, folder)
    jsonl.add(given.report, *outcome.faults, outcome.round)
    print(json.dumps(outcome.round), flush=True)
    if not given.keep and not wrong(outcome.round):
        shutil.rmtree(folder, ignore_errors=True)
    elif wrong(outcome.round):
        print(f"its logs are in {folder}", file=sys.stderr)


def wrong(summary: dict[str, Any]) -> bool:
    return bool(summary["lost"] or summary["doubled"] or summary["verify"])


def show(lines: list[dict[str, Any]]) -> int:
    """A table by kind, and the whole. Faults of a seed that did not come to its end are not counted."""
    rounds = {line["seed"]: line for line in lines if "verify" in line}
    faults = {(line["seed"], line["number"]): line for line in lines if "kind" in line and line["seed"] in rounds}
    print(f"{'kind':26}{'faults':>8}{'median s':>10}{'worst s':>9}{'never':>7}")
    never = 0
    for kind in KINDS:
        mine = [line for line in faults.values() if line["kind"] == kind]
        times = [line["recovered"] for line in mine if line["recovered"] is not None]
        never += len(mine) - len(times)
        if mine:
            middle, worst = (statistics.median(times), max(times)) if times else (float("nan"), float("nan"))
            print(f"{kind:26}{len(mine):8}{middle:10.1f}{worst:9.1f}{len(mine) - len(times):7}")
    total = {name: sum(line[name] for line in rounds.values()) for name in ("records", "lost", "doubled")}
    different = sum(line["verify"] != 0 for line in rounds.values())
    print(f"{len(faults)} faults, {total['records']} records acknowledged, lost {total['lost']}, doubled {total['doubled']}, "
          f"seeds with another verify than 0: {different} of {len(rounds)}")  # fmt: skip
    return int(bool(never or different or total["lost"] or total["doubled"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
