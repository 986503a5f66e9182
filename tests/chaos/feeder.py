"""`python -m chaos.feeder` in tests/: feeders of a lake that are killed 100 times, and find the disk full, while the log grows.

After each fault the lake is a prefix of the log, every segment of it whole; at the end it is the log, byte for byte. A broker and
a deployment of its own; the same seed makes the same records and moments. Exit code 1 at the first that is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from headrace_lake.manifest import LakeFolder
from headrace_streams.kafka import admin, compat
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings
from support.lakes import FeederChaos, counts, digest, in_the_lake, on_the_log

EVERY = 5  # kills until the lake is compared with the log, which takes longer than they do


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="chaos.feeder", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="feeders that are killed (default: %(default)s)")
    parser.add_argument("--full", type=int, default=20, help="feeders that find the disk full (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    compat.install()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-feeder-") as scratch, LocalKafka(Path(scratch) / "kafka") as kafka:
        settings = Settings(bootstrap=kafka.bootstrap, deployment="feeder", partitions=2)
        asyncio.run(admin.declare(settings))
        folder = LakeFolder(Path(scratch) / "lake")
        full = 0
        with closing(FeederChaos(settings, folder, Path(scratch), given.seed)) as chaos:
            for number in range(given.kills):
                chaos.grow()
                chaos.kill()
                if number * given.full // given.kills != (number + 1) * given.full // given.kills:
                    full += bool(chaos.fill_the_disk())
                if number % EVERY == 0 and not chaos.is_a_prefix(on_the_log(settings)):
                    print(f"seed {given.seed}, kill {number}: the lake is no prefix of the log", file=sys.stderr)
                    return 1
            chaos.catch_up()
        log, lake = on_the_log(settings), in_the_lake(folder)
        for topic, count in counts(log).items():
            print(f"{topic:18} {count:>8} on the log, {counts(lake)[topic]:>8} in the lake")
        files = {path.name for path in folder.segments.iterdir()}
        named = {segment.file for segment in folder.load().segments}
        took = f"{time.monotonic() - began:.0f} s"
        print(f"seed {given.seed}: {given.kills} kills, {full} full disks, {took}; files that nothing names: {files - named}")
        print(f"log  {digest(log)}\nlake {digest(lake)}")
        return 0 if lake == log and files == named else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
