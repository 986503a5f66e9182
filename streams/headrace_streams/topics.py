"""The one table of topics: name, key, retention, compaction, size. Knows no client; `admin` declares what stands here."""

from __future__ import annotations

from msgspec import Struct

DAY_MS = 24 * 3600 * 1000
MIB = 1024 * 1024
FOREVER = -1


class Topic(Struct, frozen=True):
    """`name` is short; on the broker it is `{deployment}.{name}`. `retention_ms` -1 keeps for ever; `max_bytes` of a record."""

    name: str
    key: str
    retention_ms: int = FOREVER
    compacted: bool = False
    max_bytes: int = 2 * MIB
    fixed_partitions: int | None = None


TOPICS: tuple[Topic, ...] = (
    Topic("interactions", "any", 7 * DAY_MS, max_bytes=4 * MIB),
    Topic("feedback", "any", 7 * DAY_MS, max_bytes=4 * MIB),
    Topic("refs", "foreign id", max_bytes=4 * MIB),
    Topic("signals", "interaction id", max_bytes=4 * MIB),
    Topic("examples", "bucket", max_bytes=8 * MIB),
    Topic("rejections", "interaction id", 90 * DAY_MS),
    Topic("batches", "bucket", max_bytes=8 * MIB),
    Topic("runs", "bucket", 90 * DAY_MS, max_bytes=8 * MIB),
    Topic("versions", "bucket"),
    Topic("outcomes", "bucket"),
    Topic("releases", "bucket", compacted=True),
    Topic("releases.history", "bucket"),
    Topic("rules", "stage/topic/partition", fixed_partitions=1),
    Topic("dead-letters", "topic/partition/offset", 30 * DAY_MS, max_bytes=8 * MIB),
)
TOPIC_NAMES = tuple(topic.name for topic in TOPICS)


def changelog(stage: str, topic: str) -> Topic:
    """The compacted topic with the state and position of `stage` over `topic`; same partition count as its input."""
    return Topic(f"state.{stage}.{topic}", "state key", compacted=True, max_bytes=8 * MIB)


CHANGELOGS: tuple[Topic, ...] = tuple(
    changelog(stage, topic)
    for stage, topic in (
        ("intake", "interactions"),
        ("intake", "feedback"),
        ("link", "refs"),
        ("reward", "signals"),
        ("curate", "examples"),
        ("release", "outcomes"),
        ("train", "batches"),
    )
)
GROWING = ("interactions", "feedback", "state.intake.interactions", "state.intake.feedback")  # all others keep their count
