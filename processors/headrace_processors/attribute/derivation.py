"""What a derivation is: a small pure thing with a name and a version that sees signs in a session. Knows no event and no state.

It is given the turns and reports of one session, in the order of event time, and says what it sees of which interaction, and in
what. It reads no clock and no setting but its row of the policy: the same session always gives the same, or replay would differ.
Another decision is another version. Ours are in implicit.py; a team's own is named by the policy's `rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import NamedTuple, Protocol

GROUP = "headrace.derivations"
Scalar = str | int | float | bool


class SessionTurn(NamedTuple):
    """An interaction of the session; `time_ns`: when its output was complete. Sketches: None where there is no text."""

    interaction_id: str
    time_ns: int
    agent: str | None = None
    latency_ms: float | None = None
    question: str | None = None
    output: str | None = None
    context: str | None = None

    @property
    def asked_ns(self) -> int:
        """When it was asked, as far as that is known; else when it was answered."""
        return self.time_ns - int((self.latency_ms or 0) * 1_000_000)


class SessionReport(NamedTuple):
    """Something that an agent reported of the session. `name`: of what, such as a path; `about`: the interaction it names."""

    report_id: str
    time_ns: int
    kind: str
    name: str = ""
    about: str = ""
    content: str | None = None  # sketch


class SessionSign(NamedTuple):
    """What is seen of one interaction. `time_ns`: since when; `causes`: ids of the turns and reports that it is seen in."""

    interaction_id: str
    time_ns: int
    causes: tuple[str, ...]


class DerivationOptions(Protocol):
    """What a derivation reads of its row of the policy."""

    @property
    def within_ns(self) -> int: ...
    @property
    def least(self) -> float: ...
    @property
    def options(self) -> Mapping[str, Scalar]: ...


Find = Callable[[Sequence[SessionTurn], Sequence[SessionReport], DerivationOptions], Iterable[SessionSign]]


class Derivation(NamedTuple):
    """`reads`: kinds of feedback on a session that are reports to it, and no outcome that is credited. The last two: what holds
    where the policy says nothing."""

    name: str
    version: int
    find: Find
    reads: tuple[str, ...] = ()
    within_minutes: float = 60.0
    similarity: float = 0.8


def derivation_of(rule: str) -> Derivation:
    """One of ours by its name, an installed entry point of the group, or `module:attribute`. ValueError where there is none."""
    from headrace_processors.attribute.implicit import BUILT_IN

    if rule in BUILT_IN:
        return BUILT_IN[rule]
    offered = {} if ":" in rule else {entry.name: entry for entry in entry_points(group=GROUP)}
    if ":" not in rule and rule not in offered:
        known = ", ".join(sorted({*BUILT_IN, *offered}))
        raise ValueError(f"derivation {rule!r} is not installed; there are {known}, or name module:attribute as its rule")
    module, _, attribute = rule.partition(":")
    try:
        found = offered[rule].load() if rule in offered else getattr(import_module(module), attribute)
    except Exception as error:  # a module may fail with any
        raise ValueError(f"derivation {rule!r}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Derivation):
        raise ValueError(f"derivation {rule!r}: is a {type(found).__name__}, not a Derivation")
    return found
