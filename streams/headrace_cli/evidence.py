"""`headrace evidence`: which heads of a bucket wait for evidence, what they have and what is still needed. Knows the answers of
release, no formula of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from headrace_cli.common import NO, CliError, common, emit, run
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from headrace_schemas.derived import HeadEvidence
    from headrace_streams.release_log import Decision


@click.command()
@click.argument("bucket", metavar="BUCKET")
@common
def evidence(settings: Settings, as_json: bool, bucket: str) -> None:
    """The evidence for heads of a bucket: what waits, groups counted, capital, what is still needed, claim and measure."""
    from headrace_streams import release_log
    from headrace_streams.kafka.reader import Reader

    decisions = [decision for decision in run(release_log.history(Reader(settings))) if decision.data.bucket == bucket]
    if not decisions:
        raise CliError(NO, f"{bucket}: release has decided nothing about it: `headrace releases --all` names all that it has")
    found = summary(bucket, decisions)
    if as_json:
        return emit(found)
    for line in lines(found):
        click.echo(line)


def summary(bucket: str, decisions: Sequence[Decision]) -> dict[str, Any]:
    """What the newest look says of the heads of a bucket, by all decisions about it in their order."""
    from msgspec.structs import asdict

    from headrace_streams.release_log import CHANGES

    looks = [decision for decision in decisions if decision.data.evidence]
    found: dict[str, Any] = {"bucket": bucket, "claim": None, "measure": None, "spent_by": None, "heads": [], "watch": None}
    changes = [decision for decision in decisions if decision.kind in CHANGES]
    found["serving"] = changes[-1].data.version_id if changes else None
    if not looks:
        return found
    data = looks[-1].data
    heads = data.evidence or []
    found |= {"claim": heads[-1].claim, "measure": heads[-1].measure, "sequence": data.sequence}
    found["heads"] = [_head(head) for head in heads]
    if data.watch is not None:
        found["watch"] = asdict(data.watch)
    # Whatever changes what is served spends the evidence, and so does whoever revokes an adapter.
    after = [decision for decision in changes if decision.data.sequence >= data.sequence]
    if after:
        found["spent_by"] = {"kind": after[-1].kind, "sequence": after[-1].data.sequence, "reason": after[-1].data.reason}
        for head in found["heads"]:
            head["waits"] = False
    return found


def _head(head: HeadEvidence) -> dict[str, Any]:
    from msgspec.structs import asdict

    row = asdict(head)
    for large in ("seen", "bets", "old_digest"):
        row.pop(large, None)
    rate = head.capital / head.groups if head.groups else 0.0
    row["groups_still_needed"] = (
        math.ceil((head.needed - head.capital) / rate) if rate > 0 and head.capital < head.needed else None
    )
    return row


def lines(found: dict[str, Any]) -> list[str]:
    """The summary for people."""
    bucket, heads = found["bucket"], found["heads"]
    if not heads:
        return [f"{bucket}: nothing was counted yet: no evaluation had groups, or the policy's rule is gate"]
    waiting = sum(head["waits"] for head in heads)
    said = [f"{bucket}: {waiting} of {len(heads)} heads wait for evidence; {found['measure']}, {found['claim']}"]
    for head in heads:
        more = head["groups_still_needed"]
        wanted = (
            "" if head["capital"] >= head["needed"] else "; more groups are needed" if more is None else f"; about {more} more"
        )
        where = f", {head['selected']} of them selected by feedback" if head["selected"] else ""
        said.append(
            f"  {head['version_id']}  #{head['h']}  {head['verdict']}: {head['reason']}\n"
            f"    {head['groups']} groups in {head['looks']} looks{where}, gain {head['mean']:.4g}, "
            f"evidence {head['capital']:.3g} of {head['needed']:.3g} nats{wanted}\n"
            f"    useless {head['useless']:.3g}, harm {head['harm']:.3g} of {head['alarm']:.3g} nats"
        )
    if (watch := found["watch"]) is not None:
        proposed = "; roll back" if watch["proposed"] else ""
        said.append(
            f"  watched: {watch['version_id']}, {watch['groups']} groups in {watch['looks']} looks, "
            f"harm {watch['harm']:.3g} of {watch['alarm']:.3g} nats{proposed}"
        )
    if (spent := found["spent_by"]) is not None:
        said.append(f"  spent: #{spent['sequence']} {spent['kind']}, {' '.join(spent['reason'].split())}")
    return said
