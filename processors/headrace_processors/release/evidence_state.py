"""What release remembers of evidence: heads that wait for it, and the promotion that is still watched. Data; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, json

Sums = tuple[int, ...]  # log capital of each bet, in nano-nats


class HeadFrozen(Struct, frozen=True):
    """What was fixed before a head's first group was counted: scale by measure, log weights of the bets, and from which old
    groups: how many, and the digest of their names."""

    scales: dict[str, float]
    logw: tuple[float, ...]
    groups: int
    digest: str


class Tally(Struct, frozen=True, omit_defaults=True):
    """What some groups have brought. Counts are of groups; `sum_x` in millionths of a scale, for people."""

    up: Sums
    down: Sums
    n: int = 0
    discordant: int = 0
    clipped_low: int = 0
    clipped_high: int = 0
    sum_x: int = 0


class Head(Struct, frozen=True, omit_defaults=True):
    """A version of the learner that may be served once there is evidence. `h`: its number among the heads since the last
    promotion by evidence, which is its price; `cut`: position at which it came. Counts are of groups; `sum_x` in millionths of
    a scale, for people. `unselected`: the same of those groups that no feedback selected, where they are counted apart."""

    version_id: str
    h: int
    cut: int
    up: Sums
    down: Sums
    harm: Sums
    frozen: HeadFrozen | None = None
    counted: tuple[str, ...] = ()
    looks: int = 0
    n: int = 0
    discordant: int = 0
    clipped_low: int = 0
    clipped_high: int = 0
    selected: int = 0
    sum_x: int = 0
    slices: dict[str, Sums] = {}
    unselected: Tally | None = None


class HarmWatch(Struct, frozen=True, omit_defaults=True):
    """A promotion that is still watched: what was served before against what is now, on groups first seen since."""

    version_id: str
    scale: float
    harm: Sums
    counted: tuple[str, ...] = ()
    looks: int = 0
    n: int = 0
    proposed: bool = False


class EvidenceState(Struct, frozen=True, omit_defaults=True):
    """Evidence of a bucket. `since`: position of the last decision that changed what is served or what heads are made from;
    `promotions`: by evidence; `cuts`: heads since the last of those; `basis`: what all of it is counted under (measure, grouping,
    policy): under another one it begins anew."""

    since: int = -1
    promotions: int = 0
    cuts: int = 0
    basis: str = ""
    pending: tuple[Head, ...] = ()
    watch: HarmWatch | None = None


def upcast(state: Mapping[str, bytes]) -> dict[str, bytes]:
    """A changelog of state version 1 as one of version 2, which no longer has what nobody read of heads and of the watch."""
    current = dict(state)
    for key, value in state.items():
        if key.startswith("evidence:"):
            evidence: dict[str, Any] = json.decode(value)
            for head in evidence.get("pending", ()):
                head.pop("served", None)
                head.pop("sum_z", None)
            if evidence.get("watch"):
                evidence["watch"].pop("previous", None)
            current[key] = json.encode(json.decode(json.encode(evidence), type=EvidenceState))
    return current
