"""How the demo looks: the picture as a live dashboard, as plain lines, or as JSON. Knows rich and the picture, no Kafka."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headrace_demo.show.picture import Exam, Picture, worse

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(rates: Iterable[float]) -> str:
    """One block per rate in [0, 1]."""
    return "".join(_BARS[min(len(_BARS) - 1, max(0, int(rate * len(_BARS))))] for rate in rates)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def summary(picture: Picture) -> list[dict[str, Any]]:
    """One object per base and promoted release of each bucket: seconds, the gate's figures, and under each heading of its exam
    how many were right and the chance (`p_worse`) of so many losses against the release before if neither were better. Where
    `control` is true it is no release, but what the same steps on shuffled targets gave."""
    return [found for bucket in picture.targets for found in _bucket_summary(picture, bucket)]


def _bucket_summary(picture: Picture, bucket: str) -> Iterator[dict[str, Any]]:
    before: dict[str, Exam] = {}
    for row in picture.rows_of(bucket):
        exams = picture.exams(row)
        yield {
            "release": row.sequence,
            "bucket": row.bucket,
            "adapter": row.digest,
            "seconds": round(row.seconds, 1),
            "served_seconds": None if row.served is None else round(row.served, 1),
            "exam": {
                heading: {
                    "right": exam.right,
                    "total": exam.total,
                    "success": round(exam.rate, 4),
                    "p_worse": round(worse(before[heading], exam), 4) if before else None,
                }
                for heading, exam in exams.items()
            },
            "gate": row.gate,
            "control": False,
        }
        before = exams
        control = picture.control
        if control is not None and (control.bucket, control.sequence) == (row.bucket, row.sequence):
            yield {
                "release": row.sequence,
                "bucket": row.bucket,
                "adapter": None,
                "exam": {
                    name: {"right": right, "total": control.asked[name], "success": round(right / control.asked[name], 4)}
                    for name, right in control.right.items()
                },
                "gate": control.text,
                "control": True,
            }


def summary_tables(picture: Picture) -> Group:
    """The same for people, a table for each bucket."""
    return Group(*(_summary_table(picture, bucket) for bucket in picture.targets))


def _summary_table(picture: Picture, bucket: str) -> Table:
    rows = list(_bucket_summary(picture, bucket))
    table = Table(title=f"{bucket}: right on held-out questions", title_justify="left", box=None, padding=(0, 2))
    table.add_column("release")
    table.add_column("after", justify="right")
    for heading in rows[0]["exam"]:
        table.add_column(heading, justify="right", max_width=max(6, *map(len, heading.split())))
    table.add_column("gate", overflow="fold")
    for row in rows:
        name = "control" if row["control"] else "base" if row["adapter"] is None else str(row["release"])
        after = "" if row["adapter"] is None else f"{row['seconds']:.0f} s"
        shares = (f"{exam['success']:.1%}" if exam["total"] else "-" for exam in row["exam"].values())
        table.add_row(name, after, *shares, row["gate"])
    return table


class Screen(Protocol):
    """Where the demo is shown."""

    def tell(self, line: str) -> None: ...  # stays
    def note(self, seconds: float, line: str) -> None: ...
    def draw(self, picture: Picture, seconds: float) -> None: ...
    def close(self) -> None: ...


class Lines:
    """Plain lines: for logs and pipes. `say` prints one."""

    def __init__(self, say: Callable[[str], None] = lambda line: print(line, flush=True)) -> None:
        self._say = say
        self._told = 0
        self._quarter = 0

    def tell(self, line: str) -> None:
        self._say(line)

    def note(self, seconds: float, line: str) -> None:
        self._say(f"{clock(seconds):>6}  {line}")

    def draw(self, picture: Picture, seconds: float) -> None:
        for when, line in picture.news[self._told :]:
            self.note(when, line)
        self._told = len(picture.news)
        if len(picture.scores) // 250 > self._quarter:
            self._quarter = len(picture.scores) // 250
            rate = sum(picture.recent) / max(1, len(picture.recent))
            fill = ", ".join(f"{name} {len(got)}/{picture.targets[name]:g}" for name, got in picture.open.items())
            self.note(seconds, f"{len(picture.scores)} questions answered, {rate:.0%} right of late; {fill}")

    def close(self) -> None:
        pass


class Json:
    """One JSON object per line on standard output."""

    def __init__(self) -> None:
        self._told = 0

    def tell(self, line: str) -> None:
        self.emit({"told": line})

    def note(self, seconds: float, line: str) -> None:
        self.emit({"seconds": round(seconds, 1), "note": line})

    def draw(self, picture: Picture, seconds: float) -> None:
        for when, line in picture.news[self._told :]:
            self.note(when, line)
        self._told = len(picture.news)

    def emit(self, value: dict[str, Any]) -> None:
        sys.stdout.write(orjson.dumps(value).decode() + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        pass


class Dashboard:
    """The live view in a terminal."""

    def __init__(self, console: Console) -> None:
        self._notes: list[tuple[float, str]] = []
        self._told = 0
        self._drawn = 0.0
        self._live = Live(console=console, refresh_per_second=4, auto_refresh=False, transient=True)
        self._live.start()

    def tell(self, line: str) -> None:
        self._live.console.print(line, highlight=False)

    def note(self, seconds: float, line: str) -> None:
        if self._notes and self._notes[-1][1].split("…")[0] == line.split("…")[0] and "…" in line:
            self._notes.pop()
        self._notes.append((seconds, line))
        self._live.update(Panel(_notes(self._notes), title="headrace demo", title_align="left"), refresh=True)

    def draw(self, picture: Picture, seconds: float) -> None:
        self._notes += picture.news[self._told :]
        self._told = len(picture.news)
        if time.monotonic() - self._drawn >= 0.25:
            self._drawn = time.monotonic()
            self._live.update(dashboard(picture, seconds, self._notes), refresh=True)

    def close(self) -> None:
        self._live.stop()


def dashboard(picture: Picture, seconds: float, notes: list[tuple[float, str]]) -> RenderableType:
    """The whole view at one moment."""
    rate = sum(picture.recent) / len(picture.recent) if picture.recent else 0.0
    head = Text.assemble(
        (f"{len(picture.scores)}", "bold"), " questions answered   ",
        (f"{rate:4.0%}", "bold green" if rate > 0.75 else "bold yellow"), " right of late  ",
        (sparkline(picture.rates), "green"), f"   {clock(seconds)}",
    )  # fmt: skip
    body = Table.grid(padding=(0, 2))
    for bucket, target in picture.targets.items():
        filled = len(picture.open.get(bucket, ()))
        bar = ProgressBar(total=target, completed=min(filled, target), width=16)
        body.add_row(f"bucket {bucket}", bar, f"{filled} of {target:g}, {picture.batches.get(bucket, 0)} cut")
    run = picture.training
    if run is not None:
        bar = ProgressBar(total=max(1, run.steps), completed=run.step, width=16)
        body.add_row(f"training {run.bucket}", bar, f"step {run.step}/{run.steps}, loss {run.loss:.3f}, {run.phase}")
    verdict = Text(f"gate {picture.verdict}" if picture.verdict else "", overflow="fold")
    parts: list[RenderableType] = [head, body, verdict, summary_tables(picture), Text(), _notes(notes)]
    return Panel(Group(*parts), title="headrace demo", title_align="left")


def _notes(notes: list[tuple[float, str]]) -> Text:
    return Text("\n".join(f"{clock(when):>6}  {line}" for when, line in notes[-8:]), overflow="fold")
