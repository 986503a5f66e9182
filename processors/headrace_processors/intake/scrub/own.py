"""Rules of scrubbing that people write themselves, as they stand in the policy. Knows RE2's syntax; no text.

[[intake.rules]]
name = "customer"
pattern = "K-[0-9]{8}"
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from headrace_streams.policy import Policy

PATTERN_LIMIT = 1000  # characters
RULES_LIMIT = 100
PROGRAM_LIMIT = 1000  # instructions of a compiled pattern: at worst, each character of a text costs as many

KindName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,29}$")]


class OwnRule(Policy):
    """A pattern of private text of one's own. What is found becomes `[NAME_1]`, or `[KIND_1]` where a kind is given."""

    name: KindName = Field(description="what it finds")
    pattern: str = Field(min_length=1, max_length=PATTERN_LIMIT, description="RE2 syntax: no look-around, no back-references")
    necessary: str | None = Field(
        None, min_length=1, max_length=PATTERN_LIMIT, description="a cheaper pattern that holds wherever `pattern` does"
    )
    kind: KindName | None = Field(None, description="what its placeholders are called, instead of `name`")

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        for field, pattern in (("pattern", self.pattern), ("necessary", self.necessary)):
            if pattern is not None:
                _check(field, pattern)
        return self


def _check(field: str, pattern: str) -> None:
    import re2  # of the extra `worker`: whoever only reads other settings has no need of it

    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0]
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"{field} {pattern!r} is not RE2 syntax (no look-around, no back-references): {reason}") from None
    if compiled.programsize > PROGRAM_LIMIT:
        raise ValueError(
            f"{field} {pattern[:80]!r} is too large, {compiled.programsize} instructions; at most {PROGRAM_LIMIT}: repeat less"
        )
    if compiled.search("") is not None:
        raise ValueError(f"{field} {pattern!r} matches the empty text, that is everywhere; let it begin with what it is about")
