"""Three other policies over each real corpus: what of it would flip, printed as `headrace whatif` does. Knows no Kafka.

    python tests/real/whatif.py --data FOLDER [--only NAME …] [--rows N] [--top K]

A corpus goes through intake, link, reward and curate in memory, a row a second, under the default policy and one base that learns
from all models; then each policy is tried over that log, and that one again, which must flip nothing: exits 1 if it does.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))

from headrace_lake.whatif.cli import lines_of
from headrace_lake.whatif.report import WhatIfReport
from headrace_lake.whatif.trial import WhatIf
from headrace_processors import policy_file
from headrace_processors.stages import STAGES
from real import corpora
from support.memory_log import MemoryLog

SECOND_MS = 1000
BASE = """
[[reward.bases]]
base = "learner"
"""
POLICIES = {
    "what people object to counts double, corrections count half": """
[reward]
bonus = { success = 0.3, explicit_positive = 0.4, validation_failure = -1.0, explicit_negative = -2.0 }
correction_bonus = 0.25
""",
    "only what is nearly perfect is learnt": """
[curate]
train_above = 95
near_duplicate = 0.7
""",
    "small batches of the answers that are rare": """
[reward]
balance_exponent = 1.0
difficulty_slope = 3.0
[curate]
target_effective_size = 24
fresh_share = 0.25
""",
}


def recorded(name: str, path: Path, rows: int | None) -> MemoryLog:
    """The log of a corpus under the default policy."""
    log, bodies = MemoryLog(2), bodies_of("")
    for number, said in enumerate(islice(corpora.said(name, path), rows)):
        topic, value = corpora.published(said, f"e{number}")
        log.time += SECOND_MS
        log.append(topic, number % log.count, None, value)
    for stage in STAGES:
        if stage.name != "release":
            log.run(stage, bodies[stage.name])
    return log


def bodies_of(policy: str) -> dict[str, Any]:
    """A policy text with the base, as stages take it."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(policy + BASE)
        file.flush()
        return policy_file.load(file.name).bodies()


def tried(log: MemoryLog, bodies: dict[str, Any], top: int) -> WhatIfReport:
    return asyncio.run(WhatIf(log, STAGES, bodies, top=top).run())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--rows", type=int)
    parser.add_argument("--top", type=int, default=2)
    given = parser.parse_args()
    flipped = 0
    for name, path in corpora.corpora(given.data).items():
        if given.only and name not in given.only:
            continue
        log = recorded(name, path, given.rows)
        signals = sum(len(records) for (topic, _), records in log.records.items() if topic == "signals")
        same = tried(log, bodies_of(""), given.top).flips
        flipped += same or not signals
        print(f"\n== {name}: {signals} signals; the same policy flips {same}", flush=True)
        for title, text in POLICIES.items():
            began = time.process_time()
            report = tried(log, bodies_of(text), given.top)
            print(f"\n-- {title} ({time.process_time() - began:.1f} s of CPU)", flush=True)
            print("\n".join(lines_of(report)), flush=True)
    return 1 if flipped else 0


if __name__ == "__main__":
    sys.exit(main())
