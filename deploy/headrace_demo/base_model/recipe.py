"""What decides the demo's base model, and so its name on disk. Knows no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from headrace_schemas import canonical


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the base's bytes on one kind of CPU."""

    seed: int = 0
    steps: int = 800
    batch: int = 32
    hidden: int = 128
    layers: int = 2
    matrix_rate: float = 0.02
    embedding_rate: float = 5e-3
    version: int = 1  # raised when corpus, tokenizer or loop change

    @property
    def pairs(self) -> int:
        """How many pairs are made: each is seen once."""
        return self.steps * self.batch

    @property
    def digest(self) -> str:
        return canonical.digest(asdict(self))

    def folder(self, parent: Path) -> Path:
        """Where `build` puts this base."""
        return parent / f"base-{self.digest.removeprefix('sha256:')[:12]}"
