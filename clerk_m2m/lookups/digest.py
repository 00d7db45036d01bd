"""The digest of a credential, which stands for it wherever something is kept about it."""

from __future__ import annotations

from hashlib import blake2b


def digest_of(key: bytes, token: str) -> bytes:
    """Give the digest of a token under a key of 32 bytes.

    The class of a credential is a function of its text, so equal digests mean equal classes.
    """
    # The key goes before the token: BLAKE2 has no length extension, and needs one block less.
    return blake2b(key + token.encode("utf-8", "surrogatepass"), digest_size=16).digest()
