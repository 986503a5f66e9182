"""Which model is meant: a release, a folder with an adapter, or a base. Knows log, store and policy; loads no model."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from platformdirs import user_cache_path

from headrace_cli.common import NO, USAGE, CliError
from headrace_streams import release_log
from headrace_streams.adapter_store import Store, fetch
from headrace_streams.kafka.reader import Reader
from headrace_streams.release_log import Decision
from headrace_streams.settings import Settings
from headrace_trainer.policy import BasePolicy, load


class ModelSource(NamedTuple):
    """`base`: its name; `weights`: where they are, None for a base of a release that the policy maps to none: what a log says is
    no address; `adapter`: a folder, None for the base itself; `decision`: of the release stage, for a release."""

    base: str
    weights: BasePolicy | None
    adapter: Path | None
    decision: Decision | None = None

    @property
    def loading(self) -> BasePolicy:
        """How the base is loaded. CliError where nobody has said it."""
        if self.weights is None:
            raise CliError(
                USAGE, f"no weights are mapped to base {self.base!r}: map them in train.bases, or name them with --base"
            )
        return self.weights

    @property
    def digest(self) -> str | None:
        """Of the adapter, where the log says it."""
        return release_log.adapter_digest(self.decision.data) if self.decision is not None else None


async def source_of(settings: Settings, release: str | None, adapter: Path | None, base: str | None) -> ModelSource:
    """What the options of a command name. CliError when they name nothing, or more than one thing; StoreError, AdapterRefused."""
    if release is not None and adapter is not None:
        raise CliError(USAGE, "--release and --adapter: give one of them")
    if release is not None:
        decision = next((each for each in await release_log.history(Reader(settings)) if each.data.release_id == release), None)
        if decision is None:
            raise CliError(NO, f"no release {release}: `headrace releases --all` names all")
        digest = release_log.adapter_digest(decision.data)
        cache = user_cache_path("headrace", appauthor=False)
        folder = None if digest is None else fetch(Store(settings.store), digest, cache)
        if base is None:
            return ModelSource(decision.data.base, load(settings.policy).bases.get(decision.data.base), folder, decision)
        return ModelSource(base, _loading(settings, base), folder, decision)
    if adapter is not None:
        from headrace_trainer.model import lora  # torch with it: seconds, which help and a wrong option need not wait for

        named = base or lora.config_of(adapter).get("base_model_name_or_path")
        if not isinstance(named, str):
            raise CliError(USAGE, f"adapter {adapter} does not say which base it is for: name it with --base")
        return ModelSource(named, _loading(settings, named), adapter)
    if base is None:
        raise CliError(USAGE, "which model? give --release, --adapter or --base")
    return ModelSource(base, _loading(settings, base), None)


def _loading(settings: Settings, base: str) -> BasePolicy:
    """As the policy says it; a base that it does not map is a folder or a hub name, of whoever asks."""
    known = load(settings.policy).bases.get(base)
    return known if known is not None else BasePolicy(weights=base)
