"""Patterns of what belongs to a person: addresses, phone numbers, accounts, cards, national numbers. Judged by check digits
and by what stands around; knows no event.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from headrace_processors.intake.scrub import check_digits
from headrace_processors.intake.scrub.pattern import Pattern, Span, after, before, whole


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ATTRIBUTES = _words(
    "shape dtype transpose reshape sum mean size numpy values conj ravel flatten inv tolist item copy astype"
)  # of a matrix: `x@w.shape`
_FILES = _words("js mjs cjs css json ts tsx py tgz gz zip whl png jpg svg html md txt yaml yml toml lock map jar")
_DOT = r"[.\x{3002}\x{FF0E}\x{FF61}]"  # as browsers take them, Unicode Technical Standard 46
_DASH = r"[ .\-\x{2010}-\x{2015}\x{2212}]"
_VERSION = re.compile(r"(?:\bv|ver|version|release|build|assembly|==|>=|<=|~=|\w-|\w/|rev|section|§|chapter)[\s:=\"'(]*$",
                      re.IGNORECASE)  # fmt: skip
_CALLED = (
    r"(?i)(?:phone|mobile|cell|fax|tel|telefon|handy|whatsapp|mobil)(?:\s?(?:number|no|nummer|nr))?"
    r"\\?[\"']?[.:=# \t]{1,4}\\?[\"']?(?:is |at )?"
)
_NUMBERED = (
    r"(?:pesel|steuer[a-z-]*|idnr|tax[ _-]?id|nhs|bsn|burgerservicenummer|\bsin|social (?:insurance|security)|ssn)"
    r"(?:[ _-]?(?:number|no|nummer|nr|id))?\\?[\"']?(?:\s?[:=#.]|\s+is)?\s{0,3}\\?[\"']?"
)
_AREA = re.compile("[2-9][0-9]{2}[2-9][0-9]{6}")
_NUMBERS: dict[str, Callable[[str], bool]] = {
    "pesel": check_digits.is_pesel,
    "steuer": check_digits.is_tax_id, "idnr": check_digits.is_tax_id, "tax id": check_digits.is_tax_id,
    "nhs": check_digits.is_nhs,
    "bsn": check_digits.is_bsn, "burgerservicenummer": check_digits.is_bsn,
    "sin": check_digits.is_sin, "social insurance": check_digits.is_sin,
    "ssn": lambda digits: len(digits) == 9 and check_digits.is_ssn(digits),
    "social security": lambda digits: len(digits) == 9 and check_digits.is_ssn(digits),
}  # fmt: skip


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _is_apart(match: Any, text: str) -> bool:
    """No letter, digit or decimal point goes on at either end: not a piece of a longer number, name or path."""
    left, right = before(match, text), after(match, text, 2)
    if left and (left.isalnum() or left in "_./-+$#\\"):
        return False
    if right[:1] in (".", ","):
        return not right[1:].isdigit()
    return not (right[:1].isalnum() or right[:1] == "_" or (right[:1] in ("-", "/") and right[1:].isalnum()))


def _is_address(match: Any, text: str) -> Span | None:
    """Not a call on a matrix product (`x@w.sum(`), the user of a git remote (`git@host.org:path`), a version of a package
    (`lib@4.1.min.js`), nor the end of a URL's password, which is a secret."""
    following, found = after(match, text), match.group()
    last = re.split(r"[.\u3002\uff0e\uff61]", found)[-1].lower()
    domain = found.rpartition("@")[2]
    if following in ("(", "[") or last in _ATTRIBUTES or (following == ":" and found.startswith("git@")):
        return None
    if domain[:1].isdigit() and last in _FILES:
        return None
    return None if re.search(r"://[^\s/:@]*:[^\s/@]*$", before(match, text, 200)) else whole(match)


def _is_international(match: Any, text: str) -> Span | None:
    digits, found = _digits(match.group()), match.group()
    left = before(match, text)
    plausible = 8 <= len(digits) <= 15 and len(set(digits)) > 2 and not digits.endswith("000000")
    apart = not (left.isalnum() or (left in (*"+_.)", "]") and left)) and not after(match, text).isalnum()
    sum_of_terms = re.search(r"\d[ ]?\+$", before(match, text, 3) + "+") and " " not in found
    return whole(match) if plausible and apart and not sum_of_terms else None


def _is_american(match: Any, text: str) -> Span | None:
    return whole(match) if _AREA.fullmatch(_digits(match.group())[-10:]) and _is_apart(match, text) else None


def _is_called(match: Any, text: str) -> Span | None:
    found = match.group(1)
    if before(match, text).isalpha():
        return None
    return match.span(1) if 7 <= len(_digits(found)) <= 15 and not re.search(r"\d{4}-\d\d-\d\d", found) else None


def _is_ipv4(match: Any, text: str) -> Span | None:
    """A public address; a loopback, private or documentation address names nobody, and a version is none."""
    left, right = before(match, text), after(match, text, 2)
    if left.isalnum() or left in (".", "-", "_", "/") or right[:1].isalpha() or right[:1] == "_" or (
        right[:1] in (".", "-") and right[1:].isalnum()):  # fmt: skip
        return None
    octets = match.group().split(".")
    if any(int(octet) > 255 or (len(octet) > 1 and octet[0] == "0") for octet in octets) or max(map(int, octets)) < 16:
        return None
    if not ipaddress.ip_address(match.group()).is_global or int(octets[0]) >= 224:
        return None
    return None if _VERSION.search(before(match, text, 24)) else whole(match)


def _is_ipv6(match: Any, text: str) -> Span | None:
    """A global unicast address, 2000::/3; `std::vector` and times are none."""
    left, right = before(match, text), after(match, text)
    found = match.group().rstrip(":") if not match.group().endswith("::") else match.group()
    if left.isalnum() or left in ("_", ":", ".") or right.isalnum() or right in ("_", ":"):
        return None
    try:
        address = ipaddress.IPv6Address(found)
    except ValueError:
        return None
    within = len(found.split(":")[0]) == 4 and found[0] in "23" and address.is_global
    return (match.start(), match.start() + len(found)) if within else None


def _is_iban(match: Any, text: str) -> Span | None:
    """The longest piece, by whole groups, whose check digits are right."""
    found = match.group()
    if before(match, text).isalnum():
        return None
    for end in range(len(found), 14, -1):
        left, right = found[:end], text[match.start() + end : match.start() + end + 1]
        if left[-1] != " " and not right.isalnum() and check_digits.is_iban(re.sub(r"[ -]", "", left).upper()):
            return match.start(), match.start() + end
    return None


def _is_card(match: Any, text: str) -> Span | None:
    return whole(match) if check_digits.is_card(_digits(match.group())) and _is_apart(match, text) else None


def _is_ssn(match: Any, text: str) -> Span | None:
    return whole(match) if check_digits.is_ssn(_digits(match.group())) and _is_apart(match, text) else None


def _is_cpf(match: Any, text: str) -> Span | None:
    return whole(match) if check_digits.is_cpf(_digits(match.group())) and _is_apart(match, text) else None


def _is_ahv(match: Any, text: str) -> Span | None:
    return whole(match) if check_digits.is_ahv(_digits(match.group())) and _is_apart(match, text) else None


def _is_personnummer(match: Any, text: str) -> Span | None:
    return whole(match) if check_digits.is_personnummer(_digits(match.group())[-10:]) and _is_apart(match, text) else None


def _is_nir(match: Any, text: str) -> Span | None:
    return whole(match) if check_digits.is_nir(re.sub(r"[ ]", "", match.group())) and _is_apart(match, text) else None


def _is_dni(match: Any, text: str) -> Span | None:
    return whole(match) if check_digits.is_dni(re.sub(r"[ -]", "", match.group())) and _is_apart(match, text) else None


def _is_fiscal_code(match: Any, text: str) -> Span | None:
    return whole(match) if check_digits.is_fiscal_code(match.group().upper()) and _is_apart(match, text) else None


def _is_named_number(match: Any, text: str) -> Span | None:
    name = re.sub(r"[\s_-]+", " ", match.group(1).lower())
    valid = next((check for word, check in _NUMBERS.items() if name.startswith(word)), None)
    return match.span(2) if valid is not None and valid(_digits(match.group(2))) else None


PATTERNS = (
    Pattern("email", rf"[^\s@(\[]@[^\s@(]+?{_DOT}[^\s.(]",
            rf"[\pL\pN_][\pL\pN._%+-]*@(?:[\pL\pN-]+{_DOT})+(?:xn--[A-Za-z0-9-]+|\pL{{2,}})", _is_address),
    Pattern("email", r"(?i)[(\[{]\s?(?:at|@)\s?[)\]}]",
            r"(?i)[\pL\pN_][\pL\pN._%+-]*\s?[(\[{]\s?(?:at|@)\s?[)\]}]\s?"
            r"(?:[\pL\pN-]+\s?(?:\.|[(\[{]\s?(?:dot|\.)\s?[)\]}])\s?)+\pL{2,}"),
    Pattern("phone", r"\+\s?\(?[1-9]", r"\+\s?\(?[1-9](?:[\s\-.()/\x{2010}-\x{2015}]{0,2}[0-9]){7,14}", _is_international),
    Pattern("phone", rf"[0-9]{{3}}\)?[ ]?{_DASH}?[0-9]{{3}}[-.][0-9]{{4}}|\([0-9]{{3}}\)",
            r"(?:1[-. ])?(?:\([0-9]{3}\)[ ]?|[0-9]{3}[-. ])[0-9]{3}[-.][0-9]{4}", _is_american),
    Pattern("phone", _CALLED + r"\(?\+?[0-9]", _CALLED + r"(\(?\+?[0-9][0-9 ().\-/]{5,18}[0-9])", _is_called),
    Pattern("ip", r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]", r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}", _is_ipv4),
    Pattern("ip", r"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]", r"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,}[0-9A-Fa-f:]", _is_ipv6),
    Pattern("iban", r"[A-Z]{2}[0-9]{2}[ -]?[A-Z0-9]{4}", r"[A-Z]{2}[0-9]{2}[ -]?[A-Z0-9]{4}(?:[ -]?[A-Z0-9]){7,24}", _is_iban),
    Pattern("card", rf"[0-9]{{4}}{_DASH}?[0-9]{{4}}{_DASH}?[0-9]{{4}}|[0-9]{{4}}{_DASH}[0-9]{{6}}{_DASH}[0-9]",
            rf"[0-9]{{4}}{_DASH}?(?:[0-9]{{4}}{_DASH}?[0-9]{{4}}{_DASH}?[0-9]{{1,7}}|[0-9]{{6}}{_DASH}?[0-9]{{4,5}})", _is_card),
    Pattern("national_id", r"[0-9]{3}-[0-9]{2}-[0-9]{4}", r"[0-9]{3}-[0-9]{2}-[0-9]{4}", _is_ssn),
    Pattern("national_id", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", _is_cpf),
    Pattern("national_id", r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}", r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}", _is_ahv),
    Pattern("national_id", r"[0-9]{6}[-+][0-9]{4}", r"(?:19|20)?[0-9]{6}[-+][0-9]{4}", _is_personnummer),
    Pattern("national_id", r"[12][ ]?[0-9]{2}[ ]?(?:0[1-9]|1[0-2])[ ]?[0-9][0-9AB][ ]?[0-9]{3}[ ]?[0-9]{3}[ ]?[0-9]{2}",
            r"[12][ ]?[0-9]{2}[ ]?(?:0[1-9]|1[0-2])[ ]?[0-9][0-9AB][ ]?[0-9]{3}[ ]?[0-9]{3}[ ]?[0-9]{2}", _is_nir),
    Pattern("national_id", r"[0-9XYZ][0-9]{7}-?[A-Z]", r"[0-9XYZ][0-9]{7}-?[A-Z]", _is_dni),
    Pattern("national_id", r"(?i)[A-Z]{6}[0-9]{2}[A-Z]",
            r"(?i)[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]", _is_fiscal_code),
    Pattern("national_id", f"(?i){_NUMBERED}[0-9]", f"(?i)({_NUMBERED})([0-9](?:[ .-]?[0-9]){{8,10}})", _is_named_number),
)  # fmt: skip
