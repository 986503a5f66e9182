"""Who really served: an answer against what was served when it was given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace_lake.learning_state import learning_state
from headrace_lake.query import opened
from headrace_lake.served_then import ServedAnswer, answered_by
from headrace_schemas.times import rfc3339
from headrace_streams.testing import written_headers
from support.memory_log import MemoryLog
from support.memory_ring import lake_of
from support.signals import event, interaction

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
BUCKET = "sql/tiny"
HOUR_MS = 3_600_000


def found(folder: Path, minutes: float, **more: Any) -> ServedAnswer | None:
    """A is served from hour 0 on and B from hour 1 on; an answer comes so many minutes behind that."""
    log = MemoryLog()
    begin = log.time
    for number, (adapter, at_ms) in enumerate([(A, begin), (B, begin + HOUR_MS)], 1):
        log.time = at_ms
        data = {"release_id": f"r{number}", "sequence": number, "bucket": BUCKET, "adapter": {"digest": adapter}}
        log.append("releases.history", 0, BUCKET.encode(), event("release.promoted", data), written_headers("releases.history"))
    log.time = begin + HOUR_MS + round(minutes * 60_000)
    value = {**json.loads(interaction("i1", **more)), "time": rfc3339(log.time)}
    log.append("signals", 0, b"i1", json.dumps(value).encode(), written_headers("signals"))
    with opened(lake_of(log, folder / "lake"), seconds=60) as lake:
        assert learning_state(lake, "i1").answered == answered_by(lake, "i1")
        assert answered_by(lake, "nobody") is None
        return answered_by(lake, "i1")


@pytest.mark.parametrize(
    ("minutes", "more", "matches"),
    [
        (30, {"adapter": B}, True),
        (30, {"adapter": B, "release_id": "r2"}, True),
        (30, {"adapter": B, "release_id": "r1"}, False),
        (9, {"adapter": A}, True),  # it may not have heard of it yet
        (30, {"adapter": A}, False),
        (30, {}, False),  # by the base
        (-5, {"adapter": A}, True),
        (-90, {}, True),  # nothing was served
        (-90, {"adapter": A}, False),
        (30, {"adapter": A, "model": "teacher"}, False),  # the base of another bucket, where nothing was released
        (30, {"adapter": A, "experiment": {"id": "e", "arm": "a", "propensity": 0.5}}, None),
    ],
)
def test_an_answer_is_held_against_what_was_served_when_it_was_given(
    tmp_path: Path, minutes: float, more: dict[str, Any], matches: bool | None
) -> None:
    answer = found(tmp_path, minutes, **more)
    assert answer is not None
    assert (answer.served is None) == (more.get("model") == "teacher" or minutes < -60)
    assert (answer.matches, answer.adapter) == (matches, more.get("adapter")), answer
    assert answer.note
