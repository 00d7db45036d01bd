"""The instance's RSA key pairs: signing JWTs, publishing the key set, checking a signature."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from clerk_m2m.emulator.ids import random_word

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

CATEGORY_SESSION = "cl_B7d4PD111AAA"
CATEGORY_TEMPLATE = "cl_B7d4PD222AAA"
CATEGORY_M2M = "cl_B7d4PD333AAA"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One RSA key pair and the name it goes by in a JWT's header."""

    kid: str
    pem: str

    @property
    def private(self) -> rsa.RSAPrivateKey:
        """The key that signs."""
        return _load(self.pem)

    def public_pem(self) -> str:
        """The public half, as the PEM that `CLERK_JWT_KEY` takes."""
        encoded = self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return encoded.decode()

    def jwk(self) -> dict[str, str]:
        """The public half, as a member of the key set (operation GetJWKS)."""
        numbers = self.private.public_key().public_numbers()
        return {
            "use": "sig",
            "kty": "RSA",
            "kid": self.kid,
            "alg": "RS256",
            "n": _base64url_number(numbers.n),
            "e": _base64url_number(numbers.e),
        }


def made_signing_keys(db: sqlite3.Connection) -> list[SigningKey]:
    """The stored key pairs; the first one signs."""
    rows = db.execute("SELECT kid, pem FROM signing_keys ORDER BY seq DESC").fetchall()
    return [SigningKey(*row) for row in rows]


def signing_keys(db: sqlite3.Connection, instance_id: str) -> list[SigningKey]:
    """All key pairs; the first one signs. The first pair is made on first use."""
    return made_signing_keys(db) or [add_signing_key(db, instance_id, None)]


def add_signing_key(db: sqlite3.Connection, kid: str, pem: str | None) -> SigningKey:
    """Store this key pair, or a new one, and sign with it from now on."""
    key = SigningKey(kid, pem or new_signing_key())
    db.execute("DELETE FROM signing_keys WHERE kid = ?", (kid,))
    db.execute("INSERT INTO signing_keys (kid, pem) VALUES (?, ?)", (key.kid, key.pem))
    return key


def rotate(db: sqlite3.Connection, instance_id: str, *, keep_previous: bool) -> SigningKey:
    """A new key pair under a new name."""
    signing_keys(db, instance_id)
    if not keep_previous:
        db.execute("DELETE FROM signing_keys")
    return add_signing_key(db, random_word("ins_"), None)


def sign(
    key: SigningKey,
    claims: Mapping[str, Any],
    headers: Mapping[str, Any] | None = None,
    *,
    algorithm: str = "RS256",
    secret: bytes = b"",
) -> str:
    """A compact JWS over these claims; a header given as `None` is left out.

    PyJWT refuses to write the malformed and forged tokens that tests need.
    """
    header = {"alg": algorithm, "typ": "JWT", "kid": key.kid} | dict(headers or {})
    header = {name: value for name, value in header.items() if value is not None}
    signed = f"{_segment(header)}.{_segment(dict(claims))}"
    signature = _signature(key, signed.encode(), algorithm, secret)
    return f"{signed}.{_base64url(signature)}"


def verified(
    token: str, keys: list[SigningKey], now: float
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The header and claims of a JWT that one of the keys signed and that has not expired."""
    try:
        header = jwt.get_unverified_header(token)
        key = next((key for key in keys if key.kid == header.get("kid")), None)
        if key is None:
            return None
        claims = jwt.decode(
            token,
            key.private.public_key(),
            algorithms=["RS256"],
            options={"verify_exp": False, "verify_nbf": False, "verify_iat": False,
                     "verify_aud": False, "require": ["sub", "jti", "exp"]},
        )  # fmt: skip
    except jwt.InvalidTokenError:
        return None
    return (header, claims) if _is_live(claims, now) else None


def _is_live(claims: Mapping[str, Any], now: float) -> bool:
    expires_at, not_before = claims["exp"], claims.get("nbf", 0)
    numbers = isinstance(expires_at, int | float) and isinstance(not_before, int | float)
    return numbers and not_before <= now < expires_at


def _signature(key: SigningKey, signed: bytes, algorithm: str, secret: bytes) -> bytes:
    if algorithm == "none":
        return b""
    if algorithm == "HS256":
        return hmac.new(secret, signed, hashlib.sha256).digest()
    if algorithm == "RS256":
        return key.private.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    raise ValueError(f"algorithm must be RS256, HS256 or none, not {algorithm!r}")


def new_signing_key() -> str:
    """Make an RSA private key as PEM (PKCS #8), as `Emulator(signing_key=…)` takes it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoded = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return encoded.decode()


@lru_cache(maxsize=64)
def _load(pem: str) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("signing_key must be the PEM of an RSA private key")
    return key


def _segment(value: dict[str, Any]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _base64url_number(number: int) -> str:
    return _base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))
