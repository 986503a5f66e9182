"""Presidio's pattern recognisers as another pair of eyes, off by default. Knows the library's classes; no policy and no event.

Only what a recogniser's own check (a check digit, a checksum) confirms is taken: its bare patterns find order numbers. No model
of a language is loaded, and the recogniser of addresses, which fetches a list of domains, is left out: ours is there. All of
them together take some 14 us a character.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

from headrace_streams.pip_line import pip_line

PACKAGE = "presidio-analyzer"
_CONFIRMED = 0.99  # score of a find that its recogniser has checked
_LEFT_OUT = frozenset({"EMAIL_ADDRESS", "URL", "DATE_TIME", "UUID", "MAC_ADDRESS"})
_KINDS = {"CREDIT_CARD": "card", "IBAN_CODE": "iban", "IP_ADDRESS": "ip", "PHONE_NUMBER": "phone"}


def recogniser(version: str) -> Callable[[str], Iterator[tuple[int, int, str]]]:
    """The recognisers of exactly that version, imported now: logs are replayed by the same. ValueError if it isn't there."""
    try:
        installed = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        raise ValueError(f"presidio = {version!r}: it is not installed; {pip_line('presidio')}") from None
    if installed != version:
        raise ValueError(
            f"presidio = {version!r}: installed is {installed}; pip install {PACKAGE}=={version}, or set that version"
        )
    module = importlib.import_module("presidio_analyzer")
    predefined = importlib.import_module("presidio_analyzer.predefined_recognizers")
    base = module.PatternRecognizer
    kinds = [found for _, found in inspect.getmembers(predefined, inspect.isclass) if issubclass(found, base)]
    made: list[Any] = [kind() for kind in kinds if kind is not base]
    known = [one for one in made if not _LEFT_OUT & set(one.supported_entities)]
    return lambda text: _found(known, text)


def _found(recognisers: list[Any], text: str) -> Iterator[tuple[int, int, str]]:
    for one in recognisers:
        for result in one.analyze(text, one.supported_entities, None):
            if result.score >= _CONFIRMED:
                yield result.start, result.end, _KINDS.get(result.entity_type, result.entity_type.lower())
