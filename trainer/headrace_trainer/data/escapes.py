"""Control tokens that stand in somebody's text: kept apart from those that a chat template makes, then tokenised as the text that
they are. Knows the special tokens of a transformers tokenizer, no templates, no messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

# Printable, so that no JSON and no template writes it otherwise, and in no text that anybody asks a model about (Phoenician).
_MARKS = [chr(code) for code in range(0x10900, 0x10916)]
_FENCES = ("\n", ".", "a")


class SpecialTokens:
    """The special tokens of a tokenizer, and texts with them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens = {token.content: token for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._texts = sorted({*self._tokens, *tokenizer.all_special_tokens}, key=len, reverse=True)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._texts)) or r"(?!)")

    def mark_for(self, texts: Iterable[str]) -> str | None:
        """A character to escape special tokens of `texts` with; None when they hold none."""
        joined = "\x00".join(texts)
        if self._pattern.search(joined) is None:
            return None
        return next((mark for mark in _MARKS if mark not in joined), _MARKS[0])

    def escape(self, text: str, mark: str | None, but: Iterable[str] = ()) -> str:
        """`text` without special tokens: instead of each but those in `but` stands its number between two marks."""
        if mark is None:
            return text
        kept = set(but)
        return self._pattern.sub(
            lambda found: found[0] if found[0] in kept else f"{mark}{self._texts.index(found[0])}{mark}", text
        )

    def restore(self, text: str, mark: str | None) -> str:
        """What `escape` was given."""
        return text if mark is None else re.sub(f"{mark}([0-9]+){mark}", lambda found: self._texts[int(found[1])], text)

    def encode(self, text: str, mark: str | None, *, follows: bool = False) -> list[int]:
        """Tokens of a text of which a template made the special tokens: those that are escaped are tokenised as text. `follows`:
        another text stands before it."""
        if not follows and (mark is None or mark not in text):
            return self._ids(text)
        ids: list[int] = []
        pieces = re.split(f"({self._pattern.pattern})", text)
        for place, piece in enumerate(pieces):
            if place % 2:
                ids.append(self._tokenizer.convert_tokens_to_ids(piece))
                continue
            before, after = (self._tokens.get(pieces[at]) if 0 <= at < len(pieces) else None for at in (place - 1, place + 1))
            if before is not None and before.rstrip:  # such tokens swallow the white space beside them
                piece = piece.lstrip()
            if after is not None and after.lstrip:
                piece = piece.rstrip()
            plain = self.restore(piece, mark)
            ids += self.continuation(plain) if place or follows else self._ids(plain, split=True)
        return ids

    def continuation(self, text: str) -> list[int]:
        """Tokens of a plain text that follows another one: some tokenizers put a space before what stands alone."""
        for fence in _FENCES:
            head, whole = self._ids(fence, split=True), self._ids(fence + text, split=True)
            if whole[: len(head)] == head:
                return whole[len(head) :]
        return self._ids(text, split=True)

    def _ids(self, text: str, *, split: bool = False) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=split)["input_ids"])
