"""Distinguishes ids of credentials, which are not secret, from the credentials themselves."""

from __future__ import annotations

import re
from typing import Final

_ID: Final = re.compile(r"(mt|ak|oat)_[0-9a-fA-F]{32}")


def is_credential_id(text: str, *prefixes: str) -> bool:
    """Return whether a text is the id of a credential with one of these prefixes."""
    found = _ID.fullmatch(text)
    return found is not None and found[1] in prefixes
