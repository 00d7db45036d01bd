"""The digest of a credential: caches and logs of invalidations store it, never the credential."""

from __future__ import annotations

from hashlib import blake2b


class TokenDigest:
    """Digests tokens under one key of 32 bytes.

    The token class depends on the token's text alone, so tokens with equal digests have equal
    classes.
    """

    def __init__(self, key: bytes) -> None:
        # The key is hashed as a prefix: this takes one block less than BLAKE2's own `key`, and is
        # safe because BLAKE2 does not allow length extension.
        self._begun = blake2b(key, digest_size=16)

    def of(self, token: bytes) -> bytes:
        """Return the digest of a token, given as the bytes of a header."""
        digest = self._begun.copy()
        digest.update(token)
        return digest.digest()


def digest_of(key: bytes, token: str) -> bytes:
    """Return the digest of a token's text under a key of 32 bytes."""
    return TokenDigest(key).of(utf8(token))


def utf8(token: str) -> bytes:
    """Encode any text without an error; a credential has ASCII characters only."""
    return token.encode("utf-8", "surrogatepass")
