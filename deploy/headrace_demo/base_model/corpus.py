"""The base model's corpus: questions and SQL about random schemas of three tables, which are never the shop's. Pure, from a seed.

It teaches what SQL looks like and how to copy a value, mostly in plain technical English. A small share is phrased loosely
like people ask shops, so that the agent starts modest and not mute. No pair has the SQL of any question about the shop.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterator

from headrace_demo.base_model import skeletons
from headrace_demo.shop import words

LOOSE_SHARE = 0.12


def pairs(seed: int, count: int, forbidden: Container[str] = ()) -> Iterator[tuple[str, str]]:
    """`count` pairs (question, SQL), none of whose SQL is in `forbidden`."""
    draw = random.Random(f"corpus:{seed}")
    made = 0
    while made < count:
        question, sql = _loose(draw) if draw.random() < LOOSE_SHARE else skeletons.plain(draw)
        if sql not in forbidden:
            made += 1
            yield question, sql


_LOOSE = (
    ("How many {n}s live in {c}?", "select count(*) from {n}s where city = '{c}'"),
    ("How many {s} {n}s live in {c}?", "select count(*) from {n}s where city = '{c}' and segment = '{s}'"),
    ("Where does the {n} {p} live?", "select city from {n}s where {n}_name = '{p}'"),
    ("What does the {n} {d} cost?", "select price from {n}s where {n}_name = '{d}'"),
    ("How much is the {n} {d}?", "select price from {n}s where {n}_name = '{d}'"),
    ("Which {g} {n}s cost less than {k}?", "select {n}_name from {n}s where category = '{g}' and price < {k}"),
    ("How many {h} {n}s of {y} are {t}?", "select count(*) from {n}s where status = '{t}' and channel = '{h}' and year = {y}"),
    ("How many {n}s of each segment live in {c}?", "select segment, count(*) from {n}s where city = '{c}' group by segment"),
    (
        "What are the {k} most expensive {g} {n}s?",
        "select {n}_name from {n}s where category = '{g}' order by price desc limit {k}",
    ),
    ("How many {r} {n}s took more than {k} days?", "select count(*) from {n}s where carrier = '{r}' and days > {k}"),
)


def _loose(draw: random.Random) -> tuple[str, str]:
    text, sql = draw.choice(_LOOSE)
    slots = {
        "n": draw.choice(words.NOUNS),
        "c": draw.choice(words.CITIES),
        "p": draw.choice(words.PEOPLE),
        "d": draw.choice(words.PRODUCTS),
        "g": draw.choice(words.CATEGORIES),
        "s": draw.choice(words.SEGMENTS),
        "t": draw.choice(words.STATUSES),
        "h": draw.choice(words.CHANNELS),
        "r": draw.choice(words.CARRIERS),
        "y": str(draw.choice(words.YEARS)),
        "k": str(draw.randint(2, 99)),
    }
    return text.format(**slots), sql.format(**slots)
