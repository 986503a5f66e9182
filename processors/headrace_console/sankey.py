"""Flows between two fixed columns, as places in an SVG's view box. Pure; knows no template and no page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

WIDTH, COLUMN, LEFT, RIGHT = 900, 12, 250, 638  # of the view box: its width, a column's, where columns begin
GAP, LEAST, SCALE = 14, 3.0, 300.0  # between nodes; height of the smallest; of all together
COLOURS = 7


class FlowNode(NamedTuple):
    """A place where examples are before or after; `text_y` is the middle of it."""

    name: str
    examples: int
    x: float
    y: float
    height: float
    text_x: float
    text_y: float
    anchor: str


class FlowRibbon(NamedTuple):
    """Examples that go from one place to another: the path of its outline; `stays`: they are where they were."""

    before: str
    after: str
    examples: int
    path: str
    colour: int
    stays: bool


class FlowColumns(NamedTuple):
    """Everything that is drawn."""

    nodes: list[FlowNode]
    ribbons: list[FlowRibbon]
    width: int
    height: float


def flow_graphic(flows: Sequence[Mapping[str, Any]]) -> FlowColumns:
    """`flows`: before, after, examples. Nodes stand in order of their size, the largest first; one has the same place on both
    sides as far as that goes."""
    before, after = _counts(flows, "before"), _counts(flows, "after")
    total = max(1, sum(before.values()))
    left, right = _column(before, total, LEFT, "end"), _column(after, total, RIGHT, "start")
    starts, ends = {node.name: node.y for node in left}, {node.name: node.y for node in right}
    from_, to = ({name: number for number, name in enumerate(counts)} for counts in (before, after))
    ribbons = []
    for flow in sorted(flows, key=lambda flow: (from_[flow["before"]], to[flow["after"]])):
        name, other, count = flow["before"], flow["after"], flow["examples"]
        height, colour = SCALE * count / total, from_[name] % COLOURS + 1
        ribbons.append(FlowRibbon(name, other, count, _path(starts[name], ends[other], height), colour, name == other))
        starts[name] += height
        ends[other] += height
    bottom = max((node.y + node.height for node in (*left, *right)), default=0.0)
    return FlowColumns([*left, *right], ribbons, WIDTH, round(bottom + GAP, 1))


def _counts(flows: Sequence[Mapping[str, Any]], side: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for flow in flows:
        counts[flow[side]] = counts.get(flow[side], 0) + flow["examples"]
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _column(counts: Mapping[str, int], total: int, x: float, anchor: str) -> list[FlowNode]:
    nodes, y = [], float(GAP)
    for name, count in counts.items():
        height = max(LEAST, SCALE * count / total)
        text_x = x - 8 if anchor == "end" else x + COLUMN + 8
        nodes.append(FlowNode(name, count, x, round(y, 1), round(height, 1), text_x, round(y + height / 2 + 4, 1), anchor))
        y += max(height, 12.0) + GAP
    return nodes


def _path(start: float, end: float, height: float) -> str:
    """A band from the right edge of the left column to the left edge of the right one."""
    one, other = LEFT + COLUMN, RIGHT
    middle = (one + other) / 2
    a, b, c, d = (round(value, 1) for value in (start, end, end + height, start + height))
    return f"M{one},{a}C{middle},{a} {middle},{b} {other},{b}L{other},{c}C{middle},{c} {middle},{d} {one},{d}Z"
