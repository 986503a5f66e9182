"""What the door says of a setting that can't be used: one line that names the argument and its value. No broker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import headrace


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"bootstrap": "nowhere"}, "bootstrap = 'nowhere': 'nowhere' is not host:port"),
        ({"bootstrap": 7}, "bootstrap = 7: "),
        ({"deployment": "a.b"}, "deployment = 'a.b': "),
        ({"kafka": {"protocl": "SSL"}}, "kafka.protocl = 'SSL': there is no such setting; did you mean kafka.protocol?"),
        ({"kafka": {"protocol": "TLS"}}, "kafka.protocol = 'TLS': "),
        ({"kafka": {"protocol": "SASL_SSL"}}, "kafka: protocol SASL_SSL needs sasl_mechanism, sasl_username, sasl_password"),
        ({"kafka": {"sasl_pasword": "hush"}}, "kafka.sasl_pasword: there is no such setting; did you mean kafka.sasl_password?"),
        ({"kafka": {"sasl_password": ["hush"]}}, "kafka.sasl_password: "),
        ({"kafka": "SSL"}, "kafka = 'SSL': "),
    ],
)
def test_a_wrong_setting_is_one_line(arguments: dict[str, Any], said: str) -> None:
    readers: list[Callable[..., object]] = [headrace.Releases, headrace.AsyncReleases]
    writers: list[Callable[..., object]] = [headrace.Recorder, headrace.AsyncRecorder]
    calls = [*(partial(door, **arguments) for door in readers), *(partial(door, agent="bot", **arguments) for door in writers)]
    for call in calls:
        with pytest.raises(headrace.SettingsError) as caught:
            call()
        line = str(caught.value)
        assert line.startswith(said)
        assert "\n" not in line
        assert "hush" not in line
        assert caught.value.__cause__ is None, "a traceback shows no other error before it"


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("reference::data:,x", "store = 'reference::data:,x': a chain of addresses (`::`) is no store: name one folder or URL"),
        ("", "store = '': no folder and no URL"),
        (7, "store = 7: "),
    ],
)
def test_a_wrong_store_is_one_line(store: Any, said: str) -> None:
    readers: list[Callable[..., object]] = [headrace.Releases, headrace.AsyncReleases]
    for reader in readers:
        with pytest.raises(headrace.SettingsError) as caught:
            reader("127.0.0.1:1", store=store)
        assert str(caught.value).startswith(said)
        assert "\n" not in str(caught.value)


def test_keys_that_nothing_can_be_believed_by_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "damaged").write_text("damaged")
    wrong: list[tuple[Any, str]] = [
        ([], "trusted_keys = []: "),
        ("", "trusted_keys.0 = '': "),
        ([7], "trusted_keys.0 = 7: "),
        (7, "trusted_keys = 7: "),
        ([tmp_path / "none"], f"trusted_keys[0] = {str(tmp_path / 'none')!r}: No such file or directory"),
        (tmp_path / "damaged", f"trusted_keys[0] = {str(tmp_path / 'damaged')!r}: no public key in PEM, or a damaged one"),
    ]
    readers: list[Callable[..., object]] = [headrace.Releases, headrace.AsyncReleases]
    for reader in readers:
        for keys, said in wrong:
            with pytest.raises(headrace.SettingsError) as caught:
                reader("127.0.0.1:1", trusted_keys=keys)
            assert str(caught.value).startswith(said)
            assert "\n" not in str(caught.value)


def test_the_door_reads_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_BOOTSTRP", "x:1")
    monkeypatch.setenv("HEADRACE_BOOTSTRAP", "nowhere")
    with headrace.Releases("127.0.0.1:1"):
        pass
