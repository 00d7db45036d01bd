"""`Seal`: encrypts a verdict with AES-GCM, under a key that is derived from two secrets.

The first secret is the fleet's key, the second is the Clerk key that verifies this kind of
credential. Another service of the fleet does not have the second, so it can neither read a verdict
nor make one. `context` names everything else that a verdict depends on. It is part of the key, so
services that would judge a token differently cannot read each other's verdicts.

Each token has its own AES key. A key may be used with at most 2**32 random nonces (NIST SP 800-38D
section 8.3), and this limit then applies to one token, not to all of them together.
"""

from __future__ import annotations

import binascii
import hmac
import secrets
from base64 import b64decode, b64encode
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from clerk_m2m.fleet.keys import derived, hkdf
from clerk_m2m.secret import Secret

NONCE_SIZE: Final = 12


class Seal:
    """Seals the verdicts on tokens of one kind for one service; HKDF (RFC 5869) derives its key."""

    def __init__(self, fleet_key: Secret, clerk_key: Secret, context: str) -> None:
        self._context = context.encode()
        self._key = hkdf(clerk_key, salt=derived(fleet_key, "verdicts"), info=self._context)

    def name(self, digest: bytes) -> str:
        """Return the name of a token's entry; without the key it says nothing about the token."""
        return hmac.digest(self._key, b"name" + digest, "sha256").hex()

    def close(self, digest: bytes, contents: bytes) -> str:
        """Encrypt the contents of a token's entry."""
        nonce = secrets.token_bytes(NONCE_SIZE)
        sealed = self._cipher(digest).encrypt(nonce, contents, self._context + digest)
        return b64encode(nonce + sealed).decode()

    def open(self, digest: bytes, text: str) -> bytes | None:
        """Return the contents that were sealed for this token; None for any other text."""
        try:
            sealed = b64decode(text, validate=True)
            nonce, rest = sealed[:NONCE_SIZE], sealed[NONCE_SIZE:]
            return self._cipher(digest).decrypt(nonce, rest, self._context + digest)
        except (InvalidTag, binascii.Error, ValueError):
            return None

    def _cipher(self, digest: bytes) -> AESGCM:
        return AESGCM(hmac.digest(self._key, b"entry" + digest, "sha256"))
