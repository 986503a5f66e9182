"""Check digits: which runs of digits are numbers that somebody was given. Pure; knows no text around them.

Sources: ISO/IEC 7812-1 (Luhn), ISO 13616 (IBAN), ISO 7064, and the issuing authorities' published rules for national numbers.
"""

from __future__ import annotations

# Length of an IBAN by country, ISO 13616 registry.
_IBANS = (
    "AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BR:29 BY:28 CH:21 CR:22 CY:28 CZ:24 DE:22 DK:18 DO:28 EE:20 EG:29 "
    "ES:24 FI:18 FO:18 FR:27 GB:22 GE:22 GI:23 GL:18 GR:27 GT:28 HR:21 HU:28 IE:22 IL:23 IQ:23 IS:26 IT:27 JO:30 KW:30 KZ:20 "
    "LB:28 LC:32 LI:21 LT:20 LU:20 LV:21 MC:27 MD:24 ME:22 MK:19 MR:27 MT:31 MU:30 NL:18 NO:15 PK:24 PL:28 PS:29 PT:25 QA:29 "
    "RO:24 RS:22 SA:24 SC:31 SE:24 SI:19 SK:24 SM:27 ST:25 SV:28 TL:23 TN:24 TR:26 UA:29 VA:22 VG:24 XK:20 "
)
_IBAN_LENGTH = dict(pair.split(":") for pair in _IBANS.split())
_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_FISCAL_ODD = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25,
     24, 23),
    strict=True))  # fmt: skip


def luhn(digits: str) -> bool:
    total = sum(int(digit) for digit in digits[-1::-2])
    return (total + sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])) % 10 == 0


def is_card(digits: str) -> bool:
    """A payment card: issuer's prefix, its length, Luhn. A run of one digit is none."""
    two, four = int(digits[:2]), int(digits[:4])
    if digits[0] == "4":
        lengths: tuple[int, ...] = (13, 16, 19)
    elif two in (34, 37):
        lengths = (15,)
    elif 51 <= two <= 55 or 2221 <= four <= 2720 or four == 6011 or two in (64, 65) or 3528 <= four <= 3589:
        lengths = (16,)
    elif two in (36, 38, 39) or 300 <= int(digits[:3]) <= 305:
        lengths = (14,)
    else:
        lengths = (16, 17, 18, 19) if two == 62 else ()
    return len(digits) in lengths and len(set(digits)) > 1 and luhn(digits)


def is_iban(text: str) -> bool:
    """`text` without spaces, upper case."""
    if _IBAN_LENGTH.get(text[:2]) != str(len(text)):
        return False
    return int("".join(str(int(char, 36)) for char in text[4:] + text[:4])) % 97 == 1


def is_ssn(digits: str) -> bool:
    """United States: no check digit, but areas, groups and serials that were never given."""
    return digits[:3] not in ("000", "666") and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"


def is_dni(text: str) -> bool:
    """Spain: eight digits and a letter; a foreigner's (NIE) has X, Y or Z for the first."""
    number = str("XYZ".find(text[0])) + text[1:-1] if text[0] in "XYZ" else text[:-1]
    return _DNI_LETTERS[int(number) % 23] == text[-1]


def is_fiscal_code(text: str) -> bool:
    """Italy: sixteen characters, the last a check."""
    odd = sum(_FISCAL_ODD[char] for char in text[:15:2])
    even = sum(int(char) if char.isdigit() else ord(char) - 65 for char in text[1:15:2])
    return chr(65 + (odd + even) % 26) == text[15]


def is_nir(digits: str) -> bool:
    """France: thirteen digits and two that check them; of Corsica 2A and 2B count as 19 and 18."""
    number = digits[:13].replace("2A", "19").replace("2B", "18")
    return number.isdigit() and 97 - int(number) % 97 == int(digits[13:])


def is_cpf(digits: str) -> bool:
    """Brazil: nine digits and two that check them."""
    if len(set(digits)) == 1:
        return False
    for length in (9, 10):
        rest = sum(int(digit) * weight for digit, weight in zip(digits, range(length + 1, 1, -1), strict=False)) * 10 % 11 % 10
        if rest != int(digits[length]):
            return False
    return True


def is_ahv(digits: str) -> bool:
    """Switzerland: 756 and an EAN-13 check digit."""
    return _weighted(digits[:12], (1, 3) * 6, 10) == (10 - int(digits[12])) % 10


def is_personnummer(digits: str) -> bool:
    """Sweden: ten digits, a date first, Luhn."""
    return 1 <= int(digits[2:4]) <= 12 and 1 <= int(digits[4:6]) % 60 <= 31 and luhn(digits)


def is_pesel(digits: str) -> bool:
    """Poland."""
    return len(digits) == 11 and (10 - _weighted(digits[:10], (1, 3, 7, 9, 1, 3, 7, 9, 1, 3), 10)) % 10 == int(digits[10])


def is_tax_id(digits: str) -> bool:
    """Germany: eleven digits, ISO 7064 modulo 11, 10."""
    if len(digits) != 11 or digits[0] == "0":
        return False
    product = 10
    for digit in digits[:10]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def is_nhs(digits: str) -> bool:
    """United Kingdom: ten digits, modulo 11."""
    return len(digits) == 10 and (11 - _weighted(digits[:9], range(10, 1, -1), 11)) % 11 == int(digits[9])


def is_bsn(digits: str) -> bool:
    """Netherlands: nine digits, modulo 11."""
    return len(digits) == 9 and _weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1), 11) == 0


def is_sin(digits: str) -> bool:
    """Canada: nine digits, Luhn."""
    return len(digits) == 9 and luhn(digits)


def _weighted(digits: str, weights: tuple[int, ...] | range, modulus: int) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True)) % modulus
