"""Patterns of secrets: keys that a provider's prefix gives away, private keys, tokens, passwords beside their names or in URLs.

Prefixes and lengths are those of the providers' documentation. Knows no text but what a match is in.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import re2

from headrace_processors.intake.scrub.names import PLACEHOLDER, is_private, strength
from headrace_processors.intake.scrub.pattern import Pattern, Span, after, before, entropy, is_mixed, looks_random, whole

KIND = "secret"

# No pattern asks what stands before it, and repeats are open at the end: a match next to another one must not depend on whether
# that one has been replaced already (and a bound would only cost states).
_NAMED = (
    ("(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA|ABIA|ACCA)", "[0-9A-Z]{16,}"),  # AWS
    ("AIza", "[0-9A-Za-z_-]{35,}"),  # Google
    (r"ya29\.", "[0-9A-Za-z_-]{20,}"),
    ("GOCSPX-", "[0-9A-Za-z_-]{20,}"),
    ("1//0", "[0-9A-Za-z_-]{30,}"),
    ("[0-9]Q~", r"[A-Za-z0-9_~.-]{31,}"),  # Azure: client secret
    ("gh[pousr]_", "[A-Za-z0-9]{30,}"),
    ("github_pat_", "[A-Za-z0-9_]{22,}"),
    ("gl(?:pat|dt|rt|ptt|ft|soat|cbt|agent|imt)-", "[A-Za-z0-9_.-]{20,}"),
    ("xox[abceoprs]-", "[A-Za-z0-9-]{10,}"),  # Slack
    ("xapp-", "[A-Za-z0-9-]{20,}"),
    ("[rs]k_(?:live|test)_", "[A-Za-z0-9]{16,}"),  # Stripe
    ("whsec_", "[A-Za-z0-9+/=]{24,}"),
    ("hf_", "[A-Za-z0-9]{30,}"),
    ("npm_", "[A-Za-z0-9]{36,}"),
    ("pypi-", "[A-Za-z0-9_-]{50,}"),
    (r"SG\.[A-Za-z0-9_-]{8}", r"[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}"),  # SendGrid
    ("do[opr]_v1_", "[a-f0-9]{64,}"),  # DigitalOcean
    ("shp(?:at|ca|pa|ss)_", "[a-fA-F0-9]{32,}"),  # Shopify
    ("sq0(?:atp|csp)-", "[0-9A-Za-z_-]{22,}"),  # Square
    ("dapi", "[a-f0-9]{32,}"),  # Databricks
    (r"hv[sb]\.", "[A-Za-z0-9_-]{24,}"),  # Vault
    ("dckr_pat_", "[A-Za-z0-9_-]{20,}"),
    ("lin_api_", "[A-Za-z0-9]{32,}"),
    ("gsk_", "[A-Za-z0-9]{40,}"),
    ("xai-", "[A-Za-z0-9]{40,}"),
    ("r8_", "[A-Za-z0-9]{32,}"),
    ("ATATT3", "[A-Za-z0-9_=-]{60,}"),  # Atlassian
    ("gl(?:sa|c)_", "[A-Za-z0-9+/=_]{32,}"),  # Grafana
    ("NRAK-", "[A-Z0-9]{27,}"),
    ("ntn_", "[A-Za-z0-9]{40,}"),
    ("key-", "[0-9a-f]{32,}"),  # Mailgun
    ("SK", "[0-9a-f]{32,}"),  # Twilio
    ("AGE-SECRET-KEY-1", "[A-Z0-9]{50,}"),
    (r"[0-9]{8,10}:AA", "[A-Za-z0-9_-]{32,}"),  # Telegram
)
_BEGIN = r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
_END = r"-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
_SAYS_KEY = (
    r"(?:pass|pwd|passwort|kennwort|contrasena|senha|secret|token|credentials?|key|auth|sig|signature|salt|creds?|pw|sas|dsn|bearer"
    r"|authorization|cookie|passwd|password|passphrase|passcode)"
)
_MARKS = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"
_NAME_MARKS = rf"\\*[{_MARKS}]?\]?"
_OPERATOR = r"[ \t]{0,8}(?:=>|:=|==?|:)[ \t]{0,8}"
_BARE = rf"[^\s{_MARKS},;(){{}}\[\]<>&|\\]{{4,}}"
_QUOTED = rf"[^{_MARKS}\n\\]{{4,200}}"
_CONTEXT = r"(?i)(?:aws|secret|api[ _-]?key|access[ _-]?key|token|password|credential|private[ _-]?key)"
_DIGEST_WORDS = re.compile(
    r"commit|sha-?\d*|digest|hash|revision|rev|checksum|tree|parent|blob|etag|md5|uuid|guid", re.IGNORECASE
)
_IN_BASE64 = (b"-----BEGIN", b"AKIA", b"ASIA", b"ghp_", b"glpat-", b"xoxb-", b"sk-", b"sk_live_", b"password", b"api_key")


def _is_long_run(match: Any, text: str) -> Span | None:
    """Words are shorter, or have no digit: task-names-like-this are none."""
    value = match.group()
    return whole(match) if any(len(run) >= 16 and is_mixed(run) for run in re.split("[-_]", value)) else None


def _has_digit(match: Any, text: str) -> Span | None:
    """A word of prose or code has none; a key or token of this length practically always has one."""
    return match.span(1) if any(char.isdigit() for char in match.group(1)) else None


def _is_assigned(match: Any, text: str) -> Span | None:
    """The value beside a name that says what it is; not a call, an attribute, a type or a variable."""
    name, how = match.group(1), strength(match.group(1))
    quoted = match.group(2) is not None and match.start(2) >= 0
    value = match.group(3) if quoted else match.group(4)
    if how is None or value is None or (before(match, text) == "[" and PLACEHOLDER.match(text, match.start() - 1)):
        return None
    span: Span = match.span(3) if quoted else match.span(4)
    if not quoted:
        if after(match, text) in ("(", "[", "{") and not value.endswith(("=", "/")):
            return None
        value = value.rstrip(".:,!?")
        span = (span[0], span[0] + len(value))
        # as an environment file writes it: NAME=correcthorse
        if how == "password" and name.isupper() and text[match.end(1) : span[0]] == "=" and value.islower() and len(value) >= 6:
            return span if is_private(how, value, name=name, quoted=True) else None
    return span if is_private(how, value, name=name, quoted=quoted) else None


def _is_said(match: Any, text: str) -> Span | None:
    """`the password is hunter2`; a word alone is none."""
    value = match.group(1).rstrip(".,;:!?)")
    private = is_mixed(value) or any(char in "!@#$%^&*" for char in value[1:])
    span = match.start(1), match.start(1) + len(value)
    return span if private and is_private("password", value, name="", quoted=False) else None


def _is_bare_key(match: Any, text: str) -> Span | None:
    """Forty characters and more beside the word secret or key: random, and no digest of something."""
    value, between = match.group(1), PLACEHOLDER.sub("", text[max(0, match.start() - 1) : match.start(1)])
    if not re.search(_CONTEXT, between):
        return None  # a placeholder's own name is no context
    if _DIGEST_WORDS.search(between) or value.count("/") > 4:
        return None
    if re.fullmatch("[0-9a-f]+", value):
        return match.span(1) if len(value) in (32, 40, 48, 64) and entropy(value) > 3 else None
    return match.span(1) if looks_random(value) and entropy(value) >= 3.8 else None


def _is_beside_id(match: Any, text: str) -> Span | None:
    """An AWS secret key has no mark of its own but its id near it: forty characters, random, and no digest of something."""
    value, between = match.group(2), match.group(1)
    if _DIGEST_WORDS.search(between) or value.count("/") > 4 or not looks_random(value):
        return None
    return match.span(2) if entropy(value) >= 3.8 else None


def _is_url_password(match: Any, text: str) -> Span | None:
    """What stands between colon and @ of a URL, unless it is a variable or a placeholder."""
    value = match.group(1)
    return None if re.fullmatch(r"[$<{%\[].*[>}\])%]?|\*+|\$\w+", value) else match.span(1)


def _is_base64_of_a_secret(match: Any, text: str) -> Span | None:
    value = match.group()
    try:
        decoded = base64.b64decode(value[: len(value) // 4 * 4])
    except (binascii.Error, ValueError):
        return None
    return whole(match) if _KNOWN_SECRET.search(decoded) else None


def _starts(prefixes: tuple[bytes, ...]) -> str:
    """The characters with which the base64 of something begins that begins so."""
    return "|".join(base64.b64encode(prefix)[: len(prefix) * 4 // 3].decode() for prefix in prefixes)


def _is_named(match: Any, text: str) -> Span | None:
    """A prefix of letters and digits alone must not stand inside a longer word."""
    return None if match.group()[:2].isalnum() and before(match, text).isalpha() and match.group()[:3] in _SHORT else whole(match)


_SHORT = frozenset({"dap", "r8_", "key", "xai", "npm", "hf_"}) | {f"SK{digit}" for digit in "0123456789abcdef"}
_KNOWN = "|".join(prefix + rest for prefix, rest in _NAMED)
_KNOWN_SECRET = re2.compile(
    rf"{_KNOWN}|sk-[A-Za-z0-9_-]{{20,}}|PRIVATE KEY|(?i)(?:password|passwd|api_?key|secret|token)[\"']?\s?[:=]".encode()
)

PATTERNS = (
    Pattern(KIND, "PRIVATE KEY", _BEGIN + r"(?:\s*[A-Za-z-]+:[^\n]*\n)*[A-Za-z0-9+/=\s\\]*(?:" + _END + ")?"),
    Pattern(KIND, "PuTTY-User-Key-File-", r"PuTTY-User-Key-File-[\s\S]*?Private-MAC: [0-9a-f]+"),
    Pattern(KIND, "|".join(prefix for prefix, _ in _NAMED), _KNOWN, _is_named),
    # OpenAI, Anthropic and who followed them
    Pattern(KIND, r"sk-[A-Za-z0-9_-]{8}", r"sk-[A-Za-z0-9_-]{20,}", _is_long_run),
    Pattern(KIND, r"eyJ[A-Za-z0-9_-]{5}", r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"),  # JWT, RFC 7519
    Pattern(KIND, r"(?i)(?:bearer|basic)\s", r"(?i)(?:bearer|basic)\s{1,4}([A-Za-z0-9._~+/=-]{16,})", _has_digit),
    Pattern(KIND, r"\$(?:2[abxy]|argon2(?:id|i|d)|[156])\$",  # hashes of passwords
            r"\$2[abxy]\$[0-9]{2}\$[./A-Za-z0-9]{53}|\$argon2(?:id|i|d)\$[A-Za-z0-9+/=,$.-]{20,}|\$[156]\$[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{22,}"),
    Pattern(KIND, r":[^\s/@]+@", r"[A-Za-z]://[^\s/:@]*:([^\s/@]+)@", _is_url_password),
    Pattern(KIND, r"hooks\.slack\.com/|discord(?:app)?\.com/api/webhooks/",
            r"(?:hooks\.slack\.com/(?:services|workflows)/|discord(?:app)?\.com/api/webhooks/)[A-Za-z0-9_/-]{20,}"),
    Pattern(KIND, r"(?i)(?:AccountKey|SharedAccessKey|SharedAccessSignature|[?&]sig)=",
            r"(?i)(?:AccountKey|SharedAccessKey|SharedAccessSignature|[?&]sig)=([A-Za-z0-9+/%=_-]{20,})",
            lambda match, text: match.span(1)),
    Pattern(
        KIND,
        rf"(?i){_SAYS_KEY}[A-Z0-9_-]{{0,20}}{_NAME_MARKS}[ \t]{{0,8}}[:=]",
        rf"(?i)((?:[A-Z0-9]+[_.-]?)*?{_SAYS_KEY}[A-Z0-9_-]{{0,20}}){_NAME_MARKS}{_OPERATOR}(?:\\*([{_MARKS}])({_QUOTED})|({_BARE}))",
        _is_assigned,
    ),
    Pattern(
        KIND,
        r"(?i)(?:password|passwd|passcode|passphrase|passwort|kennwort|pin|pwd)\s+(?:is|was|ist|lautet)\b",
        rf"(?i)(?:password|passwd|passcode|passphrase|passwort|kennwort|pin|pwd)\s+(?:is|was|ist|lautet)[\s:]+[{_MARKS}]?"
        rf"([^\s{_MARKS}]{{4,64}})",
        _is_said,
    ),
    Pattern(
        KIND,
        _CONTEXT + r"[^\n]{0,60}?[A-Za-z0-9/+_=-]{32}",
        _CONTEXT + r"[^\n]{0,60}?(?:^|[^A-Za-z0-9/+_=\n-])([A-Za-z0-9/+_-]{32,128}={0,2})",
        _is_bare_key,
    ),
    Pattern(KIND, _starts(_IN_BASE64), rf"(?:{_starts(_IN_BASE64)})[A-Za-z0-9+/]{{12,}}={{0,2}}", _is_base64_of_a_secret),
)  # fmt: skip

# Since version 3 of the rules.
BESIDE_ID = Pattern(
    KIND,
    "(?:AKIA|ASIA)[0-9A-Z]{16}",
    r"(?:AKIA|ASIA)[0-9A-Z]{16,}([\s\S]{0,120}?[^A-Za-z0-9/+=])([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)",
    _is_beside_id,
)

# Until version 5 the condition forgot what stands between a key and what is said before it: one as far away as may be was missed.
_BARE_KEY = _CONTEXT + r"[^\n]{0,61}?[A-Za-z0-9/+_=-]{32}"
PATTERNS_5 = tuple(rule._replace(necessary=_BARE_KEY) if rule.judge is _is_bare_key else rule for rule in PATTERNS)
