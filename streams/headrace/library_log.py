"""What the Kafka library says in the door's own threads. Knows logging only.

During an outage it writes several lines a second, most of them errors, and where logging was never set up they go to standard
error: of the program that we are a guest in. What they mean, `trouble` and one warning of ours say. So on the library's loggers
there is a filter that drops what comes from threads of ours, and nothing else: the same library in the program's own threads
speaks as before, levels and handlers stay as they are, and who sets `aiokafka` to DEBUG hears all of it.
"""

from __future__ import annotations

import logging
import threading

_LIBRARY = "aiokafka"


class _Hushed(threading.local):
    here = False


class _NotOfOurs(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not _hushed.here or logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


_hushed = _Hushed()
_filter = _NotOfOurs()


def hush_this_thread() -> None:
    """Call it when the library is imported: a filter holds for a logger, not for those below it."""
    _hushed.here = True
    for name in (_LIBRARY, *(name for name in list(logging.root.manager.loggerDict) if name.startswith(f"{_LIBRARY}."))):
        logging.getLogger(name).addFilter(_filter)
