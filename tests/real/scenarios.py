"""What of a corpus is said, and as of when: all of it as it is, as a backlog of years, or its negative feedback alone. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from real.corpora import Said

AGE = timedelta(days=3 * 365)
OF_TODAY = 50  # interactions of a backlog, with what is said of them
NEGATIVE = ("validation_failure", "explicit_negative")


def as_it_is(lines: Iterable[Said]) -> list[Said]:
    return list(lines)


def backlog(lines: Iterable[Said]) -> list[Said]:
    """All of it three years ago, but for the last judged interactions, which are of today."""
    said = list(lines)
    judged = list(dict.fromkeys(line.fields["interaction_id"] for line in said if line.kind == "feedback"))
    today = frozenset(judged[-OF_TODAY:])
    now = datetime.now(UTC)
    times = {True: now.isoformat(), False: (now - AGE).isoformat()}
    return [line._replace(time=times[line.fields["interaction_id"] in today]) for line in said]


def negatives(lines: Iterable[Said]) -> list[Said]:
    """Interactions that got negative feedback, with that alone: nobody corrects anything, nobody praises anything."""
    said = list(lines)
    bad = [line for line in said if line.kind == "feedback" and _is_negative(line)]
    kept = {line.fields["interaction_id"] for line in bad}
    return [line for line in said if line.fields["interaction_id"] in kept and (line.kind == "interaction" or _is_negative(line))]


def _is_negative(line: Said) -> bool:
    score = line.fields.get("score")
    said_bad = line.fields["kind"] in NEGATIVE and (score is None or score < 50)
    return "corrected_output" not in line.fields and (said_bad or (score is not None and score < 50))


SCENARIOS: dict[str, Callable[[Iterable[Said]], list[Said]]] = {"": as_it_is, "backlog": backlog, "negatives": negatives}


def parted(name: str) -> tuple[str, str]:
    """`backlog:docs_pandalm` as scenario and corpus; a corpus alone is of the scenario "". ValueError for no scenario."""
    scenario, _, corpus = name.rpartition(":")
    if scenario not in SCENARIOS:
        raise ValueError(f"{name}: {scenario!r} is none of {', '.join(filter(None, SCENARIOS))}")
    return scenario, corpus
