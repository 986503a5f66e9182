"""Data sets of every corpus in five forms, opened by those that people open them with; lineage of random rows, both ways.

    python tests/real/formats.py --data FOLDER --results FILE [--only NAME …] [--rows 200]

Each corpus goes through intake, link, reward, curate and release in memory (a stand-in trains), and its lake is made of that log.
Of the last release of each bucket all forms are written; DuckDB and, where installed, `datasets`, pandas and TRL (`pip install
trl datasets pandas`; no requirement) open them, TRL by its trainers for chat, dpo and kto over a tiny model. The digest of what
was selected must be the one that version and release name. A corpus that is in the results is not run again. Exit code 1 for a
fault.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

sys.path.append(str(Path(__file__).parent.parent))

from headrace_lake import dataset_files
from headrace_lake.dataset import Selected, release_examples, rows_digest, rows_of
from headrace_lake.lake_log import LakeLog
from headrace_lake.manifest import LakeFolder
from headrace_lake.query import opened
from headrace_processors import policy_file
from headrace_schemas.codec import decode
from headrace_schemas.derived import ReleaseDecision
from headrace_schemas.events import ModelVersionCreated, ReleasePromoted
from real import corpora
from support import jsonl
from support.lineage_check import check_rows
from support.memory_ring import MemoryRing, lake_of

POLICY = '[[reward.bases]]\nbase = "tiny"\n[train.bases.tiny]\nweights = "tiny"\n[release]\nrule = "gate"\n'
TURNS = 4  # in which a corpus comes: what is trained meanwhile is served to what follows
ALONGSIDE = 32  # rows that a trainer of TRL gets, the shortest
TOKENS = 4096  # that it keeps of a row: of a longer prompt it would drop the row


def ring_of(name: str, path: Path) -> MemoryRing:
    """A corpus through all stages, in memory."""
    ring = MemoryRing(1)
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as policy:
        policy.write(POLICY)
        policy.flush()
        ring.bodies = policy_file.load(Path(policy.name)).bodies()
    said = list(corpora.said(name, path))
    for number, line in enumerate(said):
        ring.publish(*corpora.published(line._replace(time=None), f"{name}-{number}", agent=name))
        if (number + 1) % (len(said) // TURNS + 1) == 0:
            ring.turn()
    ring.turn()
    return ring


def named(ring: MemoryRing) -> Iterator[tuple[ReleaseDecision, str | None]]:
    """Of each bucket the last release, and the digest that its version names."""
    versions: dict[str, str | None] = {}
    last: dict[str, ReleaseDecision] = {}
    for topic in ("versions", "releases.history"):
        for partition in range(ring.log.count):
            for record in ring.log.records.get((topic, partition), []):
                told = decode(record.value)
                if isinstance(told, ModelVersionCreated):
                    versions[told.data.version_id] = told.data.dataset_digest
                elif isinstance(told, ReleasePromoted):
                    last[told.data.bucket] = told.data
    for release in last.values():
        yield release, versions[release.version_id or ""]


class Opened(NamedTuple):
    """How many rows each found in a file; a text is why it did not."""

    datasets: int | str
    pandas: int | str
    duckdb: int | str
    trl: int | str


def written(selected: Selected, form: str, out: Path) -> dataset_files.DatasetFile:
    learnt, avoided = selected.learnt, selected.avoided
    if form == "alpaca":
        return dataset_files.write_alpaca(learnt, out)
    if form == "dpo":
        return dataset_files.write_dpo(learnt, avoided, out)
    if form == "kto":
        return dataset_files.write_kto(learnt, avoided, out)
    rows = rows_of(learnt)
    return dataset_files.DatasetFile(dataset_files.write(rows, out, "parquet" if form == "parquet" else "chat"), len(rows), {})


def opened_by_all(path: Path, form: str, base: Path) -> Opened:
    kind = "parquet" if path.suffix == ".parquet" else "json"
    return Opened(
        _tried("datasets", lambda: _datasets(path, kind).num_rows),
        _tried("pandas", lambda: _pandas(path)),
        _tried("duckdb", lambda: len(duckdb.execute(f"SELECT * FROM read_{kind}('{path}')").fetchall())),
        _tried("trl", lambda: _trl(path, form, base)) if form in ("chat", "dpo", "kto") else "-",
    )


def _tried(module: str, count: Callable[[], int]) -> int | str:
    if importlib.util.find_spec(module) is None:
        return "not installed"
    try:
        return count()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _datasets(path: Path, kind: str) -> Any:
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        found = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=cache, keep_in_memory=True)
        found.to_list()  # every row, read
        return found


def _pandas(path: Path) -> int:
    import pandas  # type: ignore[import-untyped]

    return len(pandas.read_parquet(path) if path.suffix == ".parquet" else pandas.read_json(path, lines=True))


def _trl(path: Path, form: str, base: Path) -> int:
    """As a trainer of TRL prepares it, and one step's loss over what it makes of it."""
    import transformers
    import trl

    transformers.logging.set_verbosity_error()
    whole = _datasets(path, "json")
    lengths = [len(str(row)) for row in whole]
    rows = whole.select(sorted(sorted(range(whole.num_rows), key=lengths.__getitem__)[:ALONGSIDE]))
    with tempfile.TemporaryDirectory() as out:
        common: dict[str, Any] = {
            "output_dir": out, "per_device_train_batch_size": 2, "max_steps": 1, "report_to": "none", "use_cpu": True,
            "bf16": False, "gradient_checkpointing": False, "max_length": TOKENS, "save_strategy": "no", "disable_tqdm": True,
        }  # fmt: skip
        if form == "chat":
            trainer: Any = trl.SFTTrainer(model=str(base), args=trl.SFTConfig(**common), train_dataset=rows)
        elif form == "dpo":
            trainer = trl.DPOTrainer(model=str(base), args=trl.DPOConfig(**common), train_dataset=rows)
        else:
            tokenizer = transformers.AutoTokenizer.from_pretrained(base)
            model = transformers.AutoModelForCausalLM.from_pretrained(base)
            trainer = trl.KTOTrainer(model=model, args=trl.KTOConfig(**common), train_dataset=rows, processing_class=tokenizer)
        trainer.train()
        prepared: int = trainer.train_dataset.num_rows
    return prepared


def one(name: str, path: Path, rows: int, base: Path) -> dict[str, Any]:
    began = time.process_time()
    ring = ring_of(name, path)
    with tempfile.TemporaryDirectory() as scratch:
        folder = lake_of(ring.log, Path(scratch) / "lake", rows=5000)
        buckets = [asyncio.run(_bucket(folder, release, taught, Path(scratch), base)) for release, taught in named(ring)]
        with opened(folder, seconds=600) as lake:
            checked = check_rows(ring.log, lake, rows, seed=1)
    return {"corpus": name, "buckets": buckets, "lineage": checked._asdict(), "cpu": round(time.process_time() - began, 1)}


async def _bucket(folder: LakeFolder, release: ReleaseDecision, taught: str | None, scratch: Path, base: Path) -> dict[str, Any]:
    with folder.open() as manifest:
        selected = await release_examples(LakeLog(folder, manifest), release.bucket, release.release_id)
    forms: dict[str, Any] = {}
    for form in ("chat", "alpaca", "dpo", "kto", "parquet"):
        file = written(selected, form, scratch / "sets" / release.release_id / form)
        seen = opened_by_all(file.path, form, base) if file.rows else Opened("-", "-", "-", "-")
        forms[form] = {"rows": file.rows, "left_out": file.left_out, **seen._asdict()}
    return {
        "bucket": release.bucket,
        "forms": forms,
        "rows_digest": rows_digest(rows_of(selected.learnt)),
        "members": selected.members,
        "equal": selected.members == taught == release.dataset_digest,
    }


def faults_of(row: dict[str, Any]) -> list[str]:
    found = [f"{row['corpus']}: {fault}" for fault in row["lineage"]["faults"]]
    for bucket in row["buckets"]:
        where = f"{row['corpus']} {bucket['bucket']}"
        if not bucket["equal"]:
            found.append(f"{where}: the digest is not the one that version and release name")
        for form, seen in bucket["forms"].items():
            for reader in Opened._fields:
                wanted = min(seen["rows"], ALONGSIDE) if reader == "trl" else seen["rows"]
                if seen[reader] not in (wanted, "-", "not installed"):
                    found.append(f"{where} {form}: {reader}: {seen[reader]} of {wanted} rows")
    return found


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| corpus | bucket | form | rows | left out | datasets | pandas | DuckDB | TRL | digest as named |"
    yield "|---|---|---|---:|---:|---:|---:|---:|---:|---|"
    for row in rows:
        for bucket in row["buckets"]:
            for form, seen in bucket["forms"].items():
                counts = " | ".join(str(seen[reader]) for reader in Opened._fields)
                left = sum(seen["left_out"].values())
                equal = "yes" if bucket["equal"] else "NO"
                yield f"| {row['corpus']} | {bucket['bucket']} | {form} | {seen['rows']} | {left} | {counts} | {equal} |"
    yield ""
    for row in rows:
        seen = row["lineage"]
        yield (
            f"{row['corpus']}: {seen['rows']} rows of releases, {seen['published']} published records below them, "
            f"{seen['releases']} releases above these, {len(seen['faults'])} faults"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of corpora (NAME.jsonl.gz)")
    parser.add_argument("--results", type=Path, required=True, help="file of results, a line each, that a later run goes on from")
    parser.add_argument("--only", nargs="*", default=[], help="these corpora")
    parser.add_argument("--rows", type=int, default=200, help="rows of which lineage is checked, all corpora together")
    given = parser.parse_args()
    from support import tiny

    paths = {name: path for name, path in corpora.corpora(given.data).items() if not given.only or name in given.only}
    with tempfile.TemporaryDirectory() as folder:
        base = tiny.build(Path(folder))
        for name, path in paths.items():
            if name not in {row["corpus"] for row in jsonl.read(given.results)}:
                jsonl.add(given.results, one(name, path, -(-given.rows // len(paths)), base))
    rows = [row for row in jsonl.read(given.results) if row["corpus"] in paths]
    print("\n".join(table(rows)))
    faults = [fault for row in rows for fault in faults_of(row)]
    print("\n".join(faults), file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
