"""Text that must not be printed by accident."""

from __future__ import annotations

import hmac


class Secret:
    """A key or a token whose `repr` and `str` hide it; `reveal()` gives the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str | Secret) -> None:
        """Wrap `text`; wrapping a `Secret` again changes nothing."""
        self._text: str = text._text if isinstance(text, Secret) else text

    def reveal(self) -> str:
        """Give the text itself, for the one place that sends it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('…')"

    def __str__(self) -> str:
        return "…"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)
