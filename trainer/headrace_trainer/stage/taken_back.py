"""Which unreleased heads of a bucket have learnt what was taken back since, and what the learner goes on from then. Pure; knows
versions and ids of examples, no log and no weights.

A head counts by what it learnt beyond what is served, its own rows and those of the heads that it goes on from: what is served
is taken out of service by a person. Where it is no longer known what a run rehearsed, it counts as having learnt it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from msgspec import structs

from headrace_schemas.derived import HeadReference, ModelVersion
from headrace_trainer.stage.standing import LearnerStanding

TAKEN_BACK = "taken_back"


class VersionOrigin(NamedTuple):
    """A version as the run that made it: `begins`: digest of the adapter that the run began at, None for the base; `inherits`:
    whether it went on from that adapter's weights."""

    version_id: str
    run_id: str
    batch_id: str
    begins: str | None
    inherits: bool = True


def version_origin(version: ModelVersion) -> VersionOrigin:
    inherits = bool(version.hyperparameters.get("warm_started", True))
    return VersionOrigin(version.version_id, version.run_id, version.batch_id, version.parent_adapter, inherits)


def retrained(standing: LearnerStanding, begins: str | None, versions: Iterable[ModelVersion]) -> LearnerStanding:
    """The standing of a run that somebody asked for, because what is served has learnt what was taken back: at adapter `begins`
    (None: the base), with all that came behind it to be learnt anew, beside no other head."""
    batches = tuple(version.batch_id for version in versions if begins is not None and version.adapter.digest == begins)
    return structs.replace(standing, adapter=begins, heads=(), batches=batches, watched=None, restarted=True)


def by_adapter(versions: Iterable[tuple[str, VersionOrigin]]) -> dict[str, VersionOrigin]:
    """Versions by the digest of their adapter. A run that left the weights at which it began as they were has learnt nothing, and
    its version takes the place of none."""
    return {adapter: version for adapter, version in versions if version.begins != adapter}


class LearnerVersions(NamedTuple):
    """`versions` of a bucket by the digest of their adapter; `learnt`: ids of the examples that each run learnt from, as far as
    that is still known; `taken_back`: ids of examples of the bucket's batches that nobody may learn from any more."""

    versions: Mapping[str, VersionOrigin]
    learnt: Mapping[str, frozenset[str]]
    taken_back: Collection[str]

    def reason(self, adapter: str | None, served: str | None) -> str | None:
        """Why a head is not to be gone on from, by what it learnt beyond `served`; None when it is clean."""
        seen: set[str] = set()
        while adapter is not None and adapter != served and adapter not in seen and self.taken_back:
            seen.add(adapter)
            version = self.versions.get(adapter)
            if version is None:
                return None
            rows = self.learnt.get(version.run_id)
            if rows is None:
                return f"{TAKEN_BACK}: examples were taken back, and what run {version.run_id} rehearsed is no longer known"
            if found := len(rows & frozenset(self.taken_back)):
                return f"{TAKEN_BACK}: version {version.version_id} has learnt {found} examples that were taken back since"
            adapter = version.begins if version.inherits else None
        return None

    def begin(self, adapter: str | None) -> str | None:
        """Where a run begins that was to begin at `adapter`: there, or before all that was taken back at other times; None: the
        base. Whatever is served."""
        while adapter is not None and self.reason(adapter, None) is not None:
            version = self.versions[adapter]
            adapter = version.begins if version.inherits else None
        return adapter

    def clean(self, standing: LearnerStanding) -> tuple[LearnerStanding, list[HeadReference]]:
        """The standing from which a run begins: at the last clean head, with all that came behind it to be learnt anew, and only
        clean heads to compare; and the heads that it leaves."""
        left = [head for head in standing.heads if self.reason(head.adapter, standing.served)]
        heads = tuple(head for head in standing.heads if head not in left)
        adapter = standing.adapter
        if self.reason(adapter, standing.served) is None:
            return structs.replace(standing, heads=heads), left
        batches = standing.batches
        while adapter is not None and self.reason(adapter, standing.served) is not None:
            begins = self.versions[adapter].begins
            adapter = begins if begins in self.versions and begins != standing.served else None
        if adapter is not None:
            batches = (self.versions[adapter].batch_id,)
        return structs.replace(standing, adapter=adapter, heads=heads, batches=batches, restarted=True), left
