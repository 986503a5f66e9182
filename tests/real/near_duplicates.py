"""Near-duplicates and echoes on real text: precision and recall, how many each corpus has, CPU of a check.

    python tests/real/near_duplicates.py --data FOLDER [--pairs N]

Pairs are rows of the corpora (target and prompt) beside themselves with a seeded 0-30 % of their words replaced by other words of
the corpus. The truth is the Jaccard similarity of the whole sets of shingles; what is judged is what curate would say at 0.85,
candidates and all. Needs the folder of real interactions; writes nothing.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parent.parent))

from headrace_processors.curate import near_duplicates
from headrace_processors.curate.filters import is_echo
from headrace_processors.curate.near_duplicates import COMPARED, SHINGLE, bands, rows, similarity, sketch, sketches
from headrace_processors.curate.near_index import NearIndex
from headrace_processors.curate.policy import NEWEST
from headrace_processors.curate.texts import texts_of
from headrace_schemas.text import normalise
from real import corpora
from support.examples import example

LEAST = 0.85
TOGETHER = 64  # texts that are sketched at once, as where there is a backlog
OPEN = 64  # members of a bucket that a row is compared with


class Pair(NamedTuple):
    truth: float
    found: bool
    shingles: int


def exact(one: str, other: str) -> float:
    sets = [
        {data[place : place + SHINGLE] for place in range(max(1, len(data) - SHINGLE + 1))}
        for data in (_bytes(one), _bytes(other))
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")[:COMPARED].ljust(SHINGLE, b"\0")


def compared(row: dict[str, Any]) -> str:
    """The text of a row as curate compares it."""
    return f"{normalise(row['output'])}\n{normalise(row['prompt'])}".casefold()


def pairs_of(texts: Sequence[str], count: int, pick: random.Random) -> list[Pair]:
    words = [word for text in texts[:300] for word in text.split()]
    pairs = []
    for _ in range(count):
        text, share = pick.choice(texts), pick.random() * 0.3
        other = "\n".join(
            " ".join(pick.choice(words) if pick.random() < share else word for word in line.split(" "))
            for line in text.split("\n")
        )
        one, two = sketch(text), sketch(other)
        found = bool(NearIndex().add("one", bands(one)).candidates(bands(two))) and similarity(one, two) >= LEAST
        pairs.append(Pair(exact(text, other), found, len(_bytes(text))))
    return pairs


def quality(pairs: Sequence[Pair]) -> str:
    true = [pair for pair in pairs if pair.truth >= LEAST]
    found = [pair for pair in pairs if pair.found]
    both = sum(pair.found for pair in true)
    far = [pair for pair in pairs if abs(pair.truth - LEAST) > 0.05]
    wrong = sum(pair.found != (pair.truth >= LEAST) for pair in far)
    recall, precision = both / max(1, len(true)), both / max(1, len(found))
    return (
        f"{len(pairs):5} pairs, {len(true):5} true  recall {recall:.3f}  precision {precision:.3f}"
        f"  wrong beyond 0.05 of the bound: {wrong} of {len(far)}"
    )


def check_cost(texts: Sequence[str]) -> tuple[float, float, float]:
    """Microseconds of CPU, the least of five runs: a sketch and bands, the look for candidates and their verification, putting
    in."""
    index, known = NearIndex(), {}
    for number, text in enumerate(texts[:OPEN]):
        known[f"{number:04}"] = sketch(text)
        index = index.add(f"{number:04}", bands(known[f"{number:04}"]))
    rest = texts[OPEN : OPEN + 300] or texts
    costs = []
    for _ in range(5):
        times = [time.process_time()]
        made: list[bytes] = []
        looked: list[bytes] = []
        for first in range(0, len(rest), TOGETHER):
            part = rest[first : first + TOGETHER]
            made += sketches(part, [""] * len(part))
            looked += rows(made[first:])
        times.append(time.process_time())
        for one, row in zip(made, looked, strict=True):
            for other in index.candidates(row):
                similarity(known[other], one)
        times.append(time.process_time())
        grown = index
        for number, row in enumerate(looked):
            grown = grown.add(f"x{number}", row)
        times.append(time.process_time())
        costs.append([(after - before) / len(rest) * 1e6 for before, after in pairwise(times)])
    least = [min(column) for column in zip(*costs, strict=True)]
    return least[0], least[1], least[2]


def near_in_buckets(texts: Sequence[str]) -> int:
    """Rows that are near one of the 64 kept before them, and not equal to it."""
    index, known, found = NearIndex(), dict[str, str](), 0
    for number, text in enumerate(texts):
        one = sketch(text)
        if any(similarity(sketch(known[other]), one) >= LEAST and known[other] != text for other in index.candidates(bands(one))):
            found += 1
        elif text not in known.values():
            name = f"{number:06}"
            index, known[name] = index.add(name, bands(one)), text
        if len(known) > OPEN:
            index, known = NearIndex(), {}
    return found


def echoes(rows: Sequence[dict[str, Any]]) -> int:
    contents = (example(0, prompt=row["prompt"] or "-", target=row["output"]).content for row in rows)
    return sum(is_echo(0.9, texts_of(NEWEST, content)) for content in contents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=400)
    given = parser.parse_args()
    pick, everything = random.Random(1), []
    for name, path in corpora.corpora(given.data).items():
        rows = [
            said.fields
            for said in corpora.said(name, path)
            if said.kind == "interaction" and isinstance(said.fields["prompt"], str) and isinstance(said.fields["output"], str)
        ]
        texts = [compared(row) for row in rows]
        pairs = pairs_of(texts, given.pairs, pick)
        everything += pairs
        sketching, looking, adding = check_cost(texts)
        median = sorted(map(len, texts))[len(texts) // 2]
        print(f"{name:24} {quality(pairs)}")
        print(
            f"{'':24} median {median} characters; sketch {sketching:.1f} us, look and verify among {OPEN} {looking:.1f} us, add "
            f"{adding:.1f} us; near-duplicates {near_in_buckets(texts)}, echoes {echoes(rows)} of {len(rows)} rows"
        )
    print(f"{'all':24} {quality(everything)}")
    short = [pair for pair in everything if pair.shingles <= near_duplicates.SKETCH]
    print(f"{'of them up to 128 bytes':24} {quality(short)}")


if __name__ == "__main__":
    main()
