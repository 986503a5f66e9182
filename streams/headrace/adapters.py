"""Adapters in a model of the agent's own process: load one beside the others, switch between answers, drop what nobody uses.
Knows a loaded model and folders; no broker.

    model = AutoModelForCausalLM.from_pretrained(…)
    adapters = headrace.Adapters(model)
    for release in releases.follow():                 # in a thread of its own
        adapters.serve(release)
    …
    with adapters.using() as served:                  # in those that answer
        output = served.model.generate(**inputs)      # served.digest is what the interaction's `adapter` wants

An answer is made by one adapter from its first token to its last: whoever switches waits for the answer that is being made, and
the next one waits for the switch, in the order in which they came. An adapter's name in the model follows from its digest and is
used for no other, ever: servers that cache by name (vLLM does) would answer with the old one.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from headrace_schemas.canonical import sha256
from headrace_streams.adapter_files import AdapterRefused, describe, hexadecimal, manifest_of

if TYPE_CHECKING:
    from headrace.releases import Release


class ServedAdapter(NamedTuple):
    """`model` answers as `digest` (None: as the base) until the block ends."""

    model: Any
    digest: str | None


class _Turns:
    """A lock that is given in the order in which it was asked for: an agent that never stops answering can't keep it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked: deque[object] = deque()  # whose turn it is, and who waits behind
        self._holder: int | None = None  # the thread whose turn it is

    @contextmanager
    def turn(self) -> Iterator[None]:
        """RuntimeError where it would wait for itself."""
        mine, thread = object(), threading.get_ident()
        if self._holder == thread:
            raise RuntimeError("adapters: this thread is within `using()`, and would wait for itself: leave that block first")
        self._asked.append(mine)
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._asked[0] is mine)
                self._holder = thread
            yield
        finally:  # of one who was interrupted while waiting, too: nobody behind would ever have a turn
            with self._changed:
                if self._asked[0] is mine:
                    self._holder = None
                self._asked.remove(mine)
                self._changed.notify_all()


class Adapters:
    """Adapters of one model; from any thread."""

    def __init__(self, model: Any) -> None:
        """`model`: a causal model of transformers, without adapters. Needs peft (extra `trainer`), when the first is loaded."""
        self._base = self._model = model
        self._turns = _Turns()
        self._loaded: list[str] = []
        self._served: str | None = None

    @property
    def served(self) -> str | None:
        """Digest of what `using` answers with; None: the base."""
        return self._served

    @property
    def loaded(self) -> list[str]:
        """Digests of the adapters in the model, in the order in which they were loaded."""
        return list(self._loaded)

    def load(self, adapter: Release | str | Path) -> str | None:
        """Puts an adapter beside the others, and gives its digest (None for a release of the base): a release, which is fetched,
        or a folder. AdapterRefused when it does not fit the model; StoreError when it can't be fetched."""
        found = self._found(adapter)
        if found is not None:
            with self._turns.turn():
                self._load(*found)
        return None if found is None else found[0]

    def serve(self, adapter: Release | str | Path | None, *, keep: bool = False) -> str | None:
        """Answers with it from the next one on (None: with the base) and drops what was served before, unless it is to `keep`.
        What is served stays when it raises what `load` does."""
        found = None if adapter is None else self._found(adapter)
        with self._turns.turn():
            if found is not None:
                self._load(*found)
            before, self._served = self._served, None if found is None else found[0]
            if before is not None and before != self._served and not keep:
                self._drop(before)
            return self._served

    def drop(self, digest: str) -> None:
        """Takes an adapter out of the model. ValueError for what is served, or not there."""
        with self._turns.turn():
            if digest == self._served or digest not in self._loaded:
                raise ValueError(f"adapter {digest}: {'it is served' if digest == self._served else 'it is not loaded'}")
            self._drop(digest)

    @contextmanager
    def using(self, digest: str | None = "served") -> Iterator[ServedAdapter]:
        """The model with what is served, or with another adapter that is loaded, or (None) as the base; nobody else uses or
        changes it until the block ends. ValueError for an adapter that is not loaded; RuntimeError in a thread that is within
        such a block already."""
        with self._turns.turn():
            chosen = self._served if digest == "served" else digest
            if chosen is not None and chosen not in self._loaded:
                raise ValueError(f"adapter {chosen}: it is not loaded")
            if chosen is None:
                if not self._loaded:
                    yield ServedAdapter(self._base, None)
                    return
                self._model.set_adapter(_name(self._loaded[0]))
                with self._model.disable_adapter():
                    yield ServedAdapter(self._model, None)
                return
            self._model.set_adapter(_name(chosen))
            yield ServedAdapter(self._model, chosen)

    def name(self, digest: str) -> str:
        """What the model calls a loaded adapter, for `adapter_names` of a batch whose rows want different ones."""
        if digest not in self._loaded:
            raise ValueError(f"adapter {digest}: it is not loaded")
        return _name(digest)

    def _found(self, adapter: Release | str | Path) -> tuple[str, Path] | None:
        if isinstance(adapter, str | Path):
            return sha256(manifest_of(describe(Path(adapter)))), Path(adapter)
        return None if adapter.digest is None else (adapter.digest, adapter.fetch())

    def _load(self, digest: str, folder: Path) -> None:
        if digest in self._loaded:
            return
        peft, name = import_module("peft"), _name(digest)
        try:
            config = peft.PeftConfig.from_pretrained(str(folder))
            config.inference_mode = True
            if self._model is self._base:
                self._model = peft.PeftModelForCausalLM(self._base, config, adapter_name=name)
            result = self._model.load_adapter(str(folder), adapter_name=name, torch_device=str(self._model.device))
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            self._forget(name)
            raise AdapterRefused(f"adapter {digest}: {' '.join(str(error).split())[:300]}") from error
        if result.unexpected_keys or result.missing_keys:
            self._forget(name)
            odd = [*result.unexpected_keys, *result.missing_keys][0]
            raise AdapterRefused(f"adapter {digest}: {odd} is in the file or in the model, not in both")
        self._loaded.append(digest)

    def _drop(self, digest: str) -> None:
        self._loaded.remove(digest)
        self._forget(_name(digest))

    def _forget(self, name: str) -> None:
        if not self._loaded:
            self._unwrap()
        elif name in self._model.peft_config:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that another one is active now: `using` says which, each time
                self._model.delete_adapter(name)

    def _unwrap(self) -> None:
        """Takes peft's layers out with the last adapter: they have room for one kind, layers beside the base's or in their
        place, and for none after the last one in their place is gone."""
        layers, wrappers = import_module("peft.tuners.tuners_utils"), import_module("peft.utils")
        for name, module in list(self._base.named_modules()):
            if isinstance(module, wrappers.ModulesToSaveWrapper):
                plain = module.original_module
            elif isinstance(module, layers.BaseTunerLayer):
                plain = module.get_base_layer()
            else:
                continue
            parent, _, child = name.rpartition(".")
            setattr(self._base.get_submodule(parent), child, plain)
        vars(self._base).pop("peft_config", None)
        self._model = self._base


def _name(digest: str) -> str:
    return hexadecimal(digest)
