"""What `headrace replay --verify` ends with where there is nothing to compare, or nothing that this code can compare."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import structs

from headrace_cli.main import invoke
from headrace_processors.stages import STAGES
from headrace_streams.runtime.stage import FoldStage
from headrace_streams.testing import written_headers
from support.memory_log import MemoryLog

[LINK] = [stage for stage in STAGES if stage.name == "link"]
Verify = Callable[..., tuple[int, str]]


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verify:
    """Exit code and standard error of the command over a log in memory, by code that has these stages."""

    def run(log: MemoryLog, stage: FoldStage, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("headrace_lake.kafka_log.KafkaLog", lambda settings: log)
        monkeypatch.setattr("headrace_processors.stages.STAGES", (stage,))
        return invoke(["replay", "--verify", *arguments]), capsys.readouterr().err

    return run


def linked() -> MemoryLog:
    """A log that the newest rules of link wrote."""
    log = MemoryLog()
    log.append("refs", 0, b"k", b"{}", written_headers("refs"))
    log.run(LINK, LINK.policy().body())
    return log


def test_a_deployment_where_nothing_ever_ran_is_a_no(verify: Verify) -> None:
    code, error = verify(MemoryLog(), LINK)
    assert (code, "no stage has ever run here" in error, error.count("\n")) == (1, True, 1)


def test_what_can_not_be_compared_is_a_no_unless_it_is_accepted(verify: Verify) -> None:
    assert verify(linked(), LINK) == (0, "")
    older = structs.replace(LINK, versions={1: LINK.versions[1]})
    code, error = verify(linked(), older)
    assert (code, error.count("\n")) == (1, 1)
    assert "1 records can't be compared by this code" in error
    assert f"rule version {max(LINK.versions)} is not known" in error
    assert verify(linked(), older, "--allow-not-comparable") == (0, error)
