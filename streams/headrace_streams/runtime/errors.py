"""How a task's hold on its partition can end, and so what its supervisor does next. Knows no client and no cause."""

from __future__ import annotations

from headrace_schemas.root_error import HeadraceError


class JournalError(HeadraceError):
    """A journal can't go on; the message says which one and why."""


class Fenced(JournalError):
    """Another owner took this task's producer id: what was not committed never happened."""


class ProducerLost(JournalError):
    """The broker no longer knows this producer id (idle for too long, or its data is gone): open a new journal."""


class Transport(JournalError):
    """The broker did not take it: away, refusing, or too slow."""


class Refused(JournalError):
    """Going on would be wrong, and trying again would not help: somebody has to look. The message says what to do."""
