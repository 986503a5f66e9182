"""Whether a record was written by one of those who write to its topic, as its headers say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode
from headrace_schemas.events import RecordRejected
from headrace_schemas.topics import BY_NAME
from headrace_schemas.topology import STAGES_BY_NAME
from headrace_streams.runtime.provenance import (
    ORIGIN,
    Headers,
    Provenance,
    origin,
    origin_without_input,
    provenance_of,
    six_headers,
    writer_of,
)
from headrace_streams.runtime.writers import refusal
from headrace_streams.testing import MemoryTask, event

REWARD = Provenance("reward", "signals", 0, 7, 0)
TRAIN = Provenance("train", "batches", 0, 7, 0)
REQUEST = event("headrace.pause.requested.v1", {"bucket": "sql/m", "reason": "r", "requested_by": "me"})
EVALUATION = event("headrace.evaluation.completed.v1", {})


@pytest.mark.parametrize(
    ("topic", "value", "headers"),
    [
        ("examples", b"{}", origin(REWARD)),
        ("examples", b"{}", six_headers(REWARD)),
        ("examples", b"{}", origin_without_input("curate.tick")),
        ("outcomes", b"{}", origin(TRAIN)),
        ("outcomes", REQUEST, ()),
        ("outcomes", REQUEST, (("content-type", b"application/cloudevents+json"),)),
        ("interactions", b"{}", ()),
        ("interactions", b"{}", origin(REWARD)),
        ("somebody's own", b"{}", ()),
    ],
)
def test_what_its_writers_wrote_is_taken(topic: str, value: bytes, headers: Headers) -> None:
    assert refusal(topic, value, headers) is None


STAGE = st.sampled_from([b"reward", b"curate", b"train", b"operator", b""])
SOURCE = st.sampled_from([b"signals", b"batches", b"\xff", b""])
NUMBER = st.sampled_from([b"0", b"17", b"+1", b"1_0", b"-1", b"", b"\xff", b"9" * 5000])
COMMON = st.tuples(STAGE, SOURCE, NUMBER, NUMBER, NUMBER).map(b"/".join)
ODD = st.lists(STAGE | SOURCE | NUMBER, max_size=6).map(b"/".join) | st.none()
NAMED = st.tuples(st.sampled_from([ORIGIN, "content-type", "headrace-stage"]), COMMON | ODD)
HEADERS = st.lists(NAMED, max_size=3) | COMMON.map(lambda written: [("content-type", b"x"), (ORIGIN, written)])


@given(st.sampled_from(["examples", "outcomes", "batches"]), HEADERS)
@example("examples", [("content-type", b"x"), (ORIGIN, b"reward/signals/0/%b/0" % (b"9" * 5000))])
@example("examples", [("content-type", b"x"), (ORIGIN, b"reward/\xff/0/0/0")])
def test_whatever_headers_say_is_read_in_one_way(topic: str, headers: Any) -> None:
    """The common form is looked at first, and quickly: it must not take what reading it in full refuses."""
    source, writer = provenance_of(headers), writer_of(headers)
    made = source is not None and source.stage in STAGES_BY_NAME and source.stage in BY_NAME[topic].writers
    ticked = writer is not None and writer.endswith(".tick")
    assert ticked or (refusal(topic, b"junk", headers) is None) == made


@pytest.mark.parametrize(
    ("topic", "value", "headers", "says"),
    [
        ("examples", b"{}", (), "headrace-origin: none, but examples is written by reward, curate, release"),
        ("examples", b"{}", origin(TRAIN), "headrace-origin: 'train', but"),
        ("examples", b"{}", origin_without_input("reward"), "headrace-origin: 'reward', but"),
        ("examples", b"{}", origin_without_input("reward.tick"), "headrace-origin: 'reward.tick', but"),
        ("examples", b"{}", origin_without_input("nobody.tick"), "headrace-origin: 'nobody.tick', but"),
        ("examples", REQUEST, (), "headrace-origin: none, but"),
        ("outcomes", EVALUATION, (), "headrace-origin: none, but outcomes is written by train, operator"),
        ("outcomes", b"junk", (), "headrace-origin: none, but"),
        ("outcomes", REQUEST, origin_without_input("operator.tick"), "headrace-origin: 'operator.tick', but"),
        ("outcomes", EVALUATION, origin(TRAIN._replace(stage="operator")), "headrace-origin: 'operator', but"),
        ("outcomes", None, (("headrace-origin", None),), "headrace-origin: none, but"),
    ],
)
def test_what_somebody_else_wrote_is_refused(topic: str, value: bytes | None, headers: Headers, says: str) -> None:
    error = refusal(topic, value, headers)
    assert error is not None
    assert (error.code, error.field) == ("unknown_writer", "headers")
    assert error.message.startswith(says)


def test_a_forged_evaluation_is_a_dead_letter_and_no_release() -> None:
    [release] = [stage for stage in STAGES if stage.name == "release"]
    task = MemoryTask(release, "outcomes")
    processed = task.feed(EVALUATION, headers=(("content-type", b"application/cloudevents+json"),))
    assert ([produced.topic for produced in processed.produced], processed.dumped) == (["dead-letters"], {})
    letter = decode(processed.produced[0].value)
    assert isinstance(letter, RecordRejected)
    assert letter.data.error.code == "unknown_writer"
    assert task.counters == {"in": 1, "dead": 1}
