"""`headrace whatif` over a lake: a table, JSON, and one line for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace_cli.main import invoke
from headrace_processors import policy_file
from support.memory_ring import MemoryRing, lake_of

Run = Callable[..., tuple[int, str, str]]
RECORDED = """
[curate]
target_effective_size = 6
fresh_share = 0
[reward]
bonus = { success = 0.3 }
[release]
rule = "gate"
"""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lakes")
    (folder / "recorded.toml").write_text(RECORDED)
    ring = MemoryRing(4)
    ring.bodies = policy_file.load(folder / "recorded.toml").bodies()
    for _ in range(3):
        ring.round(25)
    return lake_of(ring.log, folder / "lake").path


@pytest.fixture
def whatif(lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(policy: str, *arguments: str) -> tuple[int, str, str]:
        (tmp_path / "new.toml").write_text(policy)
        return invoke(["whatif", "--lake", str(lake), "--policy", str(tmp_path / "new.toml"), *arguments]), *capsys.readouterr()

    return run


def test_the_recorded_policy_flips_nothing(whatif: Run) -> None:
    code, out, error = whatif(RECORDED)
    assert (code, error) == (0, "")
    assert "no key of reward, curate or release differs" in out
    assert "examples   0 of " in out
    assert json.loads(whatif(RECORDED, "--json")[1])["flips"] == 0


def test_what_flips_is_told_with_the_keys_and_the_terms(whatif: Run) -> None:
    policy = RECORDED.replace("success = 0.3", "success = -2.0").replace("[release]", "[release]\nmin_test_rows = 10000")
    code, out, error = whatif(policy, "--top", "3")
    assert (code, error) == (0, "")
    for text in (
        "reward.bonus.success  0.3 -> -2",
        "release.min_test_rows  30 -> 10000",
        "feedback 0.3 -> -2",
        "learnt                           -> ",
        "change sign",
        "promoted                         -> declined: insufficient_evidence",
        "sql/tiny",
    ):
        assert text in out
    told = json.loads(whatif(policy, "--json", "--bucket", "sql/tiny")[1])
    assert told["from"].startswith("the lake up to ")
    assert told["rewards"]["lower"] > 10
    assert told["rewards"]["largest"][0]["before"]["components"]["feedback"] == 0.3
    assert {"before", "after", "examples"} == set(told["examples"]["flows"][0])
    assert told["batches"][0]["before"]["mean_fill_seconds"] is not None
    assert told["flips"] > told["rewards"]["lower"]


def test_two_files_are_compared_with_each_other(whatif: Run, tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text("[curate]\ntrain_above = 5\n")
    code, out, _ = whatif("[curate]\ntrain_above = 5\n", "--against", str(tmp_path / "old.toml"), "--json")
    assert (code, json.loads(out)["flips"]) == (0, 0)


@pytest.mark.parametrize(
    ("policy", "arguments", "code", "said"),
    [
        ("[reward]\nbonsu = 1\n", (), 2, "reward.bonsu"),
        ("[reward", (), 2, "new.toml"),
        ("[curate]\ntrain_above = 'high'\n", (), 2, "curate.train_above"),
        (RECORDED, ("--against", "missing.toml"), 2, "missing.toml"),
        (RECORDED, ("--since", "yesterday"), 2, "--since 'yesterday' is no RFC 3339 time"),
        (RECORDED, ("--bucket", "sql/nobody"), 1, "bucket 'sql/nobody' has no example under either policy"),
        (RECORDED, ("--from", "log"), 2, "--lake goes with --from lake"),
    ],
)
def test_what_is_wrong_is_one_line(whatif: Run, policy: str, arguments: tuple[str, ...], code: int, said: str) -> None:
    found, out, error = whatif(policy, *arguments)
    assert (found, out, error.count("\n")) == (code, "", 1)
    assert said in error


def test_without_a_lake_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.toml").write_text("")
    code = invoke(["whatif", "--lake", str(tmp_path / "none"), "--policy", str(tmp_path / "new.toml")])
    out, error = capsys.readouterr()
    assert (code, out, error.count("\n"), "there is no lake" in error) == (1, "", 1, True)
