"""All pages that there are, with a link to each. Knows the table of pages."""

from __future__ import annotations

from typing import Any

from headrace_console.page import ConsolePage, PageRequest, address_of


def contents(asked: PageRequest) -> dict[str, Any]:
    """Every page: title, what it shows, and an address that can be opened now (None: there is nothing to show yet)."""
    from headrace_console.pages import pages

    return {
        "pages": [
            {"title": page.title, "about": page.about, "path": page.path, "group": page.group, "address": _address(asked, page)}
            for page in pages()
            if asked.visitor.may(page.right)
        ]
    }


def _address(asked: PageRequest, page: ConsolePage) -> str | None:
    if page.sample is None:
        return page.path
    rows = asked.lake.run(f"SELECT * FROM ({page.sample}) LIMIT 1").rows
    return address_of(page.path[1 : page.path.rindex("{") - 1], str(rows[0][0])) if rows else None


PAGES = [
    ConsolePage(
        path="/pages",
        title="All pages",
        about="This list.",
        model=contents,
        template="contents.html",
        group="Tools",
        order=99,
        live=False,
    )
]
