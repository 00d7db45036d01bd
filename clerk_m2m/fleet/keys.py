"""Keys derived from the fleet's keys (HKDF, RFC 5869), each for one purpose only."""

from __future__ import annotations

import hmac
from typing import Final

from clerk_m2m.secret import Secret

_SALT: Final = b"clerk_m2m fleet, version 1"


def hkdf(secret: Secret, *, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA-256: extract, then one step of expand (RFC 5869 section 2)."""
    pseudo_random = hmac.digest(salt, secret.reveal().encode(), "sha256")
    return hmac.digest(pseudo_random, info + b"\x01", "sha256")


def derived(key: Secret, purpose: str) -> bytes:
    """Return 32 bytes for one purpose, which only a holder of `key` can compute."""
    return hkdf(key, salt=_SALT, info=purpose.encode())


def digest_key(key: Secret, origin: str) -> bytes:
    """Return the key for the digests of tokens; `origin` is that of the Backend API."""
    return derived(key, f"digest of tokens of {origin}")


def log_key(key: Secret) -> bytes:
    """Return the key that signs the rows of the log."""
    return derived(key, "log")
