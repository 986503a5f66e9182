"""The console's pages: every module here with a list `PAGES`. A new page is a module and a template; nothing else names it.

A module has a read model, `def things(asked: PageRequest) -> dict[str, Any]`, which asks the lake (`asked.lake.run(sql, {...})`,
bounded, at the page's one cut) and raises `PageMissing` for an id that is not `there`, and a `ConsolePage` with its path, title,
template and place in the navigation. A template extends `layout.html` and fills the block `main` with `model`; every text that it
puts out is escaped, bounded and shown in full sight by itself. It may call `link(kind, id)`, `place(topic, partition, offset)`
and the filters `number`, `share`, `time`, `duration`, `size`, `short`, `json`. Nothing inline: no style, no script, no handler;
graphics are SVG with a <title>. `tests/console/test_every_page.py` opens each page at both widths, without scripts, over texts
of somebody hostile.
"""

from __future__ import annotations

import importlib
import pkgutil

from headrace_console.page import GROUPS, ConsolePage


def pages() -> tuple[ConsolePage, ...]:
    """Every page, in the order of the navigation."""
    found: list[ConsolePage] = []
    for module in pkgutil.iter_modules(__path__):
        found += getattr(importlib.import_module(f"{__name__}.{module.name}"), "PAGES", ())
    return tuple(sorted(found, key=lambda page: (_group(page), page.order, page.title)))


def _group(page: ConsolePage) -> int:
    return len(GROUPS) if page.group is None else GROUPS.index(page.group)
