"""Which names say that what they name is private, and which values are private then. Knows no event and no pattern's place.

The same judgement for `password = "…"` inside a text and for {"password": "…"} as an object.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from headrace_processors.intake.scrub.pattern import is_mixed, looks_random

Strength = Literal["password", "key", "random"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_PASSWORD = _words("password passwd passphrase passcode pwd pass passwort kennwort contrasena senha motdepasse")
_AT_END = ("password", "passwd", "passphrase", "passwort")
_KEY = _words("secret token credential credentials apikey authtoken accesstoken secretkey accesskey privatekey authkey")
_BEFORE_KEY = _words(
    "api access secret private encryption signing account master auth service client license session ssh deploy webhook shared "
    "storage subscription hmac app application consumer integration admin"
)
_RANDOM = _words("key auth sig signature salt cert creds cred pw sas dsn bearer authorization cookie hash")
_AFTERWARDS = _words("value new old current confirm confirmation text plain raw str string base64 b64 1 2")

# Values that stand for another: variables, templates, masks, types, and what a form says.
_STANDS_FOR = re.compile(
    r"[$%<{*].*|\[[A-Za-z0-9_]+\].*|.*[>}*]|\.{2,}.*|x+|X+|[•●]+|(?:\w*[\s_-])?(?:your|my|dummy|placeholder|redacted|changeme|example)[\s_-].*"
    r"|(?:your|redacted|hidden|masked|placeholder|removed|secret|none|null|nil|true|false|undefined|string|str|text|int|number"
    r"|boolean|bool|bytes|any|object|optional|required|varchar.*|env|vault|sensitive|empty|n/a|unset|default|literal|self|this)",
    re.IGNORECASE | re.DOTALL,
)
_SENTENCE = _words(
    "must is are the at least should required incorrect invalid enter your please to for and or not wrong match matches "
    "characters reset forgot forgotten change new old confirm current a an be of in on with does do minimum maximum field "
    "expired too short long weak strong contains contain cannot can't"
)
_CODE = re.compile(r"[A-Za-z_][A-Za-z_]*(?:[.:\[(]+[A-Za-z_]\w*)+[\])]*|[a-z]+(?:_[a-z]+)+|[A-Z]+(?:_[A-Z]+)+")
_LONGEST = 4096  # characters of a password or key; what is longer is a text, and looked at as one
PLACEHOLDER = re.compile(r"\[[A-Z][A-Z0-9_]*_[0-9]+\]")
_PLACEHOLDERS = re.compile(r"\s*(?:\[[A-Z][A-Z0-9_]*_[0-9]+\]\s*)+")  # one way to match only: Python backtracks


@lru_cache(8192)
def strength(name: str) -> Strength | None:
    """What a name says of its value: a password (nearly anything), a key or token (letters and digits), perhaps one (random)."""
    if len(name) > 80:
        return None
    words = [word.lower() for word in _WORD.findall(name)]
    while len(words) > 1 and words[-1] in _AFTERWARDS:
        words.pop()
    if not words:
        return None
    last, previous = words[-1], words[-2] if len(words) > 1 else ""
    if last not in _PASSWORD and last.removesuffix("s") in _PASSWORD | _KEY | {"key"}:
        last = last.removesuffix("s")
    if last in _PASSWORD or previous + last in _PASSWORD or last.endswith(_AT_END):  # PGPASSWORD
        return "password"
    if last in _KEY or (last == "key" and previous in _BEFORE_KEY):
        return "key"
    return "random" if last in _RANDOM else None


def is_private(how: Strength, value: str, *, name: str, quoted: bool) -> bool:
    """Whether the value of such a name is what the name says, rather than a variable, a type, a label or a sentence."""
    if not 4 <= len(value) <= _LONGEST or _STANDS_FOR.fullmatch(value) or _PLACEHOLDERS.fullmatch(value):
        return False
    if how == "random":
        return not any(char.isspace() for char in value) and looks_random(value)
    alone = not any(char.isspace() for char in value)
    if how == "key":
        if not alone or len(value) < 8 or not is_mixed(value):
            return False
        return quoted or looks_random(value) or sum(char.isdigit() for char in value) > 1
    lower = value.lower()
    if any(word in lower for word in ("password", "passwort", "passwd", "passphrase")):
        return False
    if not alone:
        return quoted and len(value) <= 128 and not _SENTENCE & {word.strip(".,:;!?'") for word in lower.split()}
    if quoted:
        return not _CODE.fullmatch(value) and lower != name.lower()
    return len(value) >= 6 and not _CODE.fullmatch(value) and (is_mixed(value) or any(char in "!@#%^&*+?" for char in value))
