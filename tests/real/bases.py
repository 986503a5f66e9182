"""Which base a corpus starts from: a small model that was first trained on a corpus of another artifact type. Knows no Kafka."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from real import base, corpora

BASE = "small"
TAUGHT_BY = {"review": "docs_pandalm"}  # every other type starts from a base that has read reviews
OTHERWISE = "review_crscore"
SMALL: dict[str, Any] = {"hidden": 64, "layers": 2, "vocabulary": 2048}


def artifact_type(name: str, path: Path) -> str:
    """Of the corpus `name`."""
    return str(next(corpora.said(name, path)).fields["artifact_type"])


def teacher_of(name: str, files: dict[str, Path]) -> str:
    """The corpus that teaches the base of the corpus `name`."""
    return TAUGHT_BY.get(artifact_type(name, files[name]), OTHERWISE)


def taught(teacher: str, data: Path, folder: Path, *, small: bool) -> Path:
    """The base that has read the corpus `teacher`; made once."""
    weights = folder / f"{teacher}-{'small' if small else 'base'}"
    if not (weights / "config.json").exists():
        said = (line.fields for line in corpora.said(teacher, corpora.corpora(data)[teacher]) if line.kind == "interaction")
        base.build([f"{fields['prompt']}\n{fields['output']}" for fields in said], weights, **(SMALL if small else {}))
    return weights
