"""What of a base can be trained, a row each: what that needs and costs, and what can serve what it yields. No torch: who reads a
policy asks here.
"""

from __future__ import annotations

from typing import NamedTuple


class Method(NamedTuple):
    """`learns`, `costs`: for people. `quantised`: whether the base has to be held in four bits; None: either. `whole`: all layers
    are trained, and not an adapter on them; what serves it has to merge it into the base."""

    name: str
    learns: str
    costs: str
    quantised: bool | None = None
    whole: bool = False


_ROWS = (
    Method("lora", "an adapter of low rank on layers of the base", "the base and four times the adapter in memory"),
    Method(
        "full", "all layers of the base, but an embedding that is also its output", "five times the base in memory",
        quantised=False, whole=True,
    ),
    Method(
        "qlora", "an adapter of low rank on a base in four bits", "a quarter of lora's memory", quantised=True
    ),
)  # fmt: skip
METHODS = {row.name: row for row in _ROWS}
