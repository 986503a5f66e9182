"""What `replay --out` takes: CPU of a signal, and bytes that its process grows by, over a log of `count` signals and a tenth.

Each pair of signals stays open in the state of a partition, of which there are four; one partition's is in memory at a time. The
log lies in a lake, so that the memory is that of the rebuild alone. Each is rebuilt by a process of its own.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

from bench import common, load
from bench.bench_stages import load_average
from headrace_lake.lake_log import LakeLog
from headrace_lake.manifest import LakeFolder
from headrace_lake.rebuild import rebuild
from headrace_lake.segments import SegmentColumns, write_segment
from headrace_processors import policy_file
from headrace_processors.stages import STAGES
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.testing import written_headers

PARTITIONS = 4
CHUNK = 5_000  # pairs of a segment


def make(path: Path, pairs: int) -> LakeFolder:
    """A lake of signals alone."""
    folder = LakeFolder(path)
    path.mkdir()
    manifest = folder.bound("bench", "bench")
    headers = written_headers("signals")
    offsets, segments = [0] * PARTITIONS, []
    for first in range(0, pairs, CHUNK):
        columns = [SegmentColumns("signals", partition) for partition in range(PARTITIONS)]
        starts = list(offsets)
        for pair in load.pairs(min(CHUNK, pairs - first), first):
            key = f"i{pair.number}".encode()
            partition = partition_for(key, PARTITIONS)
            for value in (pair.interaction, pair.feedback):
                columns[partition].add(offsets[partition], pair.number, key, value, headers)
                offsets[partition] += 1
        segments += [
            write_segment(folder.segments, [made.table()], starts[number], offsets[number]) for number, made in enumerate(columns)
        ]
    cut = {(topic, number): 0 for topic in ("examples", "rejections", "batches", "dead-letters") for number in range(PARTITIONS)}
    folder.store(manifest.moved(cut | {("signals", number): offsets[number] for number in range(PARTITIONS)}, segments))
    return folder


def check(path: str) -> None:
    """Prints how many records it says, CPU seconds, and bytes that the process grew by at most."""

    async def count() -> int:
        folder = LakeFolder(Path(path))
        with folder.open() as manifest:
            bodies = policy_file.load(None).bodies()
            return len([None async for _ in rebuild(LakeLog(folder, manifest), STAGES, bodies)])

    before, began = common.memory("VmRSS"), time.process_time()
    print(asyncio.run(count()), time.process_time() - began, common.memory() - before)


def main() -> None:
    if sys.argv[1:2] == ["--check"]:
        return check(sys.argv[2])
    runs, count = common.arguments(__doc__, count=60_000)
    with tempfile.TemporaryDirectory() as scratch:
        for signals in (count // 10, count):
            folder = make(Path(scratch) / str(signals), signals // 2)
            done = []
            for _ in range(runs):
                command = [sys.executable, __file__, "--check", str(folder.path)]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                done.append([float(word) for word in out.split()])
            print(f"rebuild of {signals} signals, which says {done[0][0]:.0f} records; {load_average()}")
            common.line("  CPU, a signal", [cpu / signals * 1e6 for _, cpu, _ in done], "us")
            common.line("  grown by", [grown / 2**20 for _, _, grown in done], "MiB")
    return None


if __name__ == "__main__":
    main()
