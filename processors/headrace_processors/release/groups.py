"""Which groups of a bucket were seen, and from when on: what is remembered of them, and which are forgotten. Knows state keys and
positions, nothing of evidence.

Every look costs what it sees. Only when a tenth more than the limit are remembered are all looked through, once for that tenth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from headrace_processors.release.state import GroupSeen, ReleaseBucket, seen_key

PART = 10  # of the limit: so many more may be remembered before any is forgotten
AGAIN = 16  # positions behind which it is noted that a group was looked at again


def looked_at_again(state: Mapping[str, Any], bucket: str, groups: Collection[str], position: int) -> dict[str, GroupSeen]:
    """What is noted of `groups` that are remembered, by state key, so that they are forgotten late."""
    known = {key: state[key] for group in groups if (key := seen_key(group, bucket)) in state}
    return {key: replace(seen, last=position) for key, seen in known.items() if position - _last(seen) >= AGAIN}


def forgotten(state: Mapping[str, Any], bucket: ReleaseBucket, limit: int, now: Collection[str]) -> tuple[list[str], int]:
    """State keys of the groups that are forgotten where `bucket` remembers too many, and how many it remembers then. Those that
    are looked at `now` stay, and are not in `state` yet where they are new."""
    if bucket.groups <= limit + limit // PART:
        return [], bucket.groups
    present = {seen_key(group, bucket.name) for group in now}
    known = sorted((_last(seen), key) for key, seen in _of(state, bucket.name) if key not in present)
    gone = [key for _, key in known[: max(0, len(known) + len(present) - limit)]]
    return gone, len(known) + len(present) - len(gone)


def _of(state: Mapping[str, Any], bucket: str) -> Iterator[tuple[str, GroupSeen]]:
    end = f":{bucket}"
    for key, value in state.items():
        if key.startswith("seen:") and key.endswith(end) and ":" not in key[5 : -len(end)]:  # or it is of a bucket `x:{bucket}`
            yield key, value


def _last(seen: GroupSeen) -> int:
    return seen.last or seen.position
