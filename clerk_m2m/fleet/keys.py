"""What is derived from the fleet's keys (HKDF, RFC 5869), each for one purpose only."""

from __future__ import annotations

import hmac
from typing import Final

from clerk_m2m.secret import Secret

_SALT: Final = b"clerk_m2m fleet, version 1"


def hkdf(secret: Secret, *, salt: bytes, info: bytes) -> bytes:
    """Give 32 bytes by HKDF with SHA-256: extract, then one step of expand (RFC 5869 section 2)."""
    pseudo_random = hmac.digest(salt, secret.reveal().encode(), "sha256")
    return hmac.digest(pseudo_random, info + b"\x01", "sha256")


def derived(key: Secret, purpose: str) -> bytes:
    """Give 32 bytes that only a holder of `key` can compute, for one purpose."""
    return hkdf(key, salt=_SALT, info=purpose.encode())


def digest_key(key: Secret, origin: str) -> bytes:
    """Give the key of the digests of tokens; `origin` is that of the Backend API."""
    return derived(key, f"digest of tokens of {origin}")


def log_key(key: Secret) -> bytes:
    """Give the key that rows of the log are signed with."""
    return derived(key, "log")
