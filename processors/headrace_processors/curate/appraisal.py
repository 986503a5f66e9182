"""What an example is by itself, whatever else there is: its name, its side, its role, its sketch. Pure; knows policy and texts.

Many are appraised at once where many are at hand (`CurateFold.look_ahead`); what one comes to never depends on the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from headrace_processors.curate import filters, near_duplicates
from headrace_processors.curate.filters import Role
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.curate.texts import texts_of
from headrace_schemas.derived import Example
from headrace_schemas.ids import derived
from headrace_schemas.splits import split_of
from headrace_schemas.text import normalise
from headrace_schemas.times import parse_ns
from headrace_streams.runtime.sealing import stored


class Appraisal(Struct):
    """`content` names its texts among the bucket's, and its target, where that may be on one side only. `reason` says why it is
    good for nothing, and is None exactly when `role` is given. `sketch` is empty where near-duplicates are not looked for,
    `bands` are its own."""

    content: bytes
    split: Literal["train", "validation", "test"]
    time_ns: int  # of the event
    sha256: bytes  # of the record's value
    role: Role | None
    reason: str | None
    sketch: bytes = b""
    bands: bytes = b""


def appraise(policy: CuratePolicy, version: int, examples: Sequence[tuple[Example, bytes]]) -> list[Appraisal]:
    """Of each example with the value of its record, under a rule version."""
    appraised: list[Appraisal] = []
    sketched: list[Appraisal] = []
    texts: list[str] = []
    contexts: list[str] = []
    for example, value in examples:
        read = texts_of(version, example.content)
        prompt, context, normalised = normalise(read.prompt), normalise(read.context), normalise(read.target)
        name = derived("content", example.bucket, prompt, context, normalised)
        split = split_of(example.bucket, example.prompt_group)
        time_ns = parse_ns(example.event_time)
        role, reason = filters.judge(policy, version, example, read, split)
        found = Appraisal(name, split, time_ns, sha256_of(value), role, reason)  # type: ignore[arg-type]
        if role == "train" and policy.one_side_chars is not None and len(normalised) >= policy.one_side_chars:
            found.content += _target(example.bucket, normalised)
        appraised.append(found)
        if policy.near_duplicate is not None and reason is None and filters.pool_of(version, split) is None:
            # Of one context only: beside a long one that two have in common, what they ask for would not count. And of the same
            # figures: what is asked of another year is another question, however alike the words are.
            sketched.append(found)
            texts.append(f"{normalised}\n{prompt}".casefold())
            contexts.append(context)
    if sketched:
        figures = near_duplicates.figures(texts)
        salts = [f"{context}\n{numbers}" for context, numbers in zip(contexts, figures, strict=True)]
        made = near_duplicates.sketches(texts, salts)
        for found, sketch, bands in zip(sketched, made, near_duplicates.rows(made), strict=True):
            found.sketch, found.bands = sketch, bands
    return appraised


def sha256_of(value: bytes) -> bytes:
    """Of a record's value as it lies on the log."""
    return hashlib.sha256(stored(value) or b"").digest()


def _target(bucket: str, text: str) -> bytes:
    return hashlib.blake2b(f"{bucket}\n{text}".encode(errors="replace"), digest_size=8).digest()
