"""Where a setting comes from, which one wins, and what is said of one that can't be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from headrace_streams.kafka.clients import full_name, security_options, short_name
from headrace_streams.settings import Security, Settings, SettingsError, load


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_anything_all_are_defaults() -> None:
    loaded = load()
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {"default"}


def test_flags_win_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "headrace.toml").write_text('bootstrap = "file:1"\ndeployment = "file"\npartitions = 7\n')
    monkeypatch.setenv("HEADRACE_BOOTSTRAP", "environment:1")
    monkeypatch.setenv("HEADRACE_DEPLOYMENT", "environment")
    settings, origins = load({"bootstrap": "flag:1", "deployment": None})
    assert (settings.bootstrap, settings.deployment, settings.partitions) == ("flag:1", "environment", 7)
    assert origins["bootstrap"] == "--bootstrap"
    assert origins["deployment"] == "HEADRACE_DEPLOYMENT"
    assert origins["partitions"] == "file headrace.toml"
    assert origins["replication_factor"] == "default"


def test_nested_settings_merge_value_by_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "other.toml"
    file.write_text(
        '[security]\nprotocol = "SASL_SSL"\nsasl_mechanism = "PLAIN"\nsasl_username = "file"\nssl_cafile = "ca.pem"\n'
    )
    monkeypatch.setenv("HEADRACE_SECURITY_SASL_USERNAME", "environment")
    monkeypatch.setenv("HEADRACE_SECURITY_SASL_PASSWORD", "hush")
    settings, origins = load(config=file)
    assert settings.security.sasl_username == "environment"
    assert settings.security.ssl_cafile == tmp_path / "ca.pem"  # relative to the file that names it
    assert origins["security.sasl_username"] == "HEADRACE_SECURITY_SASL_USERNAME"
    assert origins["security.protocol"] == f"file {file}"
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HEADRACE_PARTITIONS", "0", "partitions = '0' (from HEADRACE_PARTITIONS)"),
        ("HEADRACE_PARTITIONS", "many", "partitions = 'many' (from HEADRACE_PARTITIONS)"),
        ("HEADRACE_BOOTSTRAP", "nowhere", "bootstrap = 'nowhere' (from HEADRACE_BOOTSTRAP): 'nowhere' is not host:port"),
        ("HEADRACE_BOOTSTRAP", "a:1,b", "'b' is not host:port"),
        ("HEADRACE_DEPLOYMENT", "a.b", "deployment = 'a.b' (from HEADRACE_DEPLOYMENT)"),
        (
            "HEADRACE_SECURITY_PROTOCOL",
            "SASL_SSL",
            "security (from HEADRACE_SECURITY_PROTOCOL): protocol SASL_SSL needs sasl_mechanism, sasl_username",
        ),
        (
            "HEADRACE_SECURITY_SSL_KEYFILE",
            "k",
            "security (from HEADRACE_SECURITY_SSL_KEYFILE): ssl_certfile and ssl_keyfile go together",
        ),
        (
            "HEADRACE_STORE",
            "simplecache::s3://b",
            "store = 'simplecache::s3://b' (from HEADRACE_STORE): a chain of addresses (`::`) is no store",
        ),
        ("HEADRACE_STORE", " ", "store = ' ' (from HEADRACE_STORE): no folder and no URL"),
        ("HEADRACE_BOOTSTRP", "x:1", "HEADRACE_BOOTSTRP = 'x:1': there is no such setting; did you mean HEADRACE_BOOTSTRAP?"),
        ("headrace_bootstrp", "x:1", "headrace_bootstrp = 'x:1': there is no such setting; did you mean HEADRACE_BOOTSTRAP?"),
        (
            "HEADRACE_SECURITY_PROTOCL",
            "SSL",
            "HEADRACE_SECURITY_PROTOCL = 'SSL': there is no such setting; did you mean HEADRACE_SECURITY_PROTOCOL?",
        ),
        ("HEADRACE_WHATEVER", "a\nb", "HEADRACE_WHATEVER = 'a\\nb': there is no such setting"),
        ("HEADRACE_IMPORT", "x", "HEADRACE_IMPORT = 'x': there is no such setting"),
    ],
)
def test_what_cannot_be_used_is_named_on_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["HEADRACE_SECURITY_SASL_PASSWROD", "HEADRACE_SASL_PWD", "HEADRACE_API_TOKEN", "HEADRACE_SECURITY"]
)
def test_a_misspelt_secret_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "hush")
    with pytest.raises(SettingsError, match=f"^{name}: ") as caught:
        load()
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["HEADRACE_DEBUG", "HEADRACE_SERVICE_HOST", "HEADRACE_PORT", "HEADRACE_WEB_SERVICE_PORT_HTTP", "HEADRACE_PORT_80_TCP_ADDR"],
)
def test_variables_that_set_nothing_on_purpose_are_let_be(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    assert load().settings == Settings()


def test_every_setting_has_a_variable_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "bootstrap": "h:1",
        "deployment": "d",
        "security": '{"protocol": "SSL"}',
        "data_dir": "/d",
        "store": "s",
        "state_dir": "/s",
        "policy": "p",
        "signing_key": "k",
        "trusted_keys": "a,b",
        "partitions": "3",
        "replication_factor": "3",
    }
    assert set(values) == set(Settings.model_fields)
    for name, value in values.items():
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", value)
    assert all(getattr(load().settings, name) != getattr(Settings(), name) for name in values)


def test_a_wrong_password_type_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text("[security]\nsasl_password = 12345\n")
    with pytest.raises(SettingsError) as caught:
        load()
    assert "12345" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bootstap = 'x:1'", "bootstap = 'x:1' (from file headrace.toml): there is no such setting; did you mean bootstrap?"),
        (
            "[securty]\nsasl_password = 'hush'",
            "securty (from file headrace.toml): there is no such setting; did you mean security?",
        ),
        ("[security]\nsasl_passwor = 'hush'", "security.sasl_passwor (from file headrace.toml): there is no such setting"),
        ("[security]\nprotocl = 'SSL'", "security.protocl = 'SSL' (from file headrace.toml): there is no such setting"),
        ("a = [", "config = 'headrace.toml': "),
        ("security = 3", "security = 3 (from file headrace.toml): "),
        ("[bootstrap]\na = 1", "bootstrap (from file headrace.toml): "),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "headrace.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_missing_file_that_was_asked_for_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml"):
        load(config=tmp_path / "none.toml")


def test_settings_given_directly_read_neither_environment_nor_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_DEPLOYMENT", "environment")
    assert Settings().deployment == "headrace"
    with pytest.raises(ValidationError):
        Settings().deployment = "other"  # type: ignore[misc]


def test_the_store_lies_in_the_data_folder_unless_it_is_set(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).store == str(tmp_path / "store")
    assert Settings(data_dir=tmp_path, store="s3://bucket/x").store == "s3://bucket/x"


def test_topic_names_are_made_short_and_full() -> None:
    settings = Settings(deployment="d")
    assert full_name(settings, "state.reward.signals") == "d.state.reward.signals"
    assert full_name(settings, "d.signals") == "d.signals"
    assert short_name(settings, "d.signals") == short_name(settings, "signals") == "signals"


def test_security_reaches_clients_as_their_own_arguments() -> None:
    assert security_options(Security()) == {"security_protocol": "PLAINTEXT"}
    options = security_options(
        Security(protocol="SASL_SSL", sasl_mechanism="SCRAM-SHA-512", sasl_username="u", sasl_password=SecretStr("p"))
    )
    context = options.pop("ssl_context")
    assert context.check_hostname
    assert options == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "u",
        "sasl_plain_password": "p",
    }


def test_security_file_that_cannot_be_used_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^security\.ssl_cafile = '/nowhere/ca\.pem': there is no such file"):
        security_options(Security(protocol="SSL", ssl_cafile=Path("/nowhere/ca.pem")))
    empty = tmp_path / "ca.pem"
    empty.write_text("no certificate")
    with pytest.raises(SettingsError, match=r"ca\.pem' can't be used: "):
        security_options(Security(protocol="SSL", ssl_cafile=empty))


def test_trusted_keys_are_a_list_or_a_text_with_commas_and_relative_to_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n"
    (tmp_path / "headrace.toml").write_text(f'signing_key = "key.pem"\ntrusted_keys = ["a.pem", """{text}"""]\n')
    loaded = load()
    assert loaded.settings.signing_key == tmp_path / "key.pem"
    assert loaded.settings.trusted_keys == (str(tmp_path / "a.pem"), text)
    monkeypatch.setenv("HEADRACE_TRUSTED_KEYS", "/a.pem, /b.pem")
    assert load().settings.trusted_keys == ("/a.pem", "/b.pem")
    for nothing in ("", "/a.pem,"):
        monkeypatch.setenv("HEADRACE_TRUSTED_KEYS", nothing)
        with pytest.raises(SettingsError, match="trusted_keys"):
            load()
    monkeypatch.delenv("HEADRACE_TRUSTED_KEYS")
    for nothing in ("[]", "7", "[7]", '[""]'):
        (tmp_path / "headrace.toml").write_text(f"trusted_keys = {nothing}\n")
        with pytest.raises(SettingsError, match="trusted_keys"):
            load()
