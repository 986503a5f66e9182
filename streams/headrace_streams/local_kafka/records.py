"""Which data folders this user's local brokers were started on, so that `kafka stop` finds them again. Starts and stops nothing.

One small file for each folder in the user's state folder. A record only says where to look: whether a broker runs there, its
folder's lock says, so a stale record is a folder on which nothing runs.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path

from platformdirs import user_state_path

from headrace_streams.local_kafka.credentials import CLIENT
from headrace_streams.local_kafka.process import Running, status


def remember(data_dir: Path, home: Path) -> None:
    """Records that a broker runs on `data_dir`, started under settings whose `data_dir` is `home`; drops stale records.

    OSError when the state folder can't be written."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        known = _read(path)
        if known is None or not (status(known[0]) or (known[0] / CLIENT).is_file()):  # who logs in looks there later too
            path.unlink(missing_ok=True)
    name = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:16]
    text = json.dumps({"data_dir": str(data_dir.resolve()), "home": str(home.resolve())})
    replacement = folder / f"{name}.new"
    replacement.write_text(text, encoding="utf-8")
    replacement.replace(folder / f"{name}.json")


def recorded(home: Path | None = None) -> list[Running]:
    """What runs on recorded folders, by folder; with `home` only what was started under settings with that `data_dir`."""
    found = []
    for path in sorted(_folder().glob("*.json")):
        known = _read(path)
        if known is not None and (home is None or known[1] == home.resolve()):
            found.append(status(known[0]))
    return sorted((running for running in found if running is not None), key=lambda running: running.data_dir)


def client_file(bootstrap: str, home: Path) -> Path | None:
    """The settings file with which clients log in to the secured local broker at `bootstrap`: the one that runs there, or the one
    that was there last. Looks in the settings' own folder and in those that were recorded. None for any other broker."""
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    if host not in ("127.0.0.1", "localhost", "[::1]"):
        return None
    folders = [home / "kafka", *(known[0] for path in sorted(_folder().glob("*.json")) if (known := _read(path)))]
    candidates = [folder / CLIENT for folder in folders if _port(folder / CLIENT) == port]
    for folder in folders:
        running = status(folder)
        if running is not None and str(running.port) == port:
            return folder / CLIENT if folder / CLIENT in candidates and running.secure else None
    return candidates[0] if candidates else None  # whoever has taken its port since shall not be talked to without a login


def _port(path: Path) -> str | None:
    """The port in a client file; None when it is none."""
    try:
        return str(tomllib.loads(path.read_text(encoding="utf-8"))["bootstrap"]).rpartition(":")[2]
    except (OSError, ValueError, KeyError):
        return None


def _folder() -> Path:
    return user_state_path("headrace", appauthor=False) / "brokers"


def _read(path: Path) -> tuple[Path, Path] | None:
    """(data folder, home) of a record; None when it is no record."""
    try:
        record = json.loads(path.read_bytes())
        return Path(record["data_dir"]), Path(record["home"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
