"""Templates and what they may call: every text is escaped and shown as it is. Knows Jinja, no page.

What a publisher wrote can hold markup, and characters that turn text around or hide it. The first is escaped; the second are
shown by their code point, in every place, because it happens where a template's values are put out and not where it is
remembered. Texts are cut at `CELL` characters, unless the page is asked for them whole.
"""

from __future__ import annotations

import json
import shlex
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from headrace_console import charts
from headrace_console.action import ConsoleAction
from headrace_console.page import address_of
from headrace_console.ring_graphic import nodes_of
from headrace_console.sankey import flow_graphic
from headrace_schemas.times import rfc3339
from headrace_schemas.topology import DEAD, STAGES_BY_NAME

CELL = 4096  # characters of a text that a page shows, unless it is asked for with `?whole=1`
WHOLE = "whole"
# What a name leads to. A kind that is not here, or whose page is not there, is looked for.
PATHS = {
    "interaction": "examples",
    "release": "releases", "version": "versions", "batch": "batches", "run": "runs", "bucket": "buckets", "example": "examples",
    "lineage": "lineage",
}  # fmt: skip
_PLAIN = frozenset("\n\t")
# Counters of stages whose records came out on another topic than the input.
_RECORDS: dict[tuple[str, str], tuple[str, dict[str, str]]] = {
    ("intake", "signals"): ("signals", {"stage": "intake"}),
    ("link", "resolved"): ("signals", {"stage": "link"}),
    ("attribute", "credited"): ("signals", {"stage": "attribute"}),
    ("reward", "applied"): ("examples", {"stage": "reward"}),
    ("reward", "duplicate"): ("rejections", {"stage": "reward"}),
    ("reward", "conflict"): ("rejections", {"stage": "reward"}),
    ("curate", "rejected"): ("rejections", {"stage": "curate"}),
    ("train", "trained"): ("versions", {}),
    ("train", "failed"): ("runs", {"type": "training.failed"}),
    ("release", "answered"): ("releases.history", {}),
}


class WholeText(str):
    """A text that is not cut."""


class RawText(WholeText):
    """What a form sends back: escaped, and else as it is."""


def shown(text: str) -> str:
    """`text` with what can't be seen, or turns other text around, shown by its code point."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in _PLAIN or unicodedata.category(char)[0] != "C" else f"‹U+{ord(char):04X}›" for char in text)


@pass_context
def finalise(context: Context, value: Any) -> Any:
    """What is put out for a value of a template: nothing for None, texts in full sight and of a bounded length."""
    if value is None:
        return ""
    if isinstance(value, Markup | RawText) or not isinstance(value, str):
        return value
    if len(value) > CELL and not isinstance(value, WholeText) and not context.get(WHOLE):
        return f"{shown(value[:CELL])}… [{len(value):,} characters: ?{WHOLE}=1 shows all]"
    return shown(value)


def environment(known: frozenset[str] = frozenset(), actions: Collection[ConsoleAction] = ()) -> Environment:
    """The templates. `known`: first parts of the paths that there are, so that no link leads nowhere."""
    made = Environment(
        loader=PackageLoader("headrace_console"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalise,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def link(kind: str, name: Any, text: Any = None) -> Markup:
        """A link to what has this name: to its page, or to where it is looked for."""
        if name is None or name == "":
            return Markup("")
        head = PATHS.get(kind, "")
        target = (address_of(head, str(name)) if head in known else None) or f"/find?{urlencode({'what': str(name)})}"
        label = str(name) if text is None else str(text)
        return Markup('<a href="{}" title="{}">{}</a>').format(target, shown(str(name)), shown(label))

    def place(topic: Any, partition: Any, offset: Any) -> Markup:
        """A link to a record of the log."""
        if topic is None:
            return Markup("")
        text = f"{topic}/{partition}/{offset}"
        return Markup('<a class="place" href="/find?{}">{}</a>').format(urlencode({"what": text}), shown(text))

    made.filters |= {
        "number": number,
        "time": time_tag,
        "duration": duration,
        "size": size,
        "short": short,
        "json": as_json,
        "whole": WholeText,
        "raw": RawText,
        "share": share,
        "argument": shlex.quote,
    }

    @pass_context
    def act(context: Context, action: str, subject: Any, text: str | None = None) -> Markup:
        """A link to the dialog of an action, for those who may ask for it."""
        offered = next((each for each in actions if each.name == action), None)
        if offered is None or context["visitor"] is None or not context["visitor"].may(offered.right):
            return Markup("")
        query = urlencode({"subject": str(subject)})
        return Markup('<a class="act" href="/do/{}?{}">{}</a>').format(action, query, text or offered.title)

    def records_of(stage: str, counter: str) -> Markup:
        """A counter of a stage, as a link to the records that it counts: where they came out, else where they went in."""
        topology = STAGES_BY_NAME[stage]
        topic, query = _RECORDS.get((stage, counter), (topology.inputs[0], {}))
        if counter == DEAD:
            topic, query = "dead-letters", {"stage": stage}
        path = f"/records/{topic}" + (f"?{urlencode(query)}" if query else "")
        return Markup('<a href="{}">{}</a>').format(path, counter.replace("_", " "))

    made.globals |= {
        "charts": charts,
        "flow_graphic": flow_graphic,
        "link": link,
        "place": place,
        "with_query": with_query,
        "act": act,
        "records_of": records_of,
        "ring_nodes": nodes_of,
    }
    return made


def number(value: Any, digits: int = 3) -> Any:
    """A figure as people read it: whole ones in groups of three, others with so many significant digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def share(value: Any) -> Any:
    return f"{value:.0%}" if isinstance(value, int | float) else value


def duration(seconds: Any) -> Any:
    """Seconds, in the unit that leaves a small number."""
    if not isinstance(seconds, int | float):
        return seconds
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s" if abs(seconds) < 10 else f"{seconds:.0f} s"


def size(value: Any) -> Any:
    """Bytes, in the unit that leaves a small number."""
    if not isinstance(value, int | float):
        return value
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError


def short(digest: Any, length: int = 12) -> Any:
    """The beginning of a digest or of a long id, whole when pointed at."""
    if not isinstance(digest, str):
        return digest
    text = digest.removeprefix("sha256:")
    return digest if len(text) <= length else Markup('<span title="{}">{}</span>').format(shown(digest), shown(text[:length]))


def time_tag(moment: Any, form: str = "full") -> Any:
    """A moment (ms since the epoch, or as the lake gives it, UTC): the reader's own time where scripts run, UTC when pointed at.
    `form`: full, day, clock, or tenths (of the clock)."""
    if moment is None or moment == "":
        return ""
    text = rfc3339(moment) if isinstance(moment, int) else _utc(moment)
    plain = {"full": text[:19].replace("T", " "), "day": text[:10], "clock": text[11:19], "tenths": text[11:21].rstrip("Z")}[form]
    return Markup('<time datetime="{}" title="{} UTC" data-form="{}">{}</time>').format(text, shown(text), form, shown(plain))


def _utc(moment: Any) -> str:
    text = moment.isoformat() if hasattr(moment, "isoformat") else str(moment)
    return text if text.endswith("Z") or "+" in text[10:] else f"{text}Z"


def as_json(value: Any) -> str:
    """Indented, to be read."""
    return json.dumps(msgspec.to_builtins(value, enc_hook=str), indent=2, ensure_ascii=False, default=str)


def with_query(query: Mapping[str, str], **changes: Any) -> str:
    """The query of a page with something else in it; None removes."""
    changed = {name: value for name, value in {**query, **changes}.items() if value is not None}
    return "?" + urlencode(changed)
