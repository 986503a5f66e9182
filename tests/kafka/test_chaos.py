"""A short schedule of the chaos rig on the real thing, and what must be right about the rig for its reports to mean something."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from chaos import rig
from chaos.__main__ import main, show
from chaos.faults import KINDS, schedule
from chaos.proxy import Proxy


@pytest.mark.kafka
@pytest.mark.slow(seconds=45)
def test_nothing_is_lost_or_doubled_under_a_short_schedule(tmp_path: Path) -> None:
    outcome = rig.run(9, ["broker-killed", "worker-killed", "connections-cut"], 3, tmp_path)
    assert {fault["kind"] for fault in outcome.faults} == {"broker-killed", "worker-killed", "connections-cut"}
    assert all(fault["recovered"] is not None for fault in outcome.faults)
    assert (outcome.round["lost"], outcome.round["doubled"], outcome.round["verify"]) == (0, 0, 0)
    assert outcome.round["records"] > 0


def test_a_seed_is_a_schedule() -> None:
    kinds = list(KINDS)
    assert schedule(5, kinds, 50) == schedule(5, kinds, 50) != schedule(6, kinds, 50)
    assert {fault.kind for fault in schedule(5, kinds, 200)} == set(KINDS)


def test_reports_merge_and_a_seed_that_is_there_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def run(seed: int, kinds: list[str], faults: int, folder: Path) -> rig.Outcome:
        asked.append(seed)
        found = [{"seed": seed, "number": 0, "kind": "rebalance", "took": 1.0, "recovered": float(seed)}]
        whole = {"seed": seed, "faults": 1, "records": 10, "lost": 0, "doubled": int(seed == 3), "verify": 0, "seconds": 1.0}
        return rig.Outcome(found, whole)

    monkeypatch.setattr(rig, "run", run)
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    assert main(["--seeds", "1-2", "--report", str(one)]) == 0
    one.write_text(
        one.read_text() + json.dumps({"seed": 9, "number": 0, "kind": "rebalance", "took": 1.0, "recovered": 1.0}) + "\n"
    )
    assert main(["--seeds", "2-3", "--report", str(two)]) == 1, "something was doubled"
    assert main(["--seeds", "1-2", "--report", str(one), "--merge", str(two)]) == 1
    assert asked == [1, 2, 2, 3]
    last = capsys.readouterr().out.strip().splitlines()[-2:]
    assert last[0].split() == ["rebalance", "3", "2.0", "3.0", "0"]
    assert last[1].startswith("3 faults, 30 records acknowledged, lost 0, doubled 1"), "seed 9 did not come to its end"


def test_a_fault_without_recovery_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    whole = {"seed": 1, "faults": 1, "records": 10, "lost": 0, "doubled": 0, "verify": 0, "seconds": 1.0}
    assert show([{"seed": 1, "number": 0, "kind": "disk-full", "took": 1.0, "recovered": None}, whole]) == 1
    assert capsys.readouterr().out.splitlines()[1].split() == ["disk-full", "1", "nan", "nan", "1"]


def test_the_proxy_cuts_swallows_and_goes_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        proxy = Proxy(server.getsockname()[1])
        proxy.start()
        try:
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
                there, _ = server.accept()
                with there:
                    client.sendall(b"a")
                    assert there.recv(1) == b"a"
                    proxy.swallow(True)
                    client.sendall(b"b")
                    there.settimeout(0.3)
                    with pytest.raises(TimeoutError):
                        there.recv(1)
                    there.settimeout(10)
                    proxy.swallow(False)
                    assert there.recv(1) == b"b"
                    proxy.cut()
                    with pytest.raises(ConnectionResetError):
                        client.recv(1)
        finally:
            proxy.stop()
