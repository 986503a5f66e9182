"""What a lake's sealed texts are read with. Knows no key: who only asks needs no keyring (opening.py has one)."""

from __future__ import annotations


class TextOpener:
    """Leaves a text as it is, `[sealed]`: for whoever may not read keys."""

    def opened(self, value: str, odd: bytes | None = None) -> str:
        """A record's value as a text. `odd`: what a lake keeps of a record that is not like most; it names the owner."""
        return value
