"""Private text becomes placeholders: e-mail addresses and secrets (keys, tokens, passwords) in one string. Knows no event.

Two steps, both in time linear in the text (RE2 never backtracks): one `re2.Set` of *necessary* conditions says which kinds a
text may hold at all, and only those kinds' exact patterns then run. A necessary condition has no word border and no long
repeat, and never misses what its exact pattern finds (a test holds that). Placeholders are typed and stable, `[email]` and
`[secret]`, and match nothing themselves, so scrubbing twice is scrubbing once. What a pattern finds may still be kept by its
check, which tells `x@y.transpose(` from an address and `token = tokenizer` from a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import re2

EMAIL = "[email]"
SECRET = "[secret]"
Check = Callable[[Any, str], bool]  # (match, text): whether it is private after all


class FirstPattern(NamedTuple):
    """`necessary` holds of every text in which `exact` finds something. Group 1, where there is one, is what is replaced."""

    kind: str
    necessary: str
    exact: str
    check: Check | None = None


def _is_address(match: Any, text: str) -> bool:
    """Not a call on a matrix product (`x@w.sum(`), nor the user of a git remote (`git@host.org:path`)."""
    following = text[match.end() : match.end() + 1]
    return following != "(" and not (following == ":" and match.group().startswith("git@"))


def _has_digit(match: Any, text: str) -> bool:
    """A word of prose or code has none; a key or token of this length practically always has one."""
    return any(char.isdigit() for char in match.group(1))


def _has_long_run(match: Any, text: str) -> bool:
    """Words are shorter, or have no digit."""
    return any(len(run) >= 16 and _mixed(run) for run in match.group().replace("_", "-").split("-"))


def _is_assigned(match: Any, text: str) -> bool:
    """`token = next_token2(x)` is a call; `password: "abcdefgh"` is a password without any digit."""
    value, quoted = match.group(3), bool(match.group(2))
    if text[match.end() : match.end() + 1] == "(":
        return False
    return _mixed(value) or (quoted and match.group(1).lower().startswith(("pass", "pwd")))


def _mixed(value: str) -> bool:
    return any(char.isdigit() for char in value) and any(char.isalpha() for char in value)


# Keys that a provider's prefix gives away. No pattern asks what stands before it, and repeats are open at the end: a match next
# to another one must not depend on whether that one has been replaced already (and a bound would only cost states).
_NAMED = (
    r"(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[0-9A-Z]{16,}",  # AWS
    r"gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,}",
    r"glpat-[A-Za-z0-9_-]{20,}",
    r"xox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
    r"AIza[0-9A-Za-z_-]{35,}|ya29\.[0-9A-Za-z_-]{20,}",  # Google
    r"hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36,}|pypi-[A-Za-z0-9_-]{50,}",
    r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
    r"do[opr]_v1_[a-f0-9]{64,}",  # DigitalOcean
)
_BEGIN = r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
_END = r"-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
_KEY_NAME = (
    r"(?:api|access|secret|private|encryption|signing|account)[_-]?key|client[_-]?secret|secret"
    r"|(?:access|auth|refresh|id|api|bearer|session)?[_-]?token|password|passwd|passphrase|pwd"
)

PATTERNS = (
    FirstPattern("secret", "PRIVATE KEY", _BEGIN + r"(?:\s*[A-Za-z-]+:[^\n]*\n)*[A-Za-z0-9+/=\s\\]*(?:" + _END + ")?"),
    FirstPattern(
        "secret",
        r"AKIA|ASIA|AGPA|AIDA|AROA|ANPA|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|[rs]k_(?:live|test)_"
        r"|AIza|ya29\.|hf_[A-Za-z0-9]{8}|npm_[A-Za-z0-9]{8}|pypi-[A-Za-z0-9_-]{8}|SG\.[A-Za-z0-9_-]{8}|do[opr]_v1_",
        "|".join(_NAMED),
    ),
    # OpenAI, Anthropic and who followed them; task-names-like-this are told apart by the check
    FirstPattern("secret", r"sk-[A-Za-z0-9_-]{8}", r"sk-[A-Za-z0-9_-]{20,}", _has_long_run),
    FirstPattern(
        "secret", r"eyJ[A-Za-z0-9_-]{5}", r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"
    ),  # JWT, RFC 7519
    FirstPattern("secret", r"(?i)(?:bearer|basic)\s", r"(?i)(?:bearer|basic)\s{1,4}([A-Za-z0-9._~+/=-]{16,})", _has_digit),
    FirstPattern("secret", r":[^\s/@]+@", r"[a-z]://[^\s/:@]*:([^\s/@]+)@"),  # user:password in a URL
    FirstPattern(
        "secret",
        r"(?i)(?:key|secret|token|passwd|password|passphrase|pwd)[\"']?[ \t]{0,3}[:=]",
        r"(?i)(" + _KEY_NAME + r")[\"']?[ \t]{0,3}(?::=|=>|[:=])[ \t]{0,3}([\"']?)([A-Za-z0-9_.~!$%^&*+/=-]{8,})",
        _is_assigned,
    ),
    FirstPattern(
        "email", r"@[A-Za-z0-9-]+\.[A-Za-z]", r"[\pL\pN_][\pL\pN._%+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,24}", _is_address
    ),
)


class FirstScrubber:
    """The patterns of the wanted kinds, compiled. Immutable and safe to share."""

    def __init__(self, kinds: Iterable[str] = ("email", "secret")) -> None:
        wanted = frozenset(kinds)
        self._rules = [
            (re2.compile(pattern.exact), EMAIL if pattern.kind == "email" else SECRET, pattern.check)
            for pattern in PATTERNS
            if pattern.kind in wanted
        ]
        self._set = None
        if self._rules:
            self._set = re2.Set.SearchSet()
            for pattern in PATTERNS:
                if pattern.kind in wanted:
                    self._set.Add(pattern.necessary)
            self._set.Compile()

    def suspects(self, text: str) -> list[int]:
        """Which rules may find something in `text` (several texts may be joined, by a newline); mostly none."""
        return [] if self._set is None else sorted(self._set.Match(text) or ())

    def clean(self, text: str, rules: Iterable[int] | None = None) -> str:
        """`text` with placeholders, by those `rules` (default: by what `suspects` says of it); itself when nothing is found."""
        for index in self.suspects(text) if rules is None else rules:
            pattern, placeholder, check = self._rules[index]
            text = _replace(pattern, placeholder, check, text)
        return text


def _replace(pattern: Any, placeholder: str, check: Check | None, text: str) -> str:
    pieces: list[str] = []
    end = 0
    last = pattern.groups
    for match in pattern.finditer(text):
        if check is None or check(match, text):
            pieces += (text[end : match.start(last)], placeholder)
            end = match.end(last)
    return "".join([*pieces, text[end:]]) if pieces else text
