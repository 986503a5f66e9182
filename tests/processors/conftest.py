"""What tests of the lake share: the lake of a module's `ring`, and its views."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace_lake.manifest import LakeFolder
from headrace_lake.query import LakeQuery, opened
from support.memory_ring import MemoryRing, lake_of


@pytest.fixture(scope="module")
def folder(ring: MemoryRing, tmp_path_factory: pytest.TempPathFactory) -> LakeFolder:
    return lake_of(ring.log, tmp_path_factory.mktemp("lakes") / "lake")


@pytest.fixture(scope="module")
def lake(folder: LakeFolder) -> Iterator[LakeQuery]:
    with opened(folder, seconds=120) as lake:
        yield lake
