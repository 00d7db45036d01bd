"""The digest of a credential, which stands for it wherever something is kept about it."""

from __future__ import annotations

from hashlib import blake2b


class TokenDigest:
    """Digests tokens under one key of 32 bytes.

    The class of a credential is a function of its text, so equal digests mean equal classes.
    """

    def __init__(self, key: bytes) -> None:
        # The key goes before the token: BLAKE2 has no length extension, and needs one block less.
        self._begun = blake2b(key, digest_size=16)

    def of(self, token: bytes) -> bytes:
        """Give the digest of a token, as it stands in a header."""
        digest = self._begun.copy()
        digest.update(token)
        return digest.digest()


def digest_of(key: bytes, token: str) -> bytes:
    """Give the digest of a token's text under a key of 32 bytes."""
    return TokenDigest(key).of(utf8(token))


def utf8(token: str) -> bytes:
    """Give the bytes of any text; a credential has only ASCII characters."""
    return token.encode("utf-8", "surrogatepass")
