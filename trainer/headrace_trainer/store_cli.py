"""`headrace store`: what the adapter store holds that nothing needs any more, and to remove it. Knows the log and the store;
what is needed is said in store_needs.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import click

from headrace_cli.common import common, emit, note, run
from headrace_schemas.events import (
    EvaluationCompleted,
    ModelVersionCreated,
    RevokeRequested,
    TrainingCompleted,
    TrainingFailed,
    TrainingStarted,
)
from headrace_streams import release_log
from headrace_streams.adapter_store import Holding, Store
from headrace_streams.kafka.reader import Reader, event_of
from headrace_streams.settings import Settings
from headrace_trainer.store_needs import SamplesOf, StoreLog, StoreNeeds, needs_of

_PROGRESS = b'"headrace.training.progressed.v1"'


@click.group()
def store() -> None:
    """The store of adapters, optimiser states and samples."""


@store.command()
@click.option("--dry-run/--remove", default=True, show_default=True, help="Only say what would go, or remove it.")
@click.option("--days", type=click.FloatRange(min=0), default=7.0, show_default=True, help="Nothing that was written since.")
@click.option(
    "--revoked", is_flag=True, help="Also adapters that were revoked and are not served, whatever run or release names them."
)
@click.option("--unnamed", is_flag=True, help="Also what nothing of this deployment names: no other may share the store.")
@common
def prune(settings: Settings, as_json: bool, dry_run: bool, days: float, revoked: bool, unnamed: bool) -> None:
    """List what nothing needs any more, with its bytes; with --remove, remove it.

    What was ever released stays, what the learner goes on from, what waits for evidence, each bucket's newest version, and all
    that a run on the log has pinned. Exit 3 when the store can't be read or written."""
    place = Store(settings.store)
    holdings = place.holdings()  # before the log is read: what is stored later is not in it
    needs = needs_of(run(_told(settings)), with_revoked=revoked)
    before = datetime.now(UTC) - timedelta(days=days)
    found = prunable(holdings, needs, before=before, unnamed=unnamed)
    if not dry_run:
        found = [each for each in found if removed(place, each.holding, before)]
    for each in found:
        if as_json:
            emit(_row(each, dry_run))
        else:
            click.echo(f"{each.holding.digest}  {each.holding.size_bytes:>12,} bytes  {each.name}")
    size, kept = sum(each.holding.size_bytes for each in found), sum(holding.size_bytes for holding in holdings)
    what = "would go; --remove removes them" if dry_run else "removed"
    note(f"{len(found)} of {len(holdings)} in {place.name}: {size:,} of {kept:,} bytes {what}")


def removed(place: Store, holding: Holding, before: datetime) -> bool:
    """Whether it was there and is not any more: not what was stored anew since it was listed."""
    remove = place.remove_adapter if holding.kind == "adapter" else place.remove_samples
    return remove(holding.digest, before=before)


class Prunable(NamedTuple):
    """What a store holds and nothing needs; `name`: what it is."""

    holding: Holding
    name: str


def prunable(holdings: list[Holding], needs: StoreNeeds, *, before: datetime, unnamed: bool = False) -> list[Prunable]:
    """Of `holdings`, the largest first, what was written `before` and is not needed; what no event names only if `unnamed`."""
    found = [
        Prunable(holding, needs.named.get(holding.digest, "named by nothing of this deployment"))
        for holding in holdings
        if holding.digest not in needs.needed and holding.written < before and (unnamed or holding.digest in needs.named)
    ]
    return sorted(found, key=lambda each: (-each.holding.size_bytes, each.holding.digest))


def _row(each: Prunable, dry_run: bool) -> dict[str, Any]:
    holding = each.holding
    return {
        "kind": holding.kind, "digest": holding.digest, "size_bytes": holding.size_bytes,
        "written": holding.written.isoformat(), "name": each.name, "removed": not dry_run,
    }  # fmt: skip


async def _told(settings: Settings) -> StoreLog:
    reader = Reader(settings)
    decisions = await release_log.history(reader)
    answered = {decision.data.request_id for decision in decisions if decision.kind == "revoked"}
    told = StoreLog([], [], decisions, [], set(), set())
    async for event in reader.events("outcomes"):
        if isinstance(event, EvaluationCompleted) and event.data.samples is not None:
            told.samples.append(SamplesOf(event.data.samples.sha256, event.data.version_id))
        elif isinstance(event, RevokeRequested) and event.id in answered:
            told.revoked.add((event.data.bucket, event.data.adapter))
    async for event in reader.events("versions"):
        if isinstance(event, ModelVersionCreated):
            told.versions.append(event.data)
    async for record in reader.read_topic("runs"):
        if record.value is None or _PROGRESS in record.value:  # most of them, and not a word about the store
            continue
        found = event_of(record)
        if isinstance(found, TrainingStarted):
            told.starts.append(found.data)
        elif isinstance(found, TrainingCompleted | TrainingFailed):
            told.ended.add(found.data.run_id)
    return told
