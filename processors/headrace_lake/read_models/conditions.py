"""Decisions as a tree of conditions: each with its value, its bound and since when it holds. Pure; decides nothing by itself."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class ConditionNode(Struct, frozen=True, kw_only=True):
    """A condition. `holds` is None where it was not asked; `since_ms`: when it came to be so, where that is known; `policy_key`
    names the line of the policy that has the bound. Of several `parts` all, any or none must hold."""

    name: str
    holds: bool | None
    value: float | str | None = None
    bound: float | str | None = None
    since_ms: int | None = None
    note: str = ""
    policy_key: str | None = None
    needs: Literal["all", "any", "none"] = "all"
    parts: list[ConditionNode] = []


def joined(name: str, parts: list[ConditionNode], needs: Literal["all", "any", "none"] = "all", note: str = "") -> ConditionNode:
    """A condition of others: what was not asked neither holds it up nor fulfils it."""
    asked = [part.holds for part in parts if part.holds is not None]
    holds = all(asked) if needs == "all" else any(asked) if needs == "any" else not any(asked)
    return ConditionNode(name=name, holds=holds, parts=parts, needs=needs, note=note)
