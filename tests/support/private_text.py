"""A labelled, seeded set of private values in the contexts in which they stand, and of innocents that look like them.

    cd tests && python -m support.private_text [--seed N] [--each N]

prints recall by kind and by context. A value counts as found when nothing of it that is private is left. Knows the scrubber.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from headrace_processors.intake.scrub.scrubber import RecordScrubber, Scrubber

Make = Callable[[random.Random], str]


def words(text: str) -> list[str]:
    return text.split()


ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
FIRST = words("ana bob chen dora emil fatima george hana ivan julia karl lena marco nadia omar petra")
LAST = words("smith garcia novak muller rossi kowalski jensen dubois silva tanaka okafor lindqvist")
HOSTS = words("mail.test-corp.com acme.io uni-mainz.de firma.co.uk posteo.net münchen.de bücher.example xn--bcher-kva.ch")
PASSWORDS = words("hunter2 Tr0ub4dor&3 sommer2024! p4ssw0rT letmein99 Qwerty!2345 G7#kd92x blue42horse n3verm1nd xK9$mPq2vL")


class Labelled(NamedTuple):
    """A text and the private value in it, as it stands there."""

    kind: str
    context: str
    text: str
    value: str


def run(draw: random.Random, alphabet: str, length: int) -> str:
    return "".join(draw.choice(alphabet) for _ in range(length))


def keyish(draw: random.Random, alphabet: str, length: int) -> str:
    """A random key; as good as all of that length hold a digit and a letter, and so do all of these."""
    while True:
        value = run(draw, alphabet, length)
        if any(char.isdigit() for char in value) and any(char.isalpha() for char in value):
            return value


def email(draw: random.Random) -> str:
    local = draw.choice(
        [
            f"{draw.choice(FIRST)}.{draw.choice(LAST)}",
            f"{draw.choice(FIRST)}{draw.randrange(100)}",
            f"{draw.choice(FIRST)}+{draw.choice(['x', 'shop'])}",
            f"{draw.choice(FIRST)[0]}_{draw.choice(LAST)}",
        ]
    )
    return f"{local}@{draw.choice(HOSTS)}"


def phone(draw: random.Random) -> str:
    def digits(count: int) -> str:
        return run(draw, string.digits, count)

    american = f"{draw.randrange(2, 10)}{digits(2)}", f"{draw.randrange(2, 10)}{digits(2)}", digits(4)
    return draw.choice(
        [
            f"+49 {draw.randrange(150, 179)} {draw.randrange(10**6, 10**7)}",
            f"+44 20 {draw.randrange(1000, 9999)} {draw.randrange(1000, 9999)}",
            f"+33{draw.randrange(1, 9)}{draw.randrange(10**7, 10**8)}",
            f"+1 ({american[0]}) {american[1]}-{american[2]}",
            f"({american[0]}) {american[1]}-{american[2]}",
            f"{american[0]}-{american[1]}-{american[2]}",
            f"{american[0]}.{american[1]}.{american[2]}",
        ]
    )


def ip(draw: random.Random) -> str:
    if draw.random() < 0.3:
        return f"2a0{draw.randrange(10)}:{run(draw, HEX, 4)}:{run(draw, HEX, 4)}::{run(draw, HEX[1:], 4)}"
    first = draw.choice([34, 52, 81, 91, 109, 142, 185, 201])
    return f"{first}.{draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(1, 255)}"


def iban(draw: random.Random) -> str:
    country, body = draw.choice(
        [
            ("DE", run(draw, string.digits, 18)),
            ("FR", run(draw, string.digits, 23)),
            ("GB", "NWBK" + run(draw, string.digits, 14)),
            ("ES", run(draw, string.digits, 20)),
            ("NL", "ABNA" + run(draw, string.digits, 10)),
            ("NO", run(draw, string.digits, 11)),
        ]
    )
    check = 98 - int("".join(str(int(char, 36)) for char in body + country + "00")) % 97
    whole = f"{country}{check:02}{body}"
    return " ".join(whole[at : at + 4] for at in range(0, len(whole), 4)) if draw.random() < 0.5 else whole


def with_luhn(digits: str) -> str:
    for check in string.digits:
        number = digits + check
        doubled = [int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(reversed(number))]
        if sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0:
            return number
    raise AssertionError(digits)


def card(draw: random.Random) -> str:
    prefix, length = draw.choice([("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("37", 15), ("6011", 16), ("3530", 16)])
    number = with_luhn(prefix + run(draw, string.digits, length - len(prefix) - 1))
    if length == 15:
        return draw.choice([number, f"{number[:4]} {number[4:10]} {number[10:]}"])
    groups = [number[at : at + 4] for at in range(0, 16, 4)]
    return draw.choice([number, " ".join(groups), "-".join(groups)])


def national_id(draw: random.Random) -> str:
    return draw.choice([_ssn, _dni, _cpf, _ahv, _personnummer, _nir])(draw)


def _ssn(draw: random.Random) -> str:
    return f"{draw.randrange(1, 666):03}-{draw.randrange(1, 100):02}-{draw.randrange(1, 10000):04}"


def _dni(draw: random.Random) -> str:
    number = draw.randrange(10**7, 10**8)
    return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def _cpf(draw: random.Random) -> str:
    digits = [draw.randrange(10) for _ in range(9)]
    for length in (9, 10):
        digits.append(sum(digit * (length + 1 - place) for place, digit in enumerate(digits)) * 10 % 11 % 10)
    text = "".join(map(str, digits))
    return f"{text[:3]}.{text[3:6]}.{text[6:9]}-{text[9:]}"


def _ahv(draw: random.Random) -> str:
    digits = "756" + run(draw, string.digits, 9)
    total = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(digits))
    return f"756.{digits[3:7]}.{digits[7:11]}.{digits[11]}{-total % 10}"


def _personnummer(draw: random.Random) -> str:
    whole = with_luhn(
        f"{draw.randrange(40, 99)}{draw.randrange(1, 13):02}{draw.randrange(1, 29):02}{run(draw, string.digits, 3)}"
    )
    return f"{whole[:6]}-{whole[6:]}"


def _nir(draw: random.Random) -> str:
    born = f"{draw.choice('12')}{draw.randrange(40, 99)}{draw.randrange(1, 13):02}"
    number = f"{born}{draw.randrange(1, 96):02}{run(draw, string.digits, 6)}"
    return f"{number}{97 - int(number) % 97:02}"


def provider_key(draw: random.Random) -> str:
    return draw.choice(
        [
            "AKIA" + run(draw, string.ascii_uppercase + string.digits, 16),
            "AIza" + run(draw, ALNUM + "_-", 35),
            "GOCSPX-" + keyish(draw, ALNUM, 28),
            keyish(draw, ALNUM, 3) + "8Q~" + run(draw, ALNUM + "_.~-", 34),
            "gh" + draw.choice("pousr") + "_" + run(draw, ALNUM, 36),
            "github_pat_" + run(draw, ALNUM + "_", 60),
            "glpat-" + run(draw, ALNUM + "_-", 20),
            "xoxb-" + run(draw, string.digits, 12) + "-" + run(draw, ALNUM, 24),
            "sk_live_" + run(draw, ALNUM, 24),
            "sk-proj-" + keyish(draw, ALNUM, 48),
            "sk-ant-api03-" + keyish(draw, ALNUM, 80),
            "hf_" + run(draw, ALNUM, 34),
            "npm_" + run(draw, ALNUM, 36),
            "pypi-" + run(draw, ALNUM + "_-", 100),
            "SG." + run(draw, ALNUM, 22) + "." + run(draw, ALNUM, 43),
            "dop_v1_" + run(draw, HEX, 64),
            "eyJhbGciOiJIUzI1NiJ9." + run(draw, ALNUM, 40) + "." + run(draw, ALNUM + "_-", 43),
        ]
    )


def private_key(draw: random.Random) -> str:
    kind = draw.choice(["RSA ", "EC ", "OPENSSH ", "", "ENCRYPTED "])
    lines = "\n".join(run(draw, ALNUM + "+/", 64) for _ in range(draw.randrange(2, 6)))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


def password(draw: random.Random) -> str:
    return draw.choice(PASSWORDS)


def token(draw: random.Random) -> str:
    return draw.choice([keyish(draw, HEX, 32), keyish(draw, ALNUM, 24), keyish(draw, ALNUM + "-_", 40)])


def random_key(draw: random.Random) -> str:
    return run(draw, ALNUM + "/+", 40)


PROSE = (
    "Please reach me under {} until Friday.",
    "It was sent to {}, as agreed.",
    "({})",
    "My details: {}.",
    "| contact | {} |\n|---|---|",
    "2026-11-21T10:00:00Z INFO user={} action=login",
    "Kontakt: {}\nBis bald",
    "x = '{}'  # from the ticket",
    "<b>{}</b>",
    "a,{},c",
)
CARRIERS = (
    *PROSE,
    '{{"note": "{}", "n": 3}}',
    "- {}\n- another",
)
ASSIGNED_PASSWORD = (
    "password: {}",
    'password = "{}"',
    "DB_PASS={}",
    "export PGPASSWORD='{}'",
    '{{"user": "joe", "password": "{}"}}',
    '{{\\"password\\": \\"{}\\"}}',
    "mysql --user=root --password={}",
    "'pwd' => '{}',",
    "postgres://joe:{}@db.lan:5432/shop",
    "https://admin:{}@example.org/path?x=1",
    "the password is {}, do not tell",
    "spring.datasource.password={}",
    'db_password:   "{}"',
    "user: joe\npasswd: {}\nhost: x",
    "<add key='x' password='{}' />",
)
ASSIGNED_TOKEN = (
    "API_KEY={}",
    'api_key: "{}"',
    '{{"access_token": "{}", "expires_in": 3600}}',
    '{{"clientSecret":"{}"}}',
    "Authorization: Bearer {}",
    "client_secret = '{}'",
    "https://api.test/v1?token={}&x=1",
    "export SECRET_TOKEN={}",
    "auth_token: {}",
    'os.environ["STRIPE_SECRET_KEY"] = "{}"',
    "x-api-key: {}",
    "SIGNING_KEY='{}'",
)
BARE_KEY = (
    "my aws secret is {} please rotate",
    "aws_secret_access_key = {}",
    "The secret access key ({}) leaked.",
    'SecretAccessKey: "{}"',
    "api key {} works again",
)
KINDS: dict[str, tuple[str, Make, Sequence[str]]] = {  # label -> (kind of the scrubber, maker, contexts)
    "email": ("email", email, CARRIERS),
    "phone": ("phone", phone, CARRIERS),
    "ip": ("ip", ip, CARRIERS),
    "iban": ("iban", iban, CARRIERS),
    "card": ("card", card, CARRIERS),
    "national_id": ("national_id", national_id, CARRIERS),
    "provider key": ("secret", provider_key, CARRIERS),
    "private key": ("secret", private_key, ("{}", "key:\n{}\nend", "cat id_rsa\n{}\n$ ")),
    "password": ("secret", password, ASSIGNED_PASSWORD),
    "token": ("secret", token, ASSIGNED_TOKEN),
    "bare key": ("secret", random_key, BARE_KEY),
}
WIDE = {char: chr(ord(char) + 0xFEE0) for char in map(chr, range(0x21, 0x7F))}


def _plain(text: str, value: str, draw: random.Random) -> tuple[str, str]:
    return text, value


def _in_json(text: str, value: str, draw: random.Random) -> tuple[str, str]:
    """As a string of a JSON text inside a text."""
    return json.dumps({"log": text}, ensure_ascii=False), json.dumps(value, ensure_ascii=False)[1:-1]


def _full_width(text: str, value: str, draw: random.Random) -> tuple[str, str]:
    wide = "".join(WIDE.get(char, char) for char in value)
    return text.replace(value, wide), wide


def _zero_width(text: str, value: str, draw: random.Random) -> tuple[str, str]:
    at = draw.randrange(1, len(value))
    cut = value[:at] + draw.choice("\u200b\u200d\u2060\u00ad") + value[at:]
    return text.replace(value, cut), cut


def _after_unicode(text: str, value: str, draw: random.Random) -> tuple[str, str]:
    return f"… ½ für „Ångström“: {text}", value


DISGUISES = {
    "plain": _plain,
    "in JSON": _in_json,
    "full width": _full_width,
    "zero width": _zero_width,
    "among others": _after_unicode,
}


def labelled(seed: int, each: int) -> Iterator[Labelled]:
    """`each` values of every kind, half of them plain, in contexts in turn."""
    for label, (_, make, contexts) in KINDS.items():
        draw = random.Random(f"{seed} {label}")
        for number in range(each):
            value = make(draw)
            text = draw.choice(contexts).format(value)
            name = "plain" if number % 2 else list(DISGUISES)[number // 2 % len(DISGUISES)]
            disguised, shown = DISGUISES[name](text, value, draw)
            yield Labelled(label, name, disguised, shown)


def in_base64(seed: int, each: int) -> Iterator[Labelled]:
    """Keys whose base64 is what stands in a text."""
    draw = random.Random(seed)
    for _ in range(each):
        value = base64.b64encode(
            draw.choice([private_key(draw), "ghp_" + run(draw, ALNUM, 36), "password=" + token(draw)]).encode()
        )
        yield Labelled("base64", "plain", f"echo {value.decode()} | base64 -d", value.decode())


def found(scrubber: Scrubber, sample: Labelled) -> bool:
    """Whether nothing is left of the value that would be of use: no run of half of it, at least four characters."""
    clean = RecordScrubber(scrubber, [sample.text]).clean(sample.text)
    size = max(4, len(sample.value) // 2)
    return not any(sample.value[at : at + size] in clean for at in range(len(sample.value) - size + 1))


def recall(samples: Sequence[Labelled]) -> dict[tuple[str, str], tuple[int, int]]:
    """(kind, disguise) -> (found, all)."""
    scrubber, hits, total = Scrubber(), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for sample in samples:
        total[sample.kind, sample.context] += 1
        hits[sample.kind, sample.context] += found(scrubber, sample)
    return {key: (hits[key], count) for key, count in total.items()}


INNOCENTS = (
    "version 1.2.3.4 of Chrome/120.0.6099.109 and numpy==1.26.4",
    "pip install foo==2.10.0.1 && pkg-31.12.20.18.tar.gz",
    "10.0.0.1 127.0.0.1 192.168.178.20 172.16.0.9 255.255.255.0 0.0.0.0 192.0.2.44",
    "see section 1.2.3.4 and 12.4.1.2",
    "550e8400-e29b-41d4-a716-446655440000",
    "id 6f1c2a9e-0b7d-4c55-8a1f-3d2e5b6c7a80 of 01936c1e-70d6-7cc4-a3f5-0d1c8a54be7f",
    "commit 3f786850e387550fdab836ed7e6dc881de23001b",
    "git checkout 89e6c98d92887913cadf06b2adb97f26cde4849b",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "md5 5d41402abc4b2a76b9719d911017c592",
    "2026-11-21T10:00:00.123456789Z 10:00:00 23:59:60 2026-11-21 20261121100000",
    "epoch 1794240000 1794240000000 1794240000000000 1794240000000000000",
    "ISBN 978-3-16-148410-0, 0-306-40615-2, ISSN 0378-5955",
    "ISBN-13: 9783161484100 EAN 4006381333931",
    "arXiv:2106.09685v2 doi:10.1145/3292500.3330701",
    "RFC 3339, RFC 7519, ISO 8601, ISO/IEC 7812-1",
    "total 1234567890.12 EUR, 3.14159265358979, 1e-10, 0.1234567890123456",
    "+1 point, +100 %, +12345 lines, a+1234567890, 1+23456789012",
    "@@ -123,7 +1024,9 @@ def f(x):",
    "x = a@b.transpose() @ c.T; y = x@w.shape; z = q@k.mean",
    "@pytest.mark.parametrize @app.route('/x') @dataclass",
    "git@github.com:org/repo.git lodash@4.17.21 react@18.2.0 jquery@3.7.1.min.js",
    "token = tokenizer.encode(text); next_token = 5; max_tokens: 4096",
    "password = get_password(); password: str = Field(...); password=password",
    'parser.add_argument("--password", help="the password of the user")',
    'self.password = config["password"]; if password != confirm_password:',
    "def login(user: str, password: str, token: Optional[str] = None) -> None:",
    '{"type": "object", "properties": {"password": {"type": "string"}}, "required": ["password"]}',
    '{"password": "Password", "secret": "string", "token": "<token>", "api_key": "YOUR_API_KEY"}',
    "password: must be at least 8 characters",
    '"password": "Please enter your password"',
    "API_KEY=${API_KEY} PASSWORD=$DB_PASSWORD token={{ secrets.TOKEN }} pw=%s",
    "api_key = os.environ['API_KEY']; secret = settings.SECRET_KEY",
    "select key, value from tokens where key = 1 and password is null",
    "primary key: order_id, foreign key: customer_id, cache_key: user_profile_v2",
    "the secret is out: keep calm and carry on",
    "the password is required. the password is wrong, the password was reset",
    "std::vector<int>::iterator, a::b::c, dead::beef, fe80::1, ::1",
    "00:1a:2b:3c:4d:5e 2001:db8::1",
    "phone number: none; tel quel; cell 12, fax machine",
    "call 12 times, extension 123, room 555-1234",
    "task-completed-by-somebody-2026-11-21-v2 sk-learn-like-names-are-fine-here",
    "basic authentication scheme, bearer of bad news",
    "Authorization: Bearer <token>",
    "http://localhost:8080/a@b https://user:${PASSWORD}@host/ postgres://user:***@db/x",
    "user@localhost root@server:/var/log",
    "color #4111 11, #ff5733, 0xdeadbeef, \\x41\\x42",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16",
    "4111 1111 1111 1112 and 1234 5678 9012 3456",
    "DE00 1234 5678 9012 3456 78, GB12ABCD, FR-2024-0001",
    "000-12-3456 666-12-3456 123-00-4567",
    "12345678A 123.456.789-00 756.1234.5678.90",
    "latitude 52.520008, longitude 13.404954",
    "array([[1.25, 3.5], [2.0, 4.75]]) shape=(128, 256, 3, 3)",
    "eyJ is how base64 of a JSON object begins; aGVsbG8gd29ybGQgdGhpcyBpcyBmaW5l",
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
    "npm_config_registry hf_model_name r8_something keyboard: qwertz monkey: 12345",
    "SKU SK1234 AKIA is a prefix, AIza too",
    "Ångström café naïve “quoted” — dash … ½ ™ ²",
    "日本語のテキスト。これは普通の文です。",
)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="support.private_text", description="Recall of the scrubber by kind and disguise.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--each", type=int, default=400, help="values of each kind")
    given = parser.parse_args(arguments)
    samples = [*labelled(given.seed, given.each), *in_base64(given.seed, given.each)]
    table = recall(samples)
    print(f"{'kind':14}{'all':>8}  " + "".join(f"{name:>14}" for name in DISGUISES))
    for kind in dict.fromkeys(kind for kind, _ in table):
        mine = {name: table.get((kind, name), (0, 0)) for name in DISGUISES}
        hits, total = (sum(pair[at] for pair in mine.values()) for at in (0, 1))
        print(f"{kind:14}{hits / total:8.3f}  " + "".join(f"{hit / count if count else 1:14.3f}" for hit, count in mine.values()))
    scrubber = Scrubber()
    wrong = [text for text in INNOCENTS if RecordScrubber(scrubber, [text]).clean(text) != text]
    print(f"innocents: {len(wrong)} of {len(INNOCENTS)} changed", *wrong, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
