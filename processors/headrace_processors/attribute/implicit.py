"""The derivations that are ours: rephrased, kept, undone. Pure; know turns and reports of one session, by their sketches alone.

Weak signs: a question that is much like the one before is a sign that the answer was no good, not a proof. What each is worth
stands in the policy of reward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from headrace_processors.attribute.derivation import Derivation, DerivationOptions, SessionReport, SessionSign, SessionTurn
from headrace_processors.sketches import containment, overlap
from headrace_schemas.session_feedback import CONTENT, UNDONE

STANDS = 0.5  # of an output from which on it is taken to stand in a content, where the question is whether it was taken out
DAY = 24 * 60.0


def rephrased(
    turns: Sequence[SessionTurn], reports: Sequence[SessionReport], options: DerivationOptions
) -> Iterator[SessionSign]:
    """Of an answer after which the same agent was asked nearly the same at once. What was asked before it was there, as of
    several samples, is no second try."""
    for agent in dict.fromkeys(turn.agent for turn in turns):
        for before, after in pairwise([turn for turn in turns if turn.agent == agent]):
            if not 0 <= after.asked_ns - before.time_ns <= options.within_ns:
                continue
            if overlap(before.question, after.question) >= options.least:
                yield SessionSign(before.interaction_id, after.time_ns, (before.interaction_id, after.interaction_id))


def kept(turns: Sequence[SessionTurn], reports: Sequence[SessionReport], options: DerivationOptions) -> Iterator[SessionSign]:
    """Of an output that stands in what was last reported of something, and did not before, or in the context of a later turn."""
    for turn in turns:
        for report in _last_after(turn, reports, options.within_ns):
            before = _before(turn, report.name, reports)
            was_there = before is not None and _stands(turn, before)
            if not was_there and containment(turn.output, report.content) >= options.least:
                yield SessionSign(turn.interaction_id, report.time_ns, (turn.interaction_id, report.report_id))
                break
        else:
            for later in turns:
                if not 0 < later.time_ns - turn.time_ns <= options.within_ns:
                    continue
                if containment(turn.output, later.context) >= options.least:
                    yield SessionSign(turn.interaction_id, later.time_ns, (turn.interaction_id, later.interaction_id))
                    break


def undone(turns: Sequence[SessionTurn], reports: Sequence[SessionReport], options: DerivationOptions) -> Iterator[SessionSign]:
    """Of an output that an agent says was taken back: the one that it names, or the last before; and of one that stood in
    something for a while, which now is as it was before."""
    for turn in turns:
        for report in reports:
            if report.kind == UNDONE and _is_meant(report, turn, turns, options.within_ns):
                yield SessionSign(turn.interaction_id, report.time_ns, (turn.interaction_id, report.report_id))
                break
        else:
            for report in _last_after(turn, reports, options.within_ns):
                before = _before(turn, report.name, reports)
                if before is None or _stands(turn, report):
                    continue
                there = next((each for each in _between(turn, report, reports) if _stands(turn, each)), None)
                if there is not None and overlap(before.content, report.content) >= options.least:
                    causes = (turn.interaction_id, before.report_id, there.report_id, report.report_id)
                    yield SessionSign(turn.interaction_id, report.time_ns, causes)
                    break


def _is_meant(report: SessionReport, turn: SessionTurn, turns: Sequence[SessionTurn], within_ns: int) -> bool:
    if report.about:
        return report.about == turn.interaction_id
    before = [each for each in turns if each.time_ns <= report.time_ns]
    return bool(before) and before[-1] == turn and report.time_ns - turn.time_ns <= within_ns


def _last_after(turn: SessionTurn, reports: Sequence[SessionReport], within_ns: int) -> list[SessionReport]:
    """Of each thing that contents were reported of, the last one in time after a turn, unless it is about another."""
    last: dict[str, SessionReport] = {}
    for report in reports:
        if (
            report.kind == CONTENT
            and report.about in ("", turn.interaction_id)
            and 0 < report.time_ns - turn.time_ns <= within_ns
        ):
            last[report.name] = report
    return list(last.values())


def _before(turn: SessionTurn, name: str, reports: Sequence[SessionReport]) -> SessionReport | None:
    """What was last reported of a thing before a turn."""
    found = [each for each in reports if each.kind == CONTENT and each.name == name and each.time_ns <= turn.time_ns]
    return found[-1] if found else None


def _between(turn: SessionTurn, last: SessionReport, reports: Sequence[SessionReport]) -> list[SessionReport]:
    """What was reported of the same thing after the turn and before the last report."""
    same = [each for each in reports if each.kind == CONTENT and each.name == last.name]
    return [each for each in same if turn.time_ns < each.time_ns < last.time_ns]


def _stands(turn: SessionTurn, report: SessionReport) -> bool:
    return containment(turn.output, report.content) >= STANDS


BUILT_IN = {
    each.name: each
    for each in (
        Derivation("rephrased", 1, rephrased, within_minutes=10.0, similarity=0.6),
        Derivation("kept", 1, kept, (CONTENT,), within_minutes=DAY, similarity=0.8),
        Derivation("undone", 1, undone, (CONTENT, UNDONE), within_minutes=DAY, similarity=0.9),
    )
}
