"""The runner for several seeds goes on from its results, and its table has every column of every row."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import demo_seeds


def end(seed: int) -> dict[str, Any]:
    def row(release: int, adapter: str | None, known: float, *, control: bool = False) -> dict[str, Any]:
        exam = {"known wordings": {"success": known}, "new wordings": {"success": known / 2}}
        return {
            "bucket": "sql/tiny-sql", "release": release, "adapter": adapter, "seconds": 90.0, "exam": exam, "control": control,
        }  # fmt: skip

    rows = [row(0, None, 0.05), row(1, "sha256:a", 0.6), row(1, None, 0.01, control=True)]
    docs = {"bucket": "docs/tiny-sql", "release": 0, "adapter": None, "seconds": 0.0, "control": False}
    rows.append({**docs, "exam": {"descriptions": {"success": 0.25}}})
    return {"seed": seed, "releases": rows, "done": seed != 42, "seconds": 300.0, "load": [1.0, 2.5]}


def test_a_seed_that_is_in_the_results_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[int] = []

    def demo(seed: int, data_dir: Path, arguments: list[str], most_minutes: float) -> dict[str, Any]:
        assert (data_dir, arguments, most_minutes) == (tmp_path, ["--minutes", "20"], 60.0)
        ran.append(seed)
        return end(seed)

    monkeypatch.setattr(demo_seeds, "demo", demo)
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps(end(41)) + "\n")
    given = ["--seeds", "41", "42", "--results", str(results), "--data-dir", str(tmp_path), "--", "--minutes", "20"]
    for _ in range(2):
        assert demo_seeds.main(given) == 0
    assert ran == [42]
    shown = capsys.readouterr().out
    assert "| 41 | sql/tiny-sql | base |  | 5.0% | 2.5% |  |" in shown
    assert "| 41 | sql/tiny-sql | 1 | 1.5 min | 60.0% | 30.0% |  |" in shown
    assert "| 41 | sql/tiny-sql | control |  | 1.0% | 0.5% |  |" in shown
    assert "| 41 | docs/tiny-sql | base |  |  |  | 25.0% |" in shown
    assert "Seed 42: 5.0 minutes in all, not done; load of the machine 1.0 before and 2.5 after." in shown


def test_a_seed_that_fails_is_told_the_others_run_and_the_next_run_tries_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One demo breaks, one has no end."""
    broken = [sys.executable, "-c", "raise SystemExit(3)"]
    endless = [sys.executable, "-c", "print('{}', flush=True); import time; time.sleep(600)"]
    told = {key: value for key, value in end(43).items() if key != "seed"}
    whole = [sys.executable, "-c", f"print({json.dumps(json.dumps(told))})"]
    results = tmp_path / "results.jsonl"
    given = ["--results", str(results), "--data-dir", str(tmp_path)]
    for seed, command, minutes in ((41, broken, "1"), (42, endless, "0.01"), (43, whole, "1")):
        monkeypatch.setattr(demo_seeds, "COMMAND", (*command,))
        code = demo_seeds.main(["--seeds", str(seed), "--most-minutes", minutes, *given])
        assert code == (0 if seed == 43 else 1)
    shown = capsys.readouterr().err
    assert "seed 41 failed, the next run tries it again" in shown
    assert "seed 42 failed" in shown
    monkeypatch.setattr(demo_seeds, "COMMAND", (*whole,))
    assert demo_seeds.main(["--seeds", "41", "43", *given]) == 0
    assert [json.loads(line)["seed"] for line in results.read_text().splitlines()] == [43, 41]
