"""Which interactions of a session are credited with something that was said of it, and with how much. Pure arithmetic.

Shares add up to 1. What had not happened when it was said is credited with nothing: an interaction counts when its event time is
not after that of the feedback, or, where the feedback names one, when it is that one or comes before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

from headrace_processors.attribute.policy import AttributePolicy
from headrace_processors.attribute.state import SessionMember, SessionWord
from headrace_schemas.canonical import rounded


def credits_of(policy: AttributePolicy, members: Sequence[SessionMember], word: SessionWord) -> list[tuple[str, float]]:
    """(interaction id, share), the last first; none while there is nobody to credit. `members`: in their order."""
    if word.about:
        end = next((number for number, member in enumerate(members, 1) if member.interaction_id == word.about), 0)
    else:
        end = sum(member.time_ns <= word.time_ns for member in members)
    credited = [member.interaction_id for member in reversed(members[max(0, end - policy.window) : end])]
    if policy.credit == "last" or word.corrects:
        credited = credited[:1]
    return list(zip(credited, shares_of(policy, len(credited)), strict=True))


def shares_of(policy: AttributePolicy, count: int) -> list[float]:
    """Of `count` interactions, the last first: equal ones, or each `decay` of the one before; to 12 digits."""
    if policy.credit != "decay":
        return [rounded(1 / count) for _ in range(count)]
    weights = [policy.decay**number for number in range(count)]
    total = fsum(weights)
    return [rounded(weight / total) for weight in weights]
