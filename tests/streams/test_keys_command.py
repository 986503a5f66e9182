"""`headrace keys`, and what commands say of keys that they can't use. No broker."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from headrace_cli.doctor import _signing
from headrace_cli.main import invoke
from headrace_streams import signing
from headrace_streams.pip_line import pip_line
from headrace_streams.settings import Settings
from support.keys import key_files


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_create_makes_a_key_and_show_prints_what_readers_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["keys", "create", "release.pem"]) == 0
    made, told = capsys.readouterr()
    assert stat.S_IMODE((tmp_path / "release.pem").stat().st_mode) == 0o600
    assert "headrace keys show release.pem" in told
    assert invoke(["keys", "show", "release.pem"]) == 0
    pem, shown = capsys.readouterr()
    assert made == f"wrote release.pem, {shown}"
    (tmp_path / "release.pub").write_text(pem)
    assert "PRIVATE" not in pem
    assert invoke(["keys", "show", "release.pub", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"id": shown.split()[1], "public_key": pem}
    key = signing.signing_key(Settings(signing_key=tmp_path / "release.pem"))
    trusted = signing.trusted_keys(Settings(trusted_keys=(pem,)))
    assert key is not None
    assert trusted is not None
    assert trusted.fault("releases", b"k", b"v", [key.header("releases", b"k", b"v")]) is None


def test_no_key_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["keys", "create", "release.pem", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"id", "file"}
    before = (tmp_path / "release.pem").read_bytes()
    assert invoke(["keys", "create", "release.pem"]) == 1
    error = "headrace: release.pem is there already, and no key is overwritten: name another file\n"
    assert capsys.readouterr() == ("", error)
    assert (tmp_path / "release.pem").read_bytes() == before
    assert invoke(["keys", "create", "nowhere/release.pem"]) == 4
    assert capsys.readouterr().err == "headrace: nowhere/release.pem: No such file or directory\n"


@pytest.mark.parametrize("text", ["", "damaged", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_without_a_key_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "key").write_text(text)
    assert invoke(["keys", "show", "key"]) == 2
    assert capsys.readouterr() == ("", "headrace: key: no public key in PEM, or a damaged one\n")
    assert invoke(["keys", "show", "none"]) == 2
    assert capsys.readouterr() == ("", "headrace: none: No such file or directory\n")


def test_a_worker_with_a_damaged_key_does_not_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("damaged")
    monkeypatch.setenv("HEADRACE_SIGNING_KEY", "key")
    assert invoke(["worker", "--bootstrap", "127.0.0.1:1"]) == 2
    assert capsys.readouterr().err == "headrace: signing_key = 'key': no private key in PEM, or a damaged one\n"


def test_without_the_extra_each_use_of_keys_is_exit_2_with_the_pip_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("-----BEGIN PRIVATE KEY-----")
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)  # as if it were not installed
    monkeypatch.setenv("HEADRACE_SIGNING_KEY", "key")
    for arguments in (["keys", "create", "new"], ["keys", "show", "key"], ["worker", "--bootstrap", "127.0.0.1:1"]):
        assert invoke(arguments) == 2
        out, error = capsys.readouterr()
        assert error.endswith(f"signing needs cryptography, which is not installed: {pip_line('signing')}\n")
        assert (out, error.count("\n")) == ("", 1)
    assert not (tmp_path / "new").exists()


def test_doctor_says_which_keys_there_are_and_who_can_read_one(tmp_path: Path) -> None:
    files = key_files(tmp_path, "ours")
    settings = Settings(signing_key=files.private, trusted_keys=(str(files.public),))
    signs = f"releases are signed by key {files.id}"
    assert [tuple(finding) for finding in _signing(settings)] == [
        ("signing", "ok", signs),
        ("signing", "ok", f"releases are believed if signed by {files.id}"),
    ]
    files.private.chmod(0o640)
    assert next(_signing(settings)) == ("signing", "warn", f"{signs}; other users can read it: chmod 600 {files.private}")
    files.public.write_text("damaged")
    [finding] = _signing(settings)
    assert (finding.verdict, "no public key in PEM" in finding.detail) == ("broken", True)
    assert list(_signing(Settings())) == []
