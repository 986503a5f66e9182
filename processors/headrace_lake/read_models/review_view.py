"""What somebody should look at next: examples that are uncertain and count for much, and a sample that is neither. Knows the
lake.

Uncertain: contradicted, few voices, a quality near 0. Counting for much: a large reward. The sample is a tenth by the digest of
the id, whatever anybody said, so that agreement on it is no agreement on what is hard.
"""

from __future__ import annotations

import hashlib
from typing import Any

from headrace_lake.query import LakeQuery
from headrace_lake.read_models.example_list import ExampleFilter, ExampleRow, newest_rows

NEWEST = 1_000  # revisions that are chosen from
FEEDBACK = 5_000  # words of people that agreement is of
QUEUE = 20
SAMPLED = 26  # of 256: a tenth
REVIEW = "console_review"  # the check's name in the feedback that a review is
_MINE = (
    "SELECT DISTINCT interaction_id FROM (SELECT interaction_id, principal, name FROM feedback ORDER BY appended_at DESC "
    f"LIMIT {FEEDBACK}) WHERE principal = $who AND name = '{REVIEW}'"
)
_SIDES = (
    "SELECT interaction_id, count(DISTINCT principal) AS raters, count(DISTINCT (score - coalesce(scale_low, 0)) "
    "> (coalesce(scale_high, 100) - coalesce(scale_low, 0)) / 2) AS sides FROM "
    f"(SELECT * FROM feedback ORDER BY appended_at DESC LIMIT {FEEDBACK}) "
    "WHERE principal_kind = 'human' AND score IS NOT NULL GROUP BY interaction_id HAVING raters > 1"
)


def review_view(lake: LakeQuery, who: str, *, sample: bool = False, example_id: str | None = None) -> dict[str, Any]:
    """The queue of `who`, without what they have reviewed; the one that is looked at, whole; and how often people agree."""
    mine = {row[0] for row in lake.all(_MINE, {"who": who})}
    newest: dict[str, ExampleRow] = {}
    for row in newest_rows(lake, ExampleFilter(), NEWEST):
        newest.setdefault(row.example_id, row)
    left = [_queued(row) for row in newest.values() if row.interaction_id not in mine]
    queue = [each for each in left if each["sampled"]] if sample else sorted(left, key=_worth_first)
    chosen = example_id or (queue[0]["example_id"] if queue else None)
    sides = lake.run(f"SELECT count(*), count(*) FILTER (sides = 1) FROM ({_SIDES})").rows[0]
    return {
        "sample": sample,
        "queue": queue[:QUEUE],
        "more": len(queue) > QUEUE,
        "example": None if chosen is None else _whole(lake, chosen),
        "agreement": {"interactions": sides[0], "agreed": sides[1], "share": sides[1] / sides[0] if sides[0] else None},
    }


def _queued(row: ExampleRow) -> dict[str, Any]:
    """An example in the queue, with what it is worth to look at it."""
    uncertain = row.contradicted + 1 / (1 + row.voices) + 1 - abs(row.quality)
    return {
        "example_id": row.example_id,
        "interaction_id": row.interaction_id,
        "bucket": row.bucket,
        "agent": row.agent,
        "quality": row.quality,
        "reward": row.reward,
        "voices": row.voices,
        "contradicted": row.contradicted,
        "sampled": hashlib.sha256(row.example_id.encode()).digest()[0] < SAMPLED,
        "worth": uncertain * (0.2 + abs(row.reward)),
    }


def _worth_first(each: dict[str, Any]) -> tuple[float, str]:
    return -each["worth"], each["example_id"]


def _whole(lake: LakeQuery, example_id: str) -> dict[str, Any] | None:
    """The newest revision of an example with its texts."""
    found = lake.run(
        "SELECT example_id, interaction_id, bucket, agent, quality, reward, voices, contradicted, prompt, context, output, "
        "target, topic, partition, log_offset FROM examples WHERE example_id = $example ORDER BY revision DESC LIMIT 1",
        {"example": example_id},
    ).dicts()
    return found[0] if found else None
