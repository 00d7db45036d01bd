"""`Seal`: AES-GCM around a verdict, under a key that takes two secrets to compute.

The one is the fleet's key, the other the Clerk key that verifies this kind of credential. Another
service of the fleet has not the other, so it can neither read a verdict nor make one. What a
verdict depends on beside the token is the `context`: it goes into the key, so services that would
judge a token differently never meet.

Each token has a key of its own, so the random nonces of two tokens cannot collide (NIST SP 800-38D
section 8.3 allows 2**32 of them under one key).
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
    """Seals the verdicts on tokens of one kind for one service; HKDF (RFC 5869) makes its key."""

    def __init__(self, fleet_key: Secret, clerk_key: Secret, context: str) -> None:
        self._context = context.encode()
        self._key = hkdf(clerk_key, salt=derived(fleet_key, "verdicts"), info=self._context)

    def name(self, digest: bytes) -> str:
        """Give the name of the entry of a token; it tells nothing to who has not the key."""
        return hmac.digest(self._key, b"name" + digest, "sha256").hex()

    def close(self, digest: bytes, contents: bytes) -> str:
        """Seal what is known of a token."""
        nonce = secrets.token_bytes(NONCE_SIZE)
        sealed = self._cipher(digest).encrypt(nonce, contents, self._context + digest)
        return b64encode(nonce + sealed).decode()

    def open(self, digest: bytes, text: str) -> bytes | None:
        """Give what was sealed for this very token; None for anything else."""
        try:
            sealed = b64decode(text, validate=True)
            nonce, rest = sealed[:NONCE_SIZE], sealed[NONCE_SIZE:]
            return self._cipher(digest).decrypt(nonce, rest, self._context + digest)
        except (InvalidTag, binascii.Error, ValueError):
            return None

    def _cipher(self, digest: bytes) -> AESGCM:
        return AESGCM(hmac.digest(self._key, b"entry" + digest, "sha256"))
