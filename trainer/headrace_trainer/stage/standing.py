"""Where the learner of a bucket stands, by the answers of release: what it goes on from, which of its heads still wait, which
promotion is watched. Pure; knows decisions and reads no log.

The learner goes on from run to run whatever is served, so that small gains add up until they show. It begins again from what is
served when its newest head did harm or was none, and when somebody changed what is served.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from headrace_schemas.derived import HeadReference, ServedReference, ends_chain
from headrace_streams.release_log import CHANGES, Decision


class LearnerStanding(Struct, frozen=True):
    """`adapter`: of the newest head that the learner goes on from; None: what is served. `served`: digest of that; `batches`: of
    what is served. `heads`: those that wait for evidence, the oldest first. `watched`: what was served before, while release
    watches the promotion. `restarted`: the next run begins without what the chain learnt; `counted`: release counts evidence."""

    adapter: str | None = None
    heads: tuple[HeadReference, ...] = ()
    served: str | None = None
    batches: tuple[str, ...] = ()
    watched: ServedReference | None = None
    restarted: bool = False
    counted: bool = False


def after(standing: LearnerStanding, decision: Decision) -> LearnerStanding:
    """The standing after one more decision about the bucket; those come in their order."""
    data, looked = decision.data, decision.data.evidence
    if looked:
        standing = replace(standing, restarted=False, counted=True)
    if decision.kind in CHANGES:
        digest = data.adapter.digest if data.adapter else None
        before, changed = standing.served, digest != standing.served
        standing = replace(standing, served=digest, batches=tuple(data.batch_ids))
        if decision.kind != "promoted" or not looked:
            watches = standing.counted and decision.kind == "promoted" and changed
            watched = ServedReference(adapter=before) if watches else None
            return replace(standing, adapter=None, heads=(), watched=watched, restarted=standing.adapter is not None)
        newest = looked[-1]
        on = newest.version_id != data.version_id and newest.waits
        head = HeadReference(version_id=newest.version_id, adapter=newest.adapter)
        heads = (head,) if on else ()
        return replace(standing, adapter=newest.adapter if on else None, heads=heads, watched=ServedReference(adapter=before))
    if not looked:
        return standing
    newest = looked[-1]
    ended = ends_chain(newest.verdict, newest.reason)
    watching = data.watch is not None and not data.watch.proposed
    return replace(
        standing,
        adapter=None if ended else newest.adapter,
        heads=tuple(HeadReference(version_id=head.version_id, adapter=head.adapter) for head in looked if head.waits),
        watched=standing.watched if watching else None,
        restarted=ended,
    )
