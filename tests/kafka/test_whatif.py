"""`headrace whatif` over a real log that workers wrote, read from the broker and from a lake of it: both say the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import headrace as door
from headrace_streams.settings import Settings
from support.ring import Ring

pytestmark = [pytest.mark.kafka, pytest.mark.slow(seconds=30), pytest.mark.timeout(300)]

PAIRS = 60
NEW = "[reward]\nbonus = { success = -2.0 }\n[curate]\nmin_chars = 9\n"

Run = Callable[..., tuple[int, str, str]]


def test_a_recorded_log_flips_nothing_under_its_own_policy_and_what_another_one_changes(
    headrace: Run, settings: Settings, tmp_path: Path
) -> None:
    with Ring(settings, tmp_path / "ring") as ring:
        ring.start("worker")
        with door.Recorder(settings.bootstrap, deployment=settings.deployment, agent="bot") as recorder:
            for number in range(PAIRS):
                call = recorder.interaction(
                    artifact_type="sql", model="m", prompt=f"question {number}", output=f"select {number}"
                )
                recorder.feedback(call, kind="success", score=100)
        ring.wait(published=2 * PAIRS)
        policy = Path(ring.environment["HEADRACE_POLICY"]) if "HEADRACE_POLICY" in ring.environment else None
    (tmp_path / "same.toml").write_text("" if policy is None else policy.read_text())
    (tmp_path / "new.toml").write_text(NEW)
    lake = str(tmp_path / "lake")
    assert headrace("lake", "follow", "--once", "--lake", lake)[0] == 0

    def tried(policy: str, *source: str) -> dict[str, Any]:
        code, out, error = headrace("whatif", "--json", "--policy", str(tmp_path / policy), *source)
        assert code == 0, error
        found: dict[str, Any] = json.loads(out)
        return {name: value for name, value in found.items() if name != "from"}

    for source in (("--from", "log"), ("--lake", lake)):
        assert tried("same.toml", *source)["flips"] == 0
    from_log, from_lake = tried("new.toml", "--from", "log"), tried("new.toml", "--lake", lake)
    assert from_log == from_lake
    assert (from_log["rewards"]["before"], from_log["rewards"]["lower"]) == (PAIRS, PAIRS)
    assert from_log["examples"]["examples"] == PAIRS
    assert from_log["rewards"]["largest"][0]["texts"]["output"].startswith("select")
