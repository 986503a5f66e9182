"""What readers take from the release stage's topics: its own records, and nothing that somebody else has put there. No broker."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import pytest

from headrace_schemas.codec import encode
from headrace_schemas.events import ReleasePromoted
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.release_log import ReleaseFilter
from headrace_streams.runtime.provenance import Provenance, origin, origin_without_input, six_headers
from support.released import BUCKET, event, release

PARTITIONS = 4
RIGHT = partition_for(BUCKET.encode(), PARTITIONS)
OURS = origin(Provenance("release", "outcomes", 0, 7, 0))


class Recorded(NamedTuple):
    """A record as readers get it."""

    offset: int
    value: bytes | None
    key: bytes | None = BUCKET.encode()
    partition: int = RIGHT
    headers: Any = OURS
    topic: str = "d.releases"


def promoted(sequence: int, **fields: Any) -> bytes:
    return encode(event(ReleasePromoted, release(sequence, None, **fields)))


def taken(*records: Recorded) -> tuple[list[int], int]:
    """Sequences of what is taken, and how many are skipped."""
    filtered = ReleaseFilter(PARTITIONS, "releases")
    found: list[Any] = [filtered.decision(record) for record in records]
    return [decision.data.sequence for decision in found if decision is not None], filtered.skipped


@pytest.mark.parametrize("form", [origin, six_headers])
def test_what_the_stage_wrote_is_taken_in_either_form_of_its_headers(form: Any) -> None:
    headers = form(Provenance("release", "outcomes", 0, 7, 0))
    assert taken(Recorded(0, promoted(1), headers=headers), Recorded(2, promoted(3), headers=headers)) == ([1, 3], 0)


@pytest.mark.parametrize(
    ("forged", "reason"),
    [
        (Recorded(1, promoted(2), headers=()), "it does not say who wrote it"),
        (Recorded(1, promoted(2), headers=origin_without_input("operator")), "it was written by 'operator'"),
        (Recorded(1, promoted(2), headers=origin(Provenance("releases", "outcomes", 0, 1, 0))), "it was written by 'releases'"),
        (Recorded(1, promoted(2), key=b"code/other"), "its key is not its bucket 'sql/tiny-sql'"),
        (Recorded(1, promoted(2), key=None), "its key is not its bucket 'sql/tiny-sql'"),
        (Recorded(1, promoted(2), partition=(RIGHT + 1) % PARTITIONS), "does not belong into its partition"),
        (Recorded(1, promoted(1, release_id="another")), "its sequence 1 is not behind 1"),
        (Recorded(1, b"{}"), "it is no decision"),
        (Recorded(1, None), "it is no decision"),
    ],
)
def test_a_forged_record_is_skipped_counted_and_said_once(
    forged: Recorded, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    again = forged._replace(offset=2)
    with caplog.at_level(logging.ERROR):
        assert taken(Recorded(0, promoted(1)), forged, again, Recorded(3, promoted(2))) == ([1, 2], 2)
    [line] = caplog.messages
    assert line.startswith(f"d.releases/{forged.partition} at 1 ")
    assert reason in line


def test_a_record_that_is_read_again_is_no_forgery() -> None:
    first, second = Recorded(0, promoted(1)), Recorded(1, promoted(2))
    assert taken(first, second, first, second, Recorded(5, promoted(2))) == ([1, 2], 0)


def test_one_bucket_says_nothing_of_another() -> None:
    other = "code/tiny-sql"
    beside = Recorded(9, promoted(1, bucket=other), other.encode(), partition_for(other.encode(), PARTITIONS))
    assert taken(Recorded(0, promoted(5)), beside) == ([5, 1], 0)
