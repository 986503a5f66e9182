"""Which worker takes which tests: each by itself, except in files whose tests share a fixture that is dear. Knows paths only."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("tests/kafka/test_verify.py", "tests/demo/test_agent.py", "tests/docs/test_wheel.py", "tests/demo/test_base_model.py")


class ByTest(LoadScopeScheduling):  # type: ignore[misc]  # xdist carries no types
    """In the order in which the workers collected: the longest first. (A group mark can't say it: pytest 9.2 has no node ids
    that a plugin may extend, and xdist 3.8 extends them.)"""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return path if path in TOGETHER else nodeid
