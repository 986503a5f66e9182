"""Keys for signing releases, made in a test's folder. Knows no topic."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from headrace_streams import signing


class KeyFiles(NamedTuple):
    """Where a key's two halves are, and its id."""

    private: Path
    public: Path
    id: str


def key_files(folder: Path, name: str) -> KeyFiles:
    """A new key in a folder."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    made = signing.create(private)
    public.write_text(signing.public_pem(private)[1])
    return KeyFiles(private, public, made)
