"""Which requests of a bucket were answered, and when that is forgotten. Knows keys and fold time, not what was asked or answered.

Those of a bucket are a chain in the order of their answers: the bucket's value has its ends, and each request names the next one.
Every answer adds itself and lets go of a few that are old enough, so that no record pays for many. A bucket that nobody asks
anything keeps what it has, which does not grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from headrace_processors.release.state import AnsweredRequest, ReleaseBucket, bucket_key

AT_ONCE = 2  # requests that an answer lets go of: more than it adds, so that the chain gets shorter


def remember(
    changes: dict[str, Any],
    state: Mapping[str, Any],
    bucket: ReleaseBucket,
    key: str,
    release_id: str,
    *,
    now: int,
    period_ms: int,
) -> None:
    """Puts into the `changes` of an answer that the request `key` has it, at fold time `now` in ms. `period_ms`: after which it
    may be forgotten; 0: never. `bucket` is its value as the answer leaves it."""
    if not period_ms:
        changes[key] = AnsweredRequest(release_id)
        return
    if bucket.newest:
        changes[bucket.newest] = replace(state[bucket.newest], later=key)
    oldest = bucket.oldest or key
    for _ in range(AT_ONCE):
        if oldest == key:
            break
        request: AnsweredRequest = changes.get(oldest) or state[oldest]
        if request.at_ms + period_ms > now:
            break
        changes[oldest] = None
        oldest = request.later
    changes[key] = AnsweredRequest(release_id, at_ms=now)
    changes[bucket_key(bucket.name)] = replace(bucket, oldest=oldest, newest=key)
