"""Makes JSON Web Signatures for tests, with any header, any bytes and any key.

It signs with `cryptography` alone, so that no code under test helps to make a forgery.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

KID = "ins_forge"


@cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key pair that is made once per name and run: making one takes a tenth of a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def b64(data: bytes) -> str:
    """base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """The bytes of a segment."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def number(value: int) -> str:
    """A positive integer as a JWK writes it (RFC 7518 section 2)."""
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def segment(value: Any) -> str:
    """JSON as a segment; `str` and `bytes` are taken as they are, well-formed or not."""
    if isinstance(value, bytes):
        return b64(value)
    return b64(value.encode() if isinstance(value, str) else json.dumps(value).encode())


def jwk(key: rsa.RSAPrivateKey, **members: Any) -> dict[str, Any]:
    """The public half as a JWK; `members` are added, and one that is `None` is left out."""
    numbers = key.public_key().public_numbers()
    made = {
        "kty": "RSA",
        "kid": KID,
        "use": "sig",
        "alg": "RS256",
        "n": number(numbers.n),
        "e": number(numbers.e),
    }
    return {name: value for name, value in (made | members).items() if value is not None}


def public_pem(key: rsa.RSAPrivateKey) -> bytes:
    """The public half as PEM."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


Signer = Callable[[bytes], bytes]


def rs256(key: rsa.RSAPrivateKey) -> Signer:
    """Sign with RS256."""
    return lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def rsa_with(key: rsa.RSAPrivateKey, digest: hashes.HashAlgorithm) -> Signer:
    """Sign with RSASSA-PKCS1-v1_5 and another digest."""
    return lambda data: key.sign(data, padding.PKCS1v15(), digest)


def pss(key: rsa.RSAPrivateKey) -> Signer:
    """Sign with PS256."""
    salted = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    return lambda data: key.sign(data, salted, hashes.SHA256())


def hs(secret: bytes, digest: str = "sha256") -> Signer:
    """Sign with HS256, or HMAC with another digest, and any bytes as the secret."""
    return lambda data: hmac.digest(secret, data, getattr(hashlib, digest))


def nothing(_data: bytes) -> bytes:
    """Sign with `none`: the signature is empty."""
    return b""


def jws(header: Any, payload: Any, signer: Signer) -> str:
    """A compact JWS over whatever is given."""
    signed = f"{segment(header)}.{segment(payload)}"
    return f"{signed}.{b64(signer(signed.encode()))}"


def resigned(token: str, **parts: Any) -> str:
    """The same token with its `header`, `payload` or `signature` segment replaced as text."""
    header, payload, signature = token.split(".")
    was: Mapping[str, str] = {"header": header, "payload": payload, "signature": signature}
    return ".".join(parts.get(name, text) for name, text in was.items())


def signature_of(token: str) -> str:
    """The signature segment."""
    return token.rpartition(".")[2]


def respelled(text: str) -> str:
    """Another base64url text of the same bytes: the unused bits of the last character are set.

    The number of bytes must not be a multiple of three: then no bits are unused.
    """
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = text[:-1] + alphabet[alphabet.index(text[-1]) + 1]
    assert unb64(other) == unb64(text)
    return other
