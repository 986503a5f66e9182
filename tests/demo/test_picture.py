"""What the demo shows: a fold over events, and how it looks."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import structs
from rich.console import Console

from headrace_demo.run.policy import MAIN, OTHER, targets
from headrace_demo.show.picture import Control, Exam, Picture, gate_of, verdict_of, worse
from headrace_demo.show.view import Json, Lines, dashboard, sparkline, summary, summary_tables
from headrace_schemas import derived
from headrace_schemas.codec import decode
from headrace_schemas.events import Event
from headrace_schemas.splits import split_of

DIGEST = "sha256:" + "a" * 64
PAPERS = {
    MAIN: {f"question {number}": "known" if number < 10 else "new" for number in range(20)},
    OTHER: {f"select {number}": "described" for number in range(5)},
}


def new_picture() -> Picture:
    return Picture(MAIN, targets(), PAPERS)


def event(kind: str, data: dict[str, Any]) -> Event:
    value = {"specversion": "1.0", "id": "1", "source": "test", "time": "2026-11-21T10:00:00Z", "type": kind, "data": data}
    return decode(json.dumps(value).encode())


def example(
    number: int,
    *,
    right: bool | None = True,
    train: bool = True,
    adapter: str | None = None,
    revision: int = 1,
    bucket: str = MAIN,
    prompt: str | None = None,
) -> Event:
    data = {
        "example_id": f"e{number}", "revision": revision, "interaction_id": f"i{number}", "bucket": bucket,
        "artifact_type": bucket.partition("/")[0], "model": "tiny-sql", "agent": {"name": "sql-bot"},
        "prompt_group": f"g{number}", "quality": 0.5, "reward": 0.5,
        "content": {"prompt": prompt or f"question {number}", "output": "select 1", "target": "select 1"},
        "components": {"validation": 0.5, "feedback": 0.3, "difficulty": 0.2, "multiplier": 1.3}, "weights": {"balance": 1.0},
        "contradicted": False, "voices": 1, "event_time": "2026-11-21T10:00:00Z", "train": train,
    }  # fmt: skip
    if right is not None:
        data["score"] = 100.0 if right else 0.0
    if adapter is not None:
        data["adapter"] = adapter
    return event("headrace.example.rewarded.v1", data)


def promoted(sequence: int = 1, digest: str = DIGEST, bucket: str = MAIN) -> Event:
    adapter = {"digest": digest, "uri": "file:///x", "format": "peft", "size_bytes": 1, "files": []}
    data = {
        "release_id": f"r{sequence}", "sequence": sequence, "bucket": bucket, "artifact_type": bucket.partition("/")[0],
        "base": "tiny-sql",
        "adapter": adapter, "batch_ids": ["b1"], "reason": "gate", "policy_digests": {}, "request_id": "q", "evaluation_id": "v",
    }  # fmt: skip
    return event("headrace.release.promoted.v1", data)


def test_the_gate_is_shown_by_the_evidence_of_the_version_that_was_promoted() -> None:
    def head(version: str, **told: Any) -> derived.HeadEvidence:
        figures = {"measure": "success", "mean": 0.214, "groups": 33, "looks": 2, "capital": 4.51, "needed": 3.69, **told}
        return cast(derived.HeadEvidence, SimpleNamespace(version_id=version, **figures))

    release = promoted().data
    assert isinstance(release, derived.ReleaseDecision)
    assert gate_of(release) == "gate"
    judged = structs.replace(release, version_id="v2", evidence=[head("v1", mean=0.0), head("v2")])
    assert gate_of(judged) == "success gain 0.21 on 33 groups in 2 looks, evidence 4.5 of 3.7 nats"
    once = structs.replace(judged, evidence=[head("v2", looks=1)])
    assert "in 1 look, evidence" in gate_of(once)
    waits = structs.replace(once, reason="pending: no_evidence: success gain 0.3077 on 13 groups where our model was corrected")
    assert verdict_of(waits) == f"pending: no_evidence ({gate_of(once)})"
    assert verdict_of(release) == "declined, gate"


def progressed(step: int) -> Event:
    data = {"run_id": "r", "bucket": MAIN, "step": step, "steps": 100, "loss": 0.5, "attempt": 1}
    return event("headrace.training.progressed.v1", data)


def test_success_of_a_release_is_counted_from_its_exam_under_each_heading() -> None:
    picture = new_picture()
    for number in range(20):
        picture.take(example(number, right=number < 1, train=False), 1.0)
    picture.take(promoted(), 60.0)
    assert not picture.complete(1)
    for number in range(20):
        assert not picture.complete(1)
        picture.take(example(number, right=number < 8 or number > 16, train=False, adapter=DIGEST), 70.0)
        picture.take(example(number, right=number < 8 or number > 16, train=False, adapter=DIGEST, revision=2), 71.0)
    picture.take(example(99, right=True, train=False, adapter=DIGEST), 72.0)  # is on no paper
    assert picture.complete(1)
    assert not picture.complete(2)
    base, first, other = summary(picture)
    assert base["exam"] == {
        "known": {"right": 1, "total": 10, "success": 0.1, "p_worse": None},
        "new": {"right": 0, "total": 10, "success": 0.0, "p_worse": None},
    }
    assert first["exam"] == {
        "known": {"right": 8, "total": 10, "success": 0.8, "p_worse": 1.0},
        "new": {"right": 3, "total": 10, "success": 0.3, "p_worse": 1.0},
    }
    assert (first["seconds"], first["served_seconds"], other["bucket"]) == (60.0, 70.0, OTHER)


def test_each_bucket_has_an_exam_of_its_own_though_both_begin_with_the_same_base() -> None:
    picture = new_picture()
    for number in range(5):
        picture.take(example(number, right=True, train=False), 1.0)
        picture.take(example(100 + number, right=number < 2, train=False, bucket=OTHER, prompt=f"select {number}"), 1.0)
    picture.take(promoted(bucket=OTHER), 60.0)
    main, other, release = summary(picture)
    assert main["exam"]["known"]["right"] == 5
    assert other["exam"] == {"described": {"right": 2, "total": 5, "success": 0.4, "p_worse": None}}
    assert (release["bucket"], release["release"], release["exam"]["described"]["total"]) == (OTHER, 1, 0)
    assert not picture.complete(1)  # releases of the main bucket count


def test_the_control_arm_stands_beside_its_release_and_is_none() -> None:
    picture = new_picture()
    picture.take(promoted(), 60.0)
    picture.take(promoted(2, "sha256:" + "b" * 64), 90.0)
    picture.control = Control(MAIN, 1, {"known": 1, "new": 0}, {"known": 10, "new": 10}, "on shuffled targets")
    rows = [row for row in summary(picture) if row["bucket"] == MAIN]
    assert [(row["release"], row["control"]) for row in rows] == [(0, False), (1, False), (1, True), (2, False)]
    assert rows[2]["exam"]["known"] == {"right": 1, "total": 10, "success": 0.1}
    assert rows[2]["adapter"] is None
    assert len(picture.rows_of(MAIN)) == 3  # it counts for no release
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(summary_tables(picture))
    lines = capture.get().splitlines()
    (shown,) = [line.split() for line in lines if "control" in line]
    assert shown[:3] == ["control", "10.0%", "0.0%"]
    assert max(map(len, lines)) <= 80


def test_a_bucket_fills_with_what_is_learnt_from_and_not_with_the_other_splits() -> None:
    picture = new_picture()
    for number in range(100):
        picture.take(example(number), 1.0)
        picture.take(example(1000 + number, right=False), 1.0)  # a failure that nobody has corrected
        picture.take(example(2000 + number, train=False), 1.0)
    expected = {f"e{number}" for number in range(100) if split_of(MAIN, f"g{number}") == "train"}
    assert picture.open[MAIN] == expected
    assert picture.open[OTHER] == set()


def test_a_rejected_revision_leaves_the_bucket_and_a_later_one_comes_back() -> None:
    picture = new_picture()
    number = next(number for number in range(100) if split_of(MAIN, f"g{number}") == "train")
    data = {"example_id": f"e{number}", "interaction_id": f"i{number}", "bucket": MAIN, "reason": "duplicate", "rule": "content"}
    rejected = event("headrace.example.rejected.v1", {**data, "revision": 1})
    for first, second in ((example(number), rejected), (rejected, example(number))):
        picture.take(first, 1.0)
        picture.take(second, 1.0)
        assert picture.open[MAIN] == set()
    picture.take(example(number, revision=2), 1.0)
    assert picture.open[MAIN] == {f"e{number}"}


def test_a_worse_release_shows_in_the_sign_test() -> None:
    before = Exam({str(number): True for number in range(200)})
    after = Exam({str(number): number >= 10 for number in range(200)})
    assert worse(before, after) < 0.01
    assert worse(after, before) > 0.99
    assert worse(before, before) == 1.0


def test_the_view_renders_at_every_moment() -> None:
    picture = new_picture()
    console = Console(file=io.StringIO(), width=80)

    def shown() -> str:
        with console.capture() as capture:
            console.print(dashboard(picture, 75.0, picture.news))
        return capture.get()

    assert "0 questions answered" in shown()
    for number in range(40):
        picture.take(example(number), 1.0)
    picture.take(progressed(50), 2.0)
    picture.take(promoted(), 60.0)
    picture.take(example(7, train=False, adapter=DIGEST), 61.0)
    text = shown()
    for part in (
        "40",
        "questions answered",
        "step 50/100",
        "promoted",
        "swapped to release 1",
        f"of {targets()[MAIN]:g}",
        "1:15",
        "known",
        "new",
        "described",
    ):
        assert part in text, part


def test_lines_and_json_tell_the_news_once(capsys: pytest.CaptureFixture[str]) -> None:
    picture = new_picture()
    picture.take(promoted(), 60.0)
    said: list[str] = []
    lines = Lines(said.append)
    for _ in range(2):
        lines.draw(picture, 61.0)
    assert said == [f"  1:00  {MAIN}: release 1 is promoted (gate)"]
    screen = Json()
    for _ in range(2):
        screen.draw(picture, 61.0)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"seconds": 60.0, "note": f"{MAIN}: release 1 is promoted (gate)"}


def test_a_sparkline_has_a_block_per_rate() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
