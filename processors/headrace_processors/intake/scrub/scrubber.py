"""Finds private text and puts placeholders in its place, within a budget of work per record. Knows texts; no event.

Three steps, each in time linear in the text (RE2 never backtracks): a copy that reads as it is meant (folding.py), one `re2.Set`
of necessary conditions that says which rules may find something in this text, and only those rules' exact patterns.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import re2

from headrace_processors.intake.scrub import personal, secrets
from headrace_processors.intake.scrub.folding import Folded, fold
from headrace_processors.intake.scrub.names import PLACEHOLDER, is_private, strength
from headrace_processors.intake.scrub.own import OwnRule
from headrace_processors.intake.scrub.pattern import Judge, Pattern
from headrace_processors.intake.scrub.placeholders import Placeholders
from headrace_schemas.root_error import HeadraceError

KINDS = ("email", "phone", "ip", "iban", "card", "national_id", "secret")
PATTERNS_2: tuple[Pattern, ...] = (*secrets.PATTERNS, *personal.PATTERNS)  # of version 2 of the rules
PATTERNS_3: tuple[Pattern, ...] = (*PATTERNS_2, secrets.BESIDE_ID)  # and of versions 3 and 4
PATTERNS: tuple[Pattern, ...] = (*secrets.PATTERNS_5, *personal.PATTERNS, secrets.BESIDE_ID)
# Work is counted in characters that one exact pattern looks at (10 ns each); what else costs is counted in as many of them.
WORK_LIMIT = 64 << 20  # of one record: 0.7 s, or all rules over a megabyte without a find
MATCH_WORK = 2048  # of one find with its judgement: 20 us
FOLD_WORK = 64  # of one character of a text that needs folding: 0.6 us
RECOGNISER_WORK = 1500  # of one character that another library looks at: 14 us
_ROUNDS = 3
_ROOMY = re2.Options()
_ROOMY.max_mem = 64 << 20  # bytes: a set that runs out of memory would say that nothing matches

Recogniser = Callable[[str], Iterable[tuple[int, int, str]]]  # start, end, kind of what another library finds in a text


class WorkExceeded(HeadraceError):
    """A record has more in it that looks private than one record may cost."""


class _Rule(NamedTuple):
    """`cost`: in characters of work for each character that it looks at."""

    pattern: Any
    kind: str
    judge: Judge | None
    cost: int = 1


class _Found(NamedTuple):
    start: int
    end: int
    kind: str


class Scrubber:
    """The rules of the wanted kinds and one's own, compiled. Immutable and safe to share."""

    def __init__(
        self,
        kinds: Iterable[str] = KINDS,
        own: Sequence[OwnRule] = (),
        recogniser: Recogniser | None = None,
        *,
        patterns: Sequence[Pattern] = PATTERNS,
    ) -> None:
        wanted = frozenset(kinds)
        patterns = [pattern for pattern in patterns if pattern.kind in wanted]
        mine = [Pattern(rule.kind or rule.name, rule.necessary or rule.pattern, rule.pattern) for rule in own]
        self.by_name = "secret" in wanted
        self._recogniser = recogniser
        self._rules = [_Rule(re2.compile(pattern.exact), pattern.kind, pattern.judge) for pattern in patterns]
        for pattern in mine:
            compiled = re2.compile(pattern.exact)
            self._rules.append(_Rule(compiled, pattern.kind, None, 1 + compiled.programsize // 16))
        self._set = None
        if self._rules:
            self._set = re2.Set.SearchSet(_ROOMY)
            for pattern in (*patterns, *mine):
                self._set.Add(pattern.necessary)
            self._set.Compile()

    def may_find(self, text: str) -> bool:
        """Whether there may be something private in a text (several may be joined by newlines); mostly there is not."""
        if self._recogniser is not None or self._set is None:
            return self._recogniser is not None
        return bool(self._set.Match((text if text.isascii() else fold(text).text).encode()))

    def _suspects(self, text: str) -> list[int]:
        return [] if self._set is None else sorted(self._set.Match(text) or ())

    def find(self, folded: Folded, work: Work) -> list[_Found]:
        """Pieces of the copy that are private, in order and apart. WorkExceeded when the record has cost too much by now."""
        text, found = folded.text, []
        for index in self._suspects(text):
            rule = self._rules[index]
            work.spend(len(text) * rule.cost)
            for match in rule.pattern.finditer(text):
                work.spend(MATCH_WORK)
                start, end = (match.span() if rule.judge is None else rule.judge(match, text)) or (0, 0)
                if start < end:
                    found.append(_Found(start, end, rule.kind))
        if self._recogniser is not None:
            work.spend(len(text) * RECOGNISER_WORK)
            found += [_Found(start, end, kind) for start, end, kind in self._recogniser(text)]
        return _apart(_outside_placeholders(text, found)) if found else found


class Work:
    """What one record has cost so far."""

    def __init__(self, limit: int = WORK_LIMIT) -> None:
        self._left = limit

    def spend(self, work: int) -> None:
        """Raises WorkExceeded when nothing is left."""
        self._left -= work
        if self._left < 0:
            raise WorkExceeded("texts: more looks private in one record than it may cost; publish it in smaller pieces")


class RecordScrubber:
    """Cleans the texts of one record: placeholders that agree, counts by kind, one budget."""

    def __init__(self, scrubber: Scrubber, texts: Iterable[str], work: Work | None = None) -> None:
        self._scrubber = scrubber
        self._placeholders = Placeholders(texts)
        self._work = work or Work()

    @property
    def counts(self) -> dict[str, int]:
        """Places that got a placeholder, by kind."""
        return dict(self._placeholders.counts)

    def clean(self, text: str) -> str:
        """`text` with placeholders; itself when nothing is found. What only shows when something else is gone is found too."""
        for _ in range(_ROUNDS):
            folded = fold(text)
            if folded.starts is not None:
                self._work.spend(len(text) * FOLD_WORK)
            found = self._scrubber.find(folded, self._work)
            if not found:
                break
            text = self._replaced(text, folded, found)
        return text

    def named(self, name: str, value: Any) -> Any:
        """The value of a free field: what its name says is private as a whole becomes a placeholder, a text is cleaned."""
        if self._scrubber.by_name and (type(value) is str or type(value) is int):
            how = strength(fold(name).text)
            # a number is a password only where the name says password; tokens are counted too
            if how is not None and (type(value) is str or how == "password"):
                text = fold(str(value)).text
                if is_private(how, text, name=name, quoted=True):
                    return self._placeholders.of("secret", text)
        return self.clean(value) if type(value) is str else value

    def _replaced(self, text: str, folded: Folded, found: Sequence[_Found]) -> str:
        pieces: list[str] = []
        end = 0
        for piece in found:
            start, after = folded.original(piece.start, piece.end)
            pieces += (text[end:start], self._placeholders.of(piece.kind, folded.text[piece.start : piece.end]))
            end = max(after, end)
        return "".join([*pieces, text[end:]])


def _outside_placeholders(text: str, found: Iterable[_Found]) -> list[_Found]:
    """What was found without what is in a placeholder already, whatever a rule makes of its name."""
    placed = [match.span() for match in PLACEHOLDER.finditer(text)] if "[" in text else []
    if not placed:
        return list(found)
    begins = [start for start, _ in placed]
    outside: list[_Found] = []
    for start, end, kind in found:
        at = bisect_right(begins, start) - 1
        start = max(start, placed[at][1]) if at >= 0 else start
        at = bisect_right(begins, end - 1) - 1
        if at >= 0 and placed[at][0] > start and end < placed[at][1]:
            end = placed[at][0]
        if start < end:
            outside.append(_Found(start, end, kind))
    return outside


def _apart(found: list[_Found]) -> list[_Found]:
    """In order, with what overlaps made one piece of the kind that begins first, or of two that begin together is longer."""
    apart: list[_Found] = []
    for piece in sorted(found, key=lambda piece: (piece.start, -piece.end)):
        if apart and piece.start < apart[-1].end:
            last = apart[-1]
            apart[-1] = _Found(last.start, max(last.end, piece.end), last.kind)
        else:
            apart.append(piece)
    return apart
