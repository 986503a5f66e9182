"""`make bench`: what was measured is kept and shown, what failed is tried again by the next run, and holds up nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench.__main__ as runner

COUNTS = "import pathlib, sys; file = pathlib.Path(__file__ + '.runs'); file.open('a').write('.'); "


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bench_good.py").write_text(COUNTS + "print('a figure', sys.argv[1:])")
    (tmp_path / "bench_bad.py").write_text(COUNTS + "sys.exit(3)")
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    monkeypatch.setattr(runner, "BENCHES", ["bad", "good"])
    monkeypatch.setattr(runner, "QUICK", {"good": ("--count", "7")})
    return tmp_path


def test_a_run_goes_on_where_one_before_it_ended(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = ["--report", str(folder / "bench.jsonl")]
    assert runner.main([*report, "--quick", "--runs", "2"]) == 1
    assert runner.main([*report, "--quick", "--runs", "2"]) == 1
    out, err = capfd.readouterr()
    assert out.count("a figure ['--runs', '2', '--count', '7']") == 2
    assert err.count("failed: bad") == 2
    assert [len((folder / f"bench_{name}.py.runs").read_text()) for name in ("good", "bad")] == [1, 2]
    assert runner.main([*report, "--only", "good"]) == 0, "with other arguments it is another measurement"
    assert len((folder / "bench_good.py.runs").read_text()) == 2


def test_an_unknown_name_is_said_with_those_that_there_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        runner.main(["--only", "god"])
    assert "--only god: there are bad, good" in capsys.readouterr().err
