"""Converts pasted text to the headers that a service would receive."""

from __future__ import annotations

import re
from typing import Final

from clerk_m2m.secret import Secret

# A header line of a request, as a log or a browser shows it.
_HEADER: Final = re.compile(r"([A-Za-z0-9_-]+):[ \t]*(.*)")
_SCHEME: Final = re.compile(r"[A-Za-z]+[ \t]")


def headers_of(text: Secret) -> list[tuple[bytes, bytes]]:
    """Return the ASGI headers for a token, a value of `Authorization`, or header lines."""
    lines = [line.strip() for line in text.reveal().splitlines() if line.strip()]
    found = [_HEADER.fullmatch(line) for line in lines]
    if lines and all(found):
        return [(_bytes(match[1].lower()), _bytes(match[2])) for match in found if match]
    value = text.reveal().strip()
    if not _SCHEME.match(value):
        value = f"Bearer {value}"
    return [(b"authorization", _bytes(value))]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
