"""Where the files of a base are on this machine: in a folder, or in the hub's cache, into which they are downloaded. Knows the
hub's library, no torch, not what is in the files."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from headrace_trainer.model.identity import (
    CONFIGURATION,
    OLD_WEIGHTS,
    SAFE_WEIGHTS,
    TEMPLATE,
    TOKENIZER,
    BaseMissing,
    OnBytes,
)
from headrace_trainer.policy import BasePolicy


class BaseFolder(NamedTuple):
    """`revision`: the hub's commit; None for a folder of this machine. `hub_name`: what others find it by there."""

    path: Path
    revision: str | None = None
    hub_name: str | None = None


def folder_of(base: BasePolicy, on_bytes: OnBytes = lambda done, whole: None) -> BaseFolder:
    """The folder of a base's files. What is not yet here is downloaded, once. BaseMissing says why it can't be had."""
    if Path(base.weights).is_dir():
        return BaseFolder(Path(base.weights))
    if Path(base.weights).is_absolute() or base.weights.startswith("."):
        raise BaseMissing(f"base weights {base.weights!r}: there is no such folder")
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        path = _snapshot(base, on_bytes)
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        said = " ".join(str(error).split())[:300]
        raise BaseMissing(f"base weights {base.weights!r} (hub name) cannot be had: {said}") from error
    return BaseFolder(path, path.name, base.weights)


def _snapshot(base: BasePolicy, on_bytes: OnBytes) -> Path:
    """`*.bin` is asked for only where there is nothing safer."""
    from huggingface_hub import snapshot_download

    wanted = [*CONFIGURATION, *TOKENIZER, *TEMPLATE]
    if not base.trust_remote_code:
        wanted.remove("*.py")
    with _quiet():
        options: Any = {"revision": base.revision, "tqdm_class": _bar(on_bytes)}
        path = Path(snapshot_download(base.weights, allow_patterns=[*wanted, *SAFE_WEIGHTS], **options))
        if not any(path.glob(SAFE_WEIGHTS[0])):
            path = Path(snapshot_download(base.weights, allow_patterns=[*wanted, *OLD_WEIGHTS], **options))
    return path


def _bar(on_bytes: OnBytes) -> type:
    """A bar as the library wants one, which draws nothing: it tells `on_bytes` where those that count bytes stand."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            self._bytes = named.get("unit") == "B"
            named.pop("name", None)
            super().__init__(*arguments, **{**named, "disable": False, "file": _Nowhere()})

        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            if self._bytes:
                on_bytes(int(self.n), int(self.total or 0))
            return shown

    return Bar


class _Nowhere:
    """Where the bar is drawn."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        return


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without a network the library warns at length and then uses what is here."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
