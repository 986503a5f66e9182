"""What the scrubber takes for private in real corpora: a table by file and kind, and distinct values with what is around.

    python tests/real/scrub.py FOLDER [--show N] [--kind KIND]

FOLDER holds the corpora (`*.jsonl.gz`, as tests/real/corpora.py reads them). Nobody labelled them: each value that is shown is to
be judged by whoever reads it. Prints only; nothing is copied.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace_processors.intake.scrub.folding import fold
from headrace_processors.intake.scrub.scrubber import KINDS, Scrubber, Work

AROUND = 40


def texts_of(value: Any) -> Iterator[str]:
    """Every text of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_of(item)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--show", type=int, default=5, help="distinct values that are shown of each file and kind")
    parser.add_argument("--kind", choices=KINDS, help="only this kind")
    given = parser.parse_args()
    scrubber = Scrubber((given.kind,) if given.kind else KINDS)
    print(f"{'file':30}{'records':>9}{'MB':>7}{'us/rec':>8}  " + "".join(f"{kind:>13}" for kind in KINDS))
    shown: list[str] = []
    for path in sorted(given.folder.glob("*.jsonl.gz")):
        places, values, records, size, spent = Counter[str](), Counter[tuple[str, str]](), 0, 0, 0.0
        around: dict[tuple[str, str], str] = {}
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                texts = [text for text in texts_of(json.loads(line)) if text]
                records, size = records + 1, size + sum(map(len, texts))
                began = time.process_time()
                found = []
                if scrubber.may_find("\n".join(texts)):
                    found = [(folded, scrubber.find(folded, Work())) for folded in map(fold, texts)]
                spent += time.process_time() - began
                for folded, pieces in found:
                    for start, end, kind in pieces:
                        places[kind] += 1
                        value = (kind, folded.text[start:end])
                        values[value] += 1
                        around.setdefault(value, folded.text[max(0, start - AROUND) : end + AROUND])
        cells = (f"{places[kind]}/{sum(1 for of, _ in values if of == kind)}" for kind in KINDS)
        name = path.name.removesuffix(".jsonl.gz")
        print(
            f"{name:30}{records:>9}{size / 1e6:>7.1f}{spent / records * 1e6:>8.1f}  " + "".join(f"{cell:>13}" for cell in cells)
        )
        for kind in KINDS:
            mine = [(value, count) for (of, value), count in values.most_common() if of == kind]
            shown += [f"{name} {kind} x{count}: {value[:60]!r} in {around[kind, value]!r}" for value, count in mine[: given.show]]
    print("\nplaces/distinct values. What was found:", *shown, sep="\n")


if __name__ == "__main__":
    main()
