"""Where the ring's stages stand on its picture, and how long their bars are. Knows figures, no template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

BAR = 152  # width of the bar of what a stage's records became; its box is 176 wide
_AT = {  # every stage of the topology; a test holds that
    "intake": (246, 16),
    "link": (246, 136),
    "attribute": (246, 256),
    "reward": (492, 16),
    "curate": (738, 16),
    "train": (738, 256),
    "release": (492, 256),
}


class RingNode(Struct, frozen=True):
    """A stage: the corner of its box, and its bar in pieces of (counter, count, start, width, colour)."""

    stage: str
    x: int
    y: int
    records: int
    lag: int
    rate: float | None
    waited_seconds: float | None
    wrong: int
    accounted: bool
    pieces: Sequence[tuple[str, int, float, float, int]]


def nodes_of(stages: Sequence[Mapping[str, Any]]) -> list[RingNode]:
    """The stages that are known, where they stand."""
    return [
        RingNode(
            stage["stage"],
            *_AT[stage["stage"]],
            stage["records"],
            stage["lag"],
            stage["rate"],
            stage["waited_seconds"],
            stage["wrong"],
            stage["accounted"],
            pieces_of(stage["shares"]),
        )
        for stage in stages
        if stage["stage"] in _AT
    ]


def pieces_of(shares: Sequence[Mapping[str, Any]], width: float = BAR) -> list[tuple[str, int, float, float, int]]:
    """The bar of some counts: pieces side by side over the whole width, each as long as its share. Dead letters have colour 5."""
    total, start, pieces = sum(share["count"] for share in shares), 0.0, []
    colours = iter((1, 3, 2, 4, 6, 7) * 4)
    for share in shares:
        colour = 5 if share["dead"] else next(colours)
        length = width * share["count"] / total if total else 0.0
        if share["count"]:
            pieces.append((share["counter"], share["count"], round(start, 1), round(length, 1), colour))
        start += length
    return pieces
