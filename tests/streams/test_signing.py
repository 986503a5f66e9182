"""Signatures of releases: what is believed and each forgery that is not, keys that can't be used. No broker."""

from __future__ import annotations

import base64
import builtins
import logging
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from headrace_schemas.codec import encode
from headrace_schemas.events import ReleasePromoted, ReleaseRevoked
from headrace_streams import signing
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.pip_line import pip_line
from headrace_streams.release_log import ReleaseFilter
from headrace_streams.runtime.provenance import Provenance, origin, six_headers
from headrace_streams.settings import Settings, SettingsError
from headrace_streams.signing import HEADER, SigningKey, TrustedKeys, signed_content
from support.keys import KeyFiles, key_files
from support.released import BUCKET, event, release

PARTITIONS = 4
KEY = BUCKET.encode()
RIGHT = partition_for(KEY, PARTITIONS)
OURS = origin(Provenance("release", "outcomes", 0, 7, 0))


class Recorded(NamedTuple):
    """A record as readers get it."""

    offset: int
    value: bytes
    headers: Any
    key: bytes = KEY
    partition: int = RIGHT
    topic: str = "d.releases"


def signer(files: KeyFiles, deployment: str = "d") -> SigningKey:
    key = signing.signing_key(Settings(deployment=deployment, signing_key=files.private))
    assert key is not None
    return key


def trusting(*files: KeyFiles, deployment: str = "d") -> TrustedKeys:
    keys = signing.trusted_keys(Settings(deployment=deployment, trusted_keys=tuple(str(one.public) for one in files)))
    assert keys is not None
    return keys


def promoted(sequence: int, **fields: Any) -> bytes:
    return encode(event(ReleasePromoted, release(sequence, None, **fields)))


def signed(by: SigningKey, value: bytes, topic: str = "releases", key: bytes = KEY) -> tuple[tuple[str, bytes], ...]:
    return (*OURS, by.header(topic, key, value))


@pytest.fixture
def ours(tmp_path: Path) -> KeyFiles:
    return key_files(tmp_path, "ours")


def test_what_a_trusted_key_has_signed_is_taken(ours: KeyFiles, tmp_path: Path) -> None:
    """Each of several keys will do, so that one can follow the other; in either form of headers, on both topics."""
    after = key_files(tmp_path, "after")
    keys = trusting(ours, after)
    for topic in ("releases", "releases.history"):
        taken = ReleaseFilter(PARTITIONS, topic, keys)
        old = six_headers(Provenance("release", "outcomes", 0, 7, 0))
        headers = (*old, signer(ours).header(topic, KEY, promoted(1)))
        assert taken.decision(Recorded(0, promoted(1), headers)) is not None
        assert taken.decision(Recorded(1, promoted(2), signed(signer(after), promoted(2), topic))) is not None
        assert taken.skipped == 0


def forgeries(ours: SigningKey, foreign: SigningKey, elsewhere: SigningKey) -> dict[str, tuple[bytes, Any, str]]:
    """Everything that is not the record which our key signed: value, headers, what is said of it."""
    good, value = promoted(2), promoted(2, reason="forged")
    of_good = ours.header("releases", KEY, good)[1]
    id_, _, text = of_good.partition(b":")
    flipped = bytearray(base64.b64decode(text))
    flipped[0] ^= 1
    unlike = f"its signature is not one that key {ours.id} made for it"
    unreadable = "its signature can't be read"
    return {
        "missing": (value, OURS, "it is not signed"),
        "foreign": (value, signed(foreign, value), f"it is signed by the key '{foreign.id}', which is not trusted"),
        "a foreign one under our id": (
            value,
            (*OURS, (HEADER, id_ + b":" + foreign.header("releases", KEY, value)[1].partition(b":")[2])),
            unlike,
        ),
        "of another value": (value, (*OURS, (HEADER, of_good)), unlike),
        "of another bucket": (value, signed(ours, value, key=b"sql/other"), unlike),
        "of another topic": (value, signed(ours, value, "releases.history"), unlike),
        "of another deployment": (value, signed(elsewhere, value), unlike),
        "a bit of it flipped": (good, (*OURS, (HEADER, id_ + b":" + base64.b64encode(bytes(flipped)))), unlike),
        "cut": (good, (*OURS, (HEADER, id_ + b":" + base64.b64encode(bytes(flipped[:63])))), unlike),
        "empty": (good, (*OURS, (HEADER, id_ + b":")), unlike),
        "no base64": (good, (*OURS, (HEADER, id_ + b":%%%" + text)), unreadable),
        "no key": (good, (*OURS, (HEADER, text)), unreadable),
        "null": (good, (*OURS, (HEADER, None)), unreadable),
        "no text": (good, (*OURS, (HEADER, b"\xff" * 16 + b":" + text)), "which is not trusted"),
        "two": (good, (*OURS, (HEADER, of_good), (HEADER, of_good)), unreadable),
    }


def test_each_forgery_is_skipped_counted_and_said(ours: KeyFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    foreign = signer(key_files(tmp_path, "foreign"))
    key, elsewhere = signer(ours), signer(ours, "elsewhere")
    for what, (value, headers, reason) in forgeries(key, foreign, elsewhere).items():
        caplog.clear()
        taken = ReleaseFilter(PARTITIONS, "releases", trusting(ours))
        with caplog.at_level(logging.ERROR):
            assert taken.decision(Recorded(0, promoted(1), signed(key, promoted(1)))) is not None, what
            assert taken.decision(Recorded(1, value, headers)) is None, what
            assert taken.decision(Recorded(2, promoted(2), signed(key, promoted(2)))) is not None, f"{what}: it goes on"
        assert taken.skipped == 1, what
        [line] = caplog.messages
        assert line.endswith(reason), what
        assert "\n" not in line, what


def test_a_signature_is_no_leave_to_write_out_of_order(ours: KeyFiles) -> None:
    """What was signed once comes again as it is, behind what followed it."""
    taken, key = ReleaseFilter(PARTITIONS, "releases", trusting(ours)), signer(ours)
    for offset, sequence in enumerate((1, 2)):
        assert taken.decision(Recorded(offset, promoted(sequence), signed(key, promoted(sequence)))) is not None
    assert taken.decision(Recorded(2, promoted(1), signed(key, promoted(1)))) is None
    assert taken.skipped == 1


def test_headers_which_nobody_signs_do_not_say_what_a_value_is(ours: KeyFiles) -> None:
    """An event may say its type in headers instead (binary mode): a promotion would become what the forger names."""
    value = msgspec.json.encode(release(1, None))
    attributes = {"specversion": "1.0", "id": "e", "source": "headrace:release", "type": "headrace.release.promoted.v1"}
    binary = [("content-type", b"application/json"), *((f"ce_{name}", text.encode()) for name, text in attributes.items())]
    headers = (*binary, OURS[1], signer(ours).header("releases", KEY, value))
    assert ReleaseFilter(PARTITIONS, "releases", trusting(ours)).decision(Recorded(0, value, headers)) is None
    revoked = encode(event(ReleaseRevoked, release(1, None)))
    headers = (*binary, OURS[1], signer(ours).header("releases", KEY, revoked))
    decision = ReleaseFilter(PARTITIONS, "releases", trusting(ours)).decision(Recorded(0, revoked, headers))
    assert decision is not None
    assert decision.kind == "revoked"


def test_only_a_signature_at_its_place_is_left_out_of_what_a_fold_made() -> None:
    ours, other = (HEADER, b"x"), ("headrace-other", b"x")
    for topic in ("releases", "releases.history"):
        assert signing.without_signature(topic, (*OURS, ours)) == OURS
        assert signing.without_signature(topic, OURS) == OURS
        assert signing.without_signature(topic, ()) == ()
        for headers in ((ours, *OURS), (*OURS, other), (*OURS, ours, other)):
            assert signing.without_signature(topic, headers) == headers
        assert signing.without_signature(topic, (*OURS, ours, ours)) == (*OURS, ours), "a second one is somebody else's"
    for topic in ("examples", "outcomes", "rules", "dead-letters"):
        assert signing.without_signature(topic, (*OURS, ours)) == (*OURS, ours)


def test_what_is_on_the_log_stays_readable() -> None:
    """Written out by hand: what was signed once must be believed by whatever code comes later, and by others' readers."""
    assert signed_content("d", "releases", b"k", b"v") == b"18:headrace release 11:d8:releases1:k1:v"
    written = b"56475aa75463474c:GHEumETCFUs5xBkfXExm7nYVBkjVLsMCybFNUc1HwEL5HZwuUNgPUhmbN1pdzU/jjZKWWT0AmMmIs7S8ZDnICw=="
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    assert SigningKey(private, "d").header("releases", b"k", b"v") == ("headrace-signature", written)
    assert TrustedKeys([private.public_key()], "d").fault("releases", b"k", b"v", [(HEADER, written)]) is None


PARTS = st.tuples(st.text(), st.text(), st.binary(), st.binary())


@given(PARTS, PARTS)
def test_no_two_contents_are_the_same_bytes(one: Any, other: Any) -> None:
    assert (signed_content(*one) == signed_content(*other)) == (one == other)


@given(st.text(), st.text(), st.binary(max_size=9), st.binary(max_size=9), st.integers(1, 9), st.integers(1, 9))
def test_moving_bytes_between_parts_is_noticed(
    deployment: str, topic: str, key: bytes, value: bytes, cut: int, length: int
) -> None:
    moved = key + value[:length], value[length:]
    if value:
        assert signed_content(deployment, topic, key, value) != signed_content(deployment, topic, *moved)


@given(st.binary(), st.binary(min_size=1), st.binary(), st.integers(0, 2**16))
def test_any_change_of_a_signed_record_is_found(key: bytes, value: bytes, junk: bytes, place: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
    keys = TrustedKeys([private.public_key()], "d")
    header = SigningKey(private, "d").header("releases", key, value)
    assert keys.fault("releases", key, value, [header]) is None
    changed = bytearray(value)
    changed[place % len(value)] ^= 1 + place % 255
    assert keys.fault("releases", key, bytes(changed), [header]) is not None
    assert keys.fault("releases", key + b"\0", value, [header]) is not None
    assert keys.fault("releases", key, value, [(HEADER, junk)]) is not None, "junk is a sentence, never an error"


def test_a_key_is_its_users_alone_and_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    name = signing.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        signing.create(path)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        signing.create(tmp_path / "link")
    assert path.read_bytes() == before
    shown = signing.public_pem(path)
    assert shown[0] == name
    (tmp_path / "key.pub").write_text(shown[1])
    assert signing.public_pem(tmp_path / "key.pub") == shown


def _pem(key: Any, how: Any = None) -> bytes:
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how or NoEncryption())
    return text


DAMAGED = "no private key in PEM, or a damaged one"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda good: _pem(ec.generate_private_key(ec.SECP256R1())), "no Ed25519 key"),
        (lambda good: _pem(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"x")), "the key has a passphrase"),
        (lambda good: good[:60] + b"!!" + good[62:], DAMAGED),
        (lambda good: good[: len(good) // 2], DAMAGED),
        (lambda good: b"", DAMAGED),
        (lambda good: b"\xff\x00" * 40_000, DAMAGED),
    ],
    ids=["another kind", "encrypted", "junk inside", "cut", "empty", "large junk"],
)
def test_a_key_that_cannot_sign_is_one_line(ours: KeyFiles, spoil: Callable[[bytes], bytes], said: str) -> None:
    ours.private.write_bytes(spoil(ours.private.read_bytes()))
    with pytest.raises(SettingsError) as caught:
        signing.signing_key(Settings(signing_key=ours.private))
    assert str(caught.value).startswith(f"signing_key = {str(ours.private)!r}: {said}")
    assert "\n" not in str(caught.value)


def test_a_key_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for wrong, said in ((tmp_path / "none.pem", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(SettingsError, match=said):
            signing.signing_key(Settings(signing_key=wrong))
        with pytest.raises(SettingsError, match=said):
            signing.trusted_keys(Settings(trusted_keys=(str(wrong),)))


def test_a_key_that_cannot_be_trusted_is_one_line(ours: KeyFiles, tmp_path: Path) -> None:
    private = ours.private.read_text()
    damaged = ours.public.read_text()[:70]
    for wrong, said in (
        (str(ours.private), "a private key: readers get the public one, which `headrace keys show FILE` prints"),
        (private, r"^trusted_keys\[1\] = a PEM text: a private key"),
        (damaged, r"^trusted_keys\[1\] = a PEM text: no public key in PEM, or a damaged one"),
        ("/no\0where", "null byte"),
    ):
        with pytest.raises(SettingsError, match=said) as caught:
            signing.trusted_keys(Settings(trusted_keys=(str(ours.public), wrong)))
        assert "\n" not in str(caught.value)
        assert private.splitlines()[1] not in str(caught.value), "a private key is shown nowhere"


def test_a_public_key_may_be_given_as_text(ours: KeyFiles) -> None:
    keys = signing.trusted_keys(Settings(deployment="d", trusted_keys=(ours.public.read_text(),)))
    assert keys is not None
    assert keys.fault("releases", KEY, b"v", [signer(ours).header("releases", KEY, b"v")]) is None


def test_without_keys_nothing_is_signed_and_nothing_is_loaded() -> None:
    assert signing.signing_key(Settings()) is None
    assert signing.trusted_keys(Settings()) is None
    program = "import sys, headrace_streams.signing; print('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_missing_library_is_the_pip_line(ours: KeyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("cryptography"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    for use in (
        lambda: signing.signing_key(Settings(signing_key=ours.private)),
        lambda: signing.trusted_keys(Settings(trusted_keys=(str(ours.public),))),
        lambda: signing.create(tmp_path / "new.pem"),
        lambda: signing.public_pem(ours.public),
    ):
        with pytest.raises(SettingsError, match="needs cryptography, which is not installed: ") as caught:
            use()
        assert str(caught.value).endswith(pip_line("signing"))
        assert caught.value.exit_code == 2
    assert not (tmp_path / "new.pem").exists()
