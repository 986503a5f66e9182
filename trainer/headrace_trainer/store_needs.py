"""What a deployment's log still needs of its store: adapters, states of optimisers, samples, each with a reason. Pure; knows
events, no store.

Needed are: what was ever served and may be again; the heads that the learner goes on from, or that wait for evidence, and what is
compared with them while a promotion is watched; a bucket's newest version, which may not be answered yet; and all that the pins
of a run on the log name, since that run can be made again. The optimiser's state is needed of what a run may go on from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from headrace_schemas.derived import ModelVersion, TrainingStart
from headrace_streams.release_log import CHANGES, Decision
from headrace_trainer.stage.standing import LearnerStanding, after

Named = dict[str, str]  # digest -> why, or whose


class SamplesOf(NamedTuple):
    """Digest of the samples of an evaluation, and its version."""

    digest: str
    version_id: str


class StoreLog(NamedTuple):
    """What the log of a deployment says of its store. `decisions`: bucket by bucket in order; `ended`: ids of runs; `revoked`:
    buckets with digests of adapters."""

    versions: list[ModelVersion]
    samples: list[SamplesOf]
    decisions: list[Decision]
    starts: list[TrainingStart]
    ended: set[str]
    revoked: set[tuple[str, str]]


class StoreNeeds(NamedTuple):
    """`needed`: what must stay, by digest; `named`: all that versions and evaluations name, by digest, with what it is."""

    needed: Named
    named: Named


def needs_of(told: StoreLog, *, with_revoked: bool = False) -> StoreNeeds:
    """`with_revoked`: what was revoked in every bucket that names it is not needed, nor its optimiser's state, whoever names
    them, unless it is served or a run that has not ended pins it: nobody may serve it again."""
    standings = _standings(told.decisions)
    optimisers = {version.adapter.digest: version.optimiser for version in told.versions if version.optimiser is not None}
    needed: Named = {}
    begun: Named = {}
    for digest, why, gone_on_from in _adapters(told, standings):
        needed.setdefault(digest, why)
        if gone_on_from:
            begun.setdefault(digest, why)
    for adapter, why in begun.items():
        if adapter in optimisers:
            needed.setdefault(optimisers[adapter], why)
    for start in told.starts:
        for digest in _pinned(start):
            needed.setdefault(digest, f"pinned by run {start.run_id}")
    if with_revoked:
        gone = _revoked(told) - {standing.served for standing in standings.values()}
        open_ = {digest for start in told.starts if start.run_id not in told.ended for digest in _pinned(start)}
        for digest in (gone | {optimisers[adapter] for adapter in gone & optimisers.keys()}) - open_:
            needed.pop(digest, None)
    kept = {version.version_id: needed[version.adapter.digest] for version in told.versions if version.adapter.digest in needed}
    for samples in told.samples:
        if samples.version_id in kept:
            needed.setdefault(samples.digest, kept[samples.version_id])
    return StoreNeeds(needed, _named(told))


def _revoked(told: StoreLog) -> set[str]:
    """Adapters that were revoked in every bucket that has a version of them."""
    named = {(version.bucket, version.adapter.digest) for version in told.versions}
    left = {digest for bucket, digest in named - set(told.revoked)}
    return {digest for _, digest in told.revoked} - left


def _pinned(start: TrainingStart) -> Iterator[str]:
    """What the run needs of the store to be made again."""
    watched = None if start.watched is None else start.watched.adapter
    for digest in (start.parent_adapter, start.learner_adapter, start.optimiser, watched):
        if digest is not None:
            yield digest
    yield from (head.adapter for head in start.heads or ())


def _standings(decisions: Iterable[Decision]) -> dict[str, LearnerStanding]:
    standings: dict[str, LearnerStanding] = {}
    for decision in decisions:
        bucket = decision.data.bucket
        standings[bucket] = after(standings.get(bucket, LearnerStanding()), decision)
    return standings


def _adapters(told: StoreLog, standings: Mapping[str, LearnerStanding]) -> Iterator[tuple[str, str, bool]]:
    """Digest, why it is needed, and whether a run may go on from it."""
    for bucket, standing in standings.items():
        if standing.served is not None:
            yield standing.served, f"served in {bucket}", True
        if standing.adapter is not None:
            yield standing.adapter, f"the learner of {bucket} goes on from it", True
        for head in standing.heads:
            yield head.adapter, f"waits for evidence in {bucket}", True
        if standing.watched is not None and standing.watched.adapter is not None:
            yield standing.watched.adapter, f"was served before in {bucket}, whose promotion is watched", True
    newest = {version.bucket: version for version in told.versions}
    for bucket, version in newest.items():
        yield version.adapter.digest, f"the newest version of {bucket}", True
    for decision in told.decisions:
        if decision.kind in CHANGES and decision.data.adapter is not None:
            yield decision.data.adapter.digest, f"release {decision.data.release_id}", False


def _named(told: StoreLog) -> Named:
    named: Named = {}
    for version in told.versions:
        named[version.adapter.digest] = f"version {version.version_id} of {version.bucket}"
        if version.optimiser is not None:
            named[version.optimiser] = f"optimiser of version {version.version_id} of {version.bucket}"
    return named | {samples.digest: f"samples of version {samples.version_id}" for samples in told.samples}
