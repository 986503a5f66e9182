"""What a trainer that was killed leaves on its machine goes when nobody has written to it for a day."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from headrace_trainer.stage.run_folders import KEPT_SECONDS, RunFolders


def folder(place: Path, kind: str, name: str, *, age: float) -> Path:
    made = place / kind / name
    made.mkdir(parents=True)
    for file in ("samples.parquet", "lock"):
        (made / file).write_bytes(b"marked-text" if file != "lock" else b"")
    for path in (*made.iterdir(), made):
        os.utime(path, (time.time() - age,) * 2)
    return made


def test_what_nobody_goes_on_with_goes_after_a_day_and_what_is_at_work_stays(tmp_path: Path) -> None:
    old, new = 2 * KEPT_SECONDS, KEPT_SECONDS / 2
    kept, gone = folder(tmp_path, "runs", "kept", age=old), folder(tmp_path, "runs", "gone", age=old)
    young, other = folder(tmp_path, "runs", "young", age=new), folder(tmp_path, "by-hand", "other", age=old)
    at_work = folder(tmp_path, "runs", "work", age=old)
    folders = RunFolders(tmp_path, first_seconds=0.0)
    assert RunFolders(tmp_path).sweep("train/batches/0", []) == [], "not before all tasks have begun"
    with (at_work / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert folders.sweep("train/batches/0", ["kept"]) == ["gone", "other"]
    assert [path.exists() for path in (kept, young, at_work, gone, other)] == [True, True, True, False, False]
    assert folders.sweep("train/batches/0", []) == [], "once an hour"


def test_a_folder_that_another_process_works_in_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two trainers on one machine; what is listed may be gone when it is looked at."""
    busy = folder(tmp_path, "runs", "busy", age=2 * KEPT_SECONDS)
    monkeypatch.setattr(Path, "rglob", lambda run, _: iter([run / "checkpoint.writing"]))
    assert RunFolders(tmp_path, first_seconds=0.0).sweep("train/batches/0", []) == []
    assert busy.exists()
