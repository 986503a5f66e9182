"""What `headrace doctor` finds, asked in the background and kept for a while. Knows threads and the doctor, no page."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from headrace_cli.doctor import Finding

FRESH_SECONDS = 300.0  # for which findings stand


class DoctorSeen(NamedTuple):
    """Findings, when they were made (ms; None: not yet), and whether newer ones are on their way."""

    findings: Sequence[Finding] = ()
    at_ms: int | None = None
    asking: bool = False


class DoctorWatch:
    """`examine` takes seconds: it runs in a thread, one at a time, when somebody looks and what there is is old."""

    def __init__(self, examine: Callable[[], Iterable[Finding]]) -> None:
        self._examine = examine
        self._lock = threading.Lock()
        self._asked_at: float | None = None
        self._seen = DoctorSeen()

    def look(self) -> DoctorSeen:
        """What is known; begins to ask anew when that is old."""
        with self._lock:
            stale = self._asked_at is None or time.monotonic() - self._asked_at > FRESH_SECONDS
            if stale and not self._seen.asking:
                self._asked_at = time.monotonic()
                self._seen = self._seen._replace(asking=True)
                threading.Thread(target=self._ask, name="doctor", daemon=True).start()
            return self._seen

    def _ask(self) -> None:
        try:
            findings = list(self._examine())
        except Exception as error:  # it is a finding too, and another look is to be had
            findings = [Finding("doctor", "broken", " ".join(str(error).split()) or type(error).__name__)]
        with self._lock:
            self._seen = DoctorSeen(findings, time.time_ns() // 1_000_000, False)
