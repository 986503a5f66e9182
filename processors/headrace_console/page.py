"""What a page of the console is: its address, its read model and its template. Knows no HTTP, no template engine.

A read model is a plain function of a `PageRequest`. What it returns is the page's JSON (`?format=json`), and what its template
is given as `model`: one answer with two faces.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from msgspec import Struct

from headrace_console.doctor_watch import DoctorSeen
from headrace_console.status_watch import StatusSeen
from headrace_lake.manifest import Manifest
from headrace_lake.query import LakeQuery
from headrace_schemas.root_error import NO, HeadraceError
from headrace_streams.settings import Settings

Found = TypeVar("Found")
Right = Literal["viewer", "operator", "privacy"]
PLACE = re.compile(r"([a-z.-]+)/([0-9]{1,9})/([0-9]{1,18})")  # of a record: topic, partition, offset
GROUPS = ("Now", "Data", "Learning", "Serving", "Tools")  # of the navigation, in this order


def number_in(text: str, digits: int) -> int | None:
    """A whole number that somebody wrote into an address, of so many digits at most; None for anything else. (`²` is a digit too,
    for Python.)"""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= digits else None


def address_of(head: str, name: str) -> str | None:
    """The address of what has this name below `/head/`; None for a name that a browser would walk up by, such as `a/../b`."""
    return None if {".", ".."} & set(name.split("/")) else f"/{head}/{quote(name, safe='/:')}"


class PageMissing(HeadraceError):
    """What was asked for is not there, at this cut: 404."""

    exit_code = NO


def there(found: Found | None, what: str, name: str) -> Found:
    """What was found by its name. PageMissing where nothing was."""
    if found is None:
        raise PageMissing(f"there is no {what} {name!r}, at this cut")
    return found


class PageVisitor(Struct, frozen=True):
    """Who looks: a name, and what they may do. Everybody who is let in is a viewer; an operator asks for releases, a privacy
    officer forgets and sees raw texts."""

    name: str
    rights: frozenset[str]

    def may(self, right: str) -> bool:
        return right in self.rights


class PageRequest(Struct, frozen=True):
    """All that a read model is given. `lake` is at the cut of `manifest`; `seen` what `headrace status --json` last said (its
    `report` is None when the log was never reached); `names` what stands in the path, `query` behind it;
    `doctor` what `headrace doctor` last found; `folder` the lake's, and `feeder` what feeds it."""

    lake: LakeQuery
    manifest: Manifest
    settings: Settings
    visitor: PageVisitor
    names: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    seen: StatusSeen = StatusSeen()
    doctor: Callable[[], DoctorSeen] = DoctorSeen
    folder: Path = Path()
    feeder: str = ""

    def now(self) -> int:
        """ms since the epoch: for ages that people read, decided by nothing."""
        return time.time_ns() // 1_000_000

    def whole_number(self, name: str, default: int, least: int, most: int) -> int:
        """A number in the query, within bounds; the default for what is no number."""
        given = number_in(self.query.get(name, ""), 9)
        return default if given is None else min(max(given, least), most)


class ConsolePage(Struct, frozen=True, kw_only=True):
    """A page. `path` may have names (`/batches/{id:.+}`); `group` is where it stands in the navigation, None for one that is only
    linked to. `sample` is a SELECT of one column with values for the last name of the path: the index links to its first, tests
    open all of them. `right`: who may see it. `live`: it is shown anew when the cut
    moves; `uses_status`: and when there is a newer status."""

    path: str
    title: str
    about: str
    model: Callable[[PageRequest], Any]
    template: str
    group: str | None = None
    order: int = 50
    right: Right = "viewer"
    sample: str | None = None
    live: bool = True
    uses_status: bool = False
