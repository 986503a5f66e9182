"""What open interactions cost the reward stage: changelog, memory, CPU of a restore, of deadlines and of an erasure's scan.

Half of them have one feedback. The state is made once and loaded in a process of its own, as a restarted task would; `rss` is
what that process grew by. No broker: reading the changelog comes on top.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

from bench import common, events
from headrace_lake.log import LogRecord
from headrace_processors.reward.erasure import matching
from headrace_processors.stages import STAGES
from headrace_schemas.topics import TOPIC_NAMES
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.testing import written_headers

[REWARD] = [stage for stage in STAGES if stage.name == "reward"]
PAGE = 4096


def runner(version: int) -> FoldRunner:
    made = FoldRunner(REWARD, "signals", 0, dict.fromkeys(TOPIC_NAMES, 1))
    made.activate(version, REWARD.policy().body(), "bench")
    return made


def write(version: int, count: int, path: Path) -> int:
    """The state of `count` interactions as lines of key and value; how many bytes that is."""
    made, draw, offset = runner(version), random.Random(1), 0
    for number in range(count):
        values = [events.interaction(draw, number), *([events.feedback(draw, number)] if number % 2 else [])]
        for value in values:
            made.run(LogRecord("signals", 0, offset, 1_790_000_000_000 + offset, b"k", value, written_headers("signals")))
            offset += 1
    size = 0
    with path.open("wb") as file:
        for key, value in made.dumped().items():
            size += len(key) + len(value)
            file.write(key.encode() + b"\t" + value + b"\n")
    return size


def lines(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        for line in file:
            key, _, value = line[:-1].partition(b"\t")
            yield key.decode(), value


def load(version: int, count: int, path: Path) -> None:
    """Prints microseconds and bytes an interaction."""
    made, before = runner(version), rss()
    assert made.fold is not None
    began = time.process_time()
    for key, value in lines(path):
        made.state[key] = made.fold.load(key, value)
    loaded, grown = time.process_time() - began, rss() - before
    began = time.process_time()
    made.watch(60_000)
    watched = time.process_time() - began
    began = time.process_time()
    if version > 1:
        matching(made.state, "0" * 32)
    scanned = time.process_time() - began
    print(loaded / count * 1e6, watched / count * 1e6, scanned / count * 1e6, grown / count, (rss() - before) / count)


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def main() -> None:
    if sys.argv[1:2] == ["--load"]:
        return load(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    runs, count = common.arguments(__doc__, count=100_000)
    for version in sorted(REWARD.versions):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state"
            size = write(version, count, path) / count
            command = [sys.executable, __file__, "--load", str(version), str(count), str(path)]
            done = [[*map(float, subprocess.check_output(command).split())] for _ in range(runs)]
        print(f"rule version {version}, {count} open interactions, {size:.0f} B of changelog each")
        names = ("restore", "deadlines", "scan for an erasure", "memory", "memory with deadlines")
        for name, unit, values in zip(names, ("us", "us", "us", "B", "B"), zip(*done, strict=True), strict=True):
            common.line(f"  {name}", list(values), f"{unit}/open")


if __name__ == "__main__":
    main()
