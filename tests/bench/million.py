"""A million events in the lake: real corpora, looped with new ids, or made up where there are none; each figure once.

    python tests/bench/million.py --folder DIR [--data CORPORA] [--records 1000000]

The broker's data, the lake and the results (results.jsonl) lie in DIR: a run that was cut off goes on, and a figure that is
there is not measured again. Records are in the form that stages write (bench_lake.py); the baseline, confluent-kafka and orjson
over the same topics, runs before and after the feeder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))

from bench import bench_lake, load
from bench.bench_stages import load_average
from headrace_streams.kafka import compat
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings
from headrace_streams.testing import event
from real import corpora
from support import jsonl

Pairs = Callable[[int, int], Iterator[load.Pair]]


def looped(data: Path) -> Pairs:
    """Pairs of the corpora in `data`, one corpus after the other, from the first again when all were given."""
    rows: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for name, path in corpora.corpora(data).items():
        asked: dict[str, dict[str, Any]] = {}
        for said in corpora.said(name, path):
            fields = {**said.fields, "agent": {"name": name}} if said.kind == "interaction" else said.fields
            if said.kind == "interaction":
                asked[fields["interaction_id"]] = fields
            elif fields["interaction_id"] in asked:
                rows.append((asked[fields["interaction_id"]], fields))

    def pairs(count: int, first: int) -> Iterator[load.Pair]:
        for number in range(first, first + count):
            interaction, feedback = rows[number % len(rows)]
            name = {"interaction_id": f"i{number}"}
            yield load.Pair(
                number,
                event("headrace.interaction.recorded.v1", interaction | name, id=f"i{number}", time=bench_lake.TIME),
                event("headrace.feedback.recorded.v1", feedback | name | {"feedback_id": f"f{number}"}, id=f"f{number}"),
            )

    return pairs


class Results:
    """What was measured, a line each."""

    def __init__(self, path: Path, records: int) -> None:
        self._path, self._records = path, records
        self._known = {row["name"]: row for row in jsonl.read(path) if row["records"] == records}

    def timed(self, name: str, *command: str, before: Callable[[], None] = lambda: None, **more: Callable[[], float]) -> None:
        """Runs `command` unless that was done; `more`: further figures, asked for behind it."""
        if name not in self._known:
            before()
            load_before = load_average()
            seconds, cpu, memory, out = bench_lake.timed(*command)
            row = {
                "name": name,
                "records": self._records,
                "seconds": seconds,
                "cpu": cpu,
                "memory_mib": memory,
                "load": load_before,
            }
            self._known[name] = row | {key: value() for key, value in more.items()} | {"out": out[-200:]}
            jsonl.add(self._path, self._known[name])

    def table(self) -> Iterator[str]:
        yield "| what | s | CPU s | records/s | MiB at most | more |"
        yield "|---|---:|---:|---:|---:|---|"
        for row in self._known.values():
            more = {key: round(value, 1) for key, value in row.items() if key.endswith("_size")}
            rate = self._records / row["seconds"]
            yield (
                f"| {row['name']} | {row['seconds']:.1f} | {row['cpu']:.1f} | {rate:.0f} | {row['memory_mib']:.0f} | "
                f"{row['load']}{''.join(f', {key} {value} MiB' for key, value in more.items())} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where everything lies; a run that was cut off goes on there")
    parser.add_argument("--data", type=Path, help="folder of corpora (NAME.jsonl.gz); without it texts are made up")
    parser.add_argument("--records", type=int, default=1_000_000, help="records of the log (default: %(default)s)")
    given = parser.parse_args()
    compat.install()
    given.folder.mkdir(parents=True, exist_ok=True)
    lake, kafka_data = given.folder / "lake", given.folder / "kafka"
    with LocalKafka(kafka_data) as kafka:
        settings = Settings(bootstrap=kafka.bootstrap, deployment="lake", partitions=bench_lake.PARTITIONS)
        pairs = load.pairs if given.data is None else looped(given.data)
        made = asyncio.run(bench_lake.fill(settings, given.records, pairs))
        records = sum(made.offsets.values())
        results = Results(given.folder / "results.jsonl", records)
        where = ["--lake", str(lake), "--bootstrap", kafka.bootstrap, "--deployment", "lake"]
        baseline = bench_lake.baseline_of(kafka.bootstrap)
        results.timed("confluent-kafka and orjson", *baseline)
        results.timed(
            "lake follow", *bench_lake.HEADRACE, "lake", "follow", "--once", "--json", *where,
            before=lambda: shutil.rmtree(lake, ignore_errors=True),
            lake_size=lambda: bench_lake.size_of(lake), log_size=lambda: bench_lake.log_size(kafka_data),
        )  # fmt: skip
        results.timed("confluent-kafka and orjson, once more", *baseline)
        held = json.loads((lake / "manifest.json").read_text())
        assert sum(segment["records"] for segment in held["segments"]) == records
        results.timed("lake compact", *bench_lake.HEADRACE, "lake", "compact", *where)
        for name, command in bench_lake.asked(made, str(given.folder / "out")).items():
            results.timed(name, *bench_lake.HEADRACE, *command, *where)
        print(f"{records} records")
        print("\n".join(results.table()))


if __name__ == "__main__":
    main()
