"""`headrace doctor`: are the surroundings fit: versions, broker, topics, disk, store, Java, GPU. Leaves nothing behind."""

from __future__ import annotations

import platform
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import click

from headrace_cli.common import NO, common, emit, run
from headrace_streams.pip_line import pip_line
from headrace_streams.settings import Settings, SettingsError

GB = 1e9
NEEDED_DISK, WANTED_DISK = 1 * GB, 5 * GB
_GPU = (
    "import torch; n = torch.cuda.device_count(); "
    "print(f'torch {torch.__version__}:', ', '.join(torch.cuda.get_device_name(i) for i in range(n)) or "
    "f'no GPU, trains on {torch.get_num_threads()} CPU threads')"
)
_GRADERS = "from headrace_trainer.evaluation.isolation import probe; print(probe() or '')"
_NAMESPACES = (
    "allow user namespaces to who runs the trainer (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns; in a container its seccomp profile)"
)


class Finding(NamedTuple):
    """`warn` is worth knowing; `broken` means that something which is needed does not work."""

    what: str
    verdict: Literal["ok", "warn", "broken"]
    detail: str


@click.command()
@common
def doctor(settings: Settings, as_json: bool) -> int:
    """One line for each thing that Headrace stands on; exit 1 when something that is needed does not work."""
    broken = False
    for finding in examine(settings):
        broken |= finding.verdict == "broken"
        if as_json:
            emit(finding._asdict())
        else:
            click.echo(f"{finding.verdict:<6}  {finding.what:<9}  {' '.join(finding.detail.split())}")
    return NO if broken else 0


def examine(settings: Settings) -> Iterator[Finding]:
    """All findings, one after the other as they come."""
    checks: dict[str, Callable[[Settings], Iterator[Finding]]] = {
        "python": _python,
        "libraries": _libraries,
        "broker": _broker,
        "disk": _disk,
        "store": _store,
        "signing": _signing,
        "java": _java,
        "gpu": _gpu,
        "graders": _graders,
    }
    for what, check in checks.items():
        try:
            yield from check(settings)
        except Exception as error:  # whatever a surrounding does is a finding
            yield Finding(what, "broken", f"{type(error).__name__}: {error}")


def _python(_settings: Settings) -> Iterator[Finding]:
    version = platform.python_version()
    yield Finding("python", "ok" if sys.version_info >= (3, 11) else "broken", f"{version} on {platform.platform()}")


def _libraries(_settings: Settings) -> Iterator[Finding]:
    """Each requirement of the installed distribution, grouped by extra. Only those of the base are needed by everything."""
    missing: dict[str, list[str]] = {}
    seen: set[str] = set()
    for text in metadata.requires("headrace") or []:
        name = re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]
        extra = text.partition("extra ==")[2].strip(" '\"")
        if name == "headrace" or extra == "dev":
            continue
        try:
            seen.add(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.setdefault(extra, []).append(name)
    yield Finding("libraries", "ok", f"headrace {metadata.version('headrace')} with {', '.join(sorted(seen))}")
    for extra, names in missing.items():
        yield Finding("libraries", "warn" if extra else "broken", f"missing: {', '.join(names)}: {pip_line(extra)}")


def _broker(settings: Settings) -> Iterator[Finding]:
    from headrace_schemas.topology import ALL_TOPICS
    from headrace_streams.kafka import admin, clients

    async def cluster() -> int:
        async with clients.connected(clients.admin(settings)) as client:
            return len((await client.describe_cluster())["brokers"])

    try:
        brokers = run(cluster())
    except (clients.BrokerUnavailable, OSError) as error:
        yield Finding("broker", "broken", f"{settings.bootstrap}: {error}; `headrace kafka start` starts one on this machine")
        return
    yield Finding("broker", "ok", f"{settings.bootstrap} answers, {brokers} in the cluster")
    yield _access(settings)
    differences = run(admin.check(settings))
    if not differences:
        yield Finding("topics", "ok", f"all {len(ALL_TOPICS)} of deployment {settings.deployment} are as declared")
    elif all(line.endswith(": missing") for line in differences) and len(differences) == len(ALL_TOPICS):
        yield Finding("topics", "warn", f"deployment {settings.deployment} has none yet: headrace topics create")
    else:
        yield Finding("topics", "warn", f"{len(differences)} differences (headrace topics check): {differences[0]}")


def _access(settings: Settings) -> Finding:
    """Who can connect, and whether there is a limit to what they may do."""
    from headrace_streams.kafka import admin

    protocol, host = settings.security.protocol, settings.bootstrap.partition(",")[0].rpartition(":")[0]
    local = host in ("127.0.0.1", "localhost", "[::1]")
    if protocol == "PLAINTEXT":
        who = "every user of this machine" if local else f"whoever reaches {settings.bootstrap}"
        mend = "`headrace kafka start --secure` on a new --data-dir asks for a login" if local else "set `security`"
        return Finding("access", "warn", f"no login: {who} can read and write everything: {mend}")
    if not run(admin.authorizes(settings)):
        return Finding("access", "warn", f"{protocol}, and no authorizer: whoever gets in can read and write everything")
    plain = protocol == "SASL_PLAINTEXT" and not local
    return Finding(
        "access", "warn" if plain else "ok", f"{protocol}, rights by ACLs{'; the line can be listened to' if plain else ''}"
    )


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    verdict: Literal["ok", "warn", "broken"] = "ok" if free >= WANTED_DISK else "warn" if free >= NEEDED_DISK else "broken"
    yield Finding("disk", verdict, f"{free / GB:.1f} GB free for {settings.data_dir}")


def _store(settings: Settings) -> Iterator[Finding]:
    from headrace_streams.adapter_files import StoreError
    from headrace_streams.adapter_store import Store

    try:
        Store(settings.store).probe()
    except StoreError as error:
        yield Finding("store", "broken", str(error))
        return
    if settings.store.startswith("memory:"):
        yield Finding("store", "broken", f"{settings.store} lives in one process: what the trainer puts there nobody can fetch")
        return
    yield Finding("store", "ok", f"{settings.store} can be written and read")


def _signing(settings: Settings) -> Iterator[Finding]:
    """Only where releases are signed, or only signed ones believed."""
    from headrace_streams import signing

    try:
        key, trusted = signing.signing_key(settings), signing.trusted_keys(settings)
    except SettingsError as error:
        yield Finding("signing", "broken", str(error))
        return
    if key is not None and settings.signing_key is not None:
        seen = settings.signing_key.expanduser().stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
        others = f"; other users can read it: chmod 600 {settings.signing_key}" if seen else ""
        yield Finding("signing", "warn" if seen else "ok", f"releases are signed by key {key.id}{others}")
    if trusted is not None:
        yield Finding("signing", "ok", f"releases are believed if signed by {' or '.join(trusted.ids)}")


def _java(_settings: Settings) -> Iterator[Finding]:
    from headrace_streams.local_kafka import jars

    try:
        java = jars.find_java()
    except jars.MissingPiece as error:
        yield Finding("java", "warn", f"{error} (needed for `headrace kafka` only)")
        return
    cached = all(jar.path(jars.cache_dir()).is_file() for jar in jars.locked())
    kafka = "its jars are here" if cached else "its jars are fetched at the first start"
    yield Finding("java", "ok", f"{jars.java_version(java)} at {java}; Apache Kafka {jars.KAFKA_VERSION}: {kafka}")


def _gpu(_settings: Settings) -> Iterator[Finding]:
    """Asks torch in a process of its own: importing it takes seconds and memory, and streams/ never imports it."""
    try:
        metadata.version("torch")
    except metadata.PackageNotFoundError:
        yield Finding("gpu", "warn", f"torch is not installed: {pip_line('trainer')} (needed for training only)")
        return
    done = subprocess.run([Path(sys.executable), "-c", _GPU], capture_output=True, text=True, timeout=120, check=False)
    yield Finding(
        "gpu", "warn" if done.returncode else "ok", (done.stderr.splitlines() or ["?"])[-1] if done.returncode else done.stdout
    )


def _graders(_settings: Settings) -> Iterator[Finding]:
    """Asks in a process of its own, which leaves its surroundings for it."""
    done = subprocess.run([sys.executable, "-c", _GRADERS], capture_output=True, text=True, timeout=120, check=False)
    refused = done.stdout.strip() or (done.stderr.splitlines() or [""])[-1]
    if done.returncode == 0 and not refused:
        yield Finding("graders", "ok", "can be isolated: no network, no files but those of their policy, no other processes")
        return
    yield Finding("graders", "warn", f"are limited here, not isolated: {refused}: {_NAMESPACES}")
