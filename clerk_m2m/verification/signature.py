"""Offline verification of Clerk's JWTs: signature, claims, and the choice of keys.

Rules of this file (RFC 7515, RFC 7517, RFC 7519, RFC 8725):

- Only RS256 is accepted, whatever the header or a key says.
- A key is used only if its type, `use`, `key_ops`, `alg` and size allow RS256 verification, and if
  its modulus is not known to be weak.
- A key comes from the configured set only. The header's `jku`, `x5u`, `jwk` and `x5c` are never
  read. A header with `crit` or `b64` is refused.
- A fetched key is chosen by its `kid` alone. A token without a `kid` is refused, and a key without
  one is never used (Clerk's keys always have one). A key given as PEM has no `kid` and needs none.
- The claims are read from the same bytes that the signature covers.

This is the only file that imports `jwt` (PyJWT), which does the RSA operations and reads keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from jwt.algorithms import RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from clerk_m2m.clock import LEEWAY
from clerk_m2m.credentials import UnverifiedJWT, split_jwt
from clerk_m2m.errors import (
    ConfigurationError,
    TokenInvalidError,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

MIN_KEY_BITS: Final = 2048
MAX_KEY_BITS: Final = 8192
_LAST_INSTANT: Final = 253_402_300_799  # the end of the year 9999

# A modulus with the ROCA weakness (CVE-2017-15361) is a power of 65537 modulo each of these primes.
_ROCA_PRIMES: Final = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)
_ROCA_RESIDUES: Final = {p: {pow(65537, i, p) for i in range(p)} for p in _ROCA_PRIMES}

_rs256 = RSAAlgorithm(RSAAlgorithm.SHA256)

Keys: TypeAlias = "Mapping[str, tuple[RSAPublicKey, ...]]"  # by `kid`


def verify_signature(token: str, jwks: Mapping[str, Any]) -> bytes:
    """Return the payload of a compact JWS that a key of `jwks` signed with RS256.

    Does not check the claims. Raises `TokenInvalidError` for anything else (RFC 7515 section 5.2).
    """
    jwt = split_jwt(token)
    check_signature(jwt, usable_keys(jwks).get(required_kid(key_id(jwt)), ()))
    return jwt.payload


def key_id(jwt: UnverifiedJWT) -> str | None:
    """Return the header's `kid`; raises if the header asks for anything but plain RS256."""
    header = jwt.header
    if header.get("alg") != "RS256":
        raise TokenInvalidError("The JWT is not signed with RS256.")
    if "crit" in header or "b64" in header:  # RFC 7797 section 7: no b64 in JWTs
        raise TokenInvalidError("The JWT requires unsupported extensions (crit or b64).")
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise TokenInvalidError("The JWT's kid is not a string.")
    return kid


def required_kid(kid: str | None) -> str:
    """Return the `kid`; raises if it is None, because then no key of the set can be chosen."""
    if kid is None:
        raise TokenInvalidError("The JWT's header has no kid.")
    return kid


def check_signature(jwt: UnverifiedJWT, keys: tuple[RSAPublicKey, ...]) -> None:
    """Raise `TokenInvalidError` unless one of `keys` signed the token."""
    if not any(_rs256.verify(jwt.signing_input, key, jwt.signature) for key in keys):
        raise TokenInvalidError("The JWT's signature is not from a key of this instance.")


def usable_keys(jwks: Mapping[str, Any]) -> Keys:
    """Return the keys of a JSON Web Key Set that may verify RS256; the others are ignored."""
    entries = jwks.get("keys")
    keys: dict[str, tuple[RSAPublicKey, ...]] = {}
    for entry in entries if isinstance(entries, list) else []:
        key = _usable_key(entry) if isinstance(entry, dict) else None
        if key is not None:
            kid = entry.get("kid")
            keys[kid] = (*keys.get(kid, ()), key)
    return keys


def _usable_key(entry: Mapping[str, Any]) -> RSAPublicKey | None:
    operations, kid = entry.get("key_ops", ["verify"]), entry.get("kid")
    if (
        entry.get("kty") != "RSA"
        or entry.get("use", "sig") != "sig"
        or entry.get("alg", "RS256") != "RS256"
        or not (isinstance(operations, list) and "verify" in operations)
        or not isinstance(kid, str)
    ):
        return None
    # Read only the members of a public key: the entry may contain others, even private ones.
    public = {name: entry[name] for name in ("kty", "n", "e") if name in entry}
    try:
        read = RSAAlgorithm.from_jwk(public)
    except (InvalidKeyError, ValueError, TypeError):
        return None
    key = cast("RSAPublicKey", read)
    return key if _is_sound(key) else None


def _is_sound(key: RSAPublicKey) -> bool:
    n = key.public_numbers().n
    roca = all(n % prime in residues for prime, residues in _ROCA_RESIDUES.items())
    return MIN_KEY_BITS <= key.key_size <= MAX_KEY_BITS and n % 2 == 1 and not roca


def key_from_pem(pem: str) -> RSAPublicKey:
    """Read a PEM public key as Clerk's dashboard shows it, also as one line with `\\n` in it.

    Raises `ConfigurationError` if it cannot be read, is private, or is too weak.
    """
    text = pem.replace("\\n", "\n").strip()
    head, tail = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"
    body = "".join(text.removeprefix(head).removesuffix(tail).split())
    try:
        key = cast("RSAPublicKey", _rs256.prepare_key(f"{head}\n{body}\n{tail}\n"))
    except (InvalidKeyError, ValueError, TypeError) as exc:
        raise ConfigurationError(
            "jwt_key (CLERK_JWT_KEY) is not a PEM public key of type RSA. Copy it from the API "
            "keys page of the dashboard, with its BEGIN PUBLIC KEY and END PUBLIC KEY lines."
        ) from exc
    if not _is_sound(key):
        raise ConfigurationError(
            f"jwt_key cannot be used: it has {key.key_size} bits. An RSA key of at least "
            f"{MIN_KEY_BITS} bits without a known weakness is required. It is not a key of Clerk's."
        )
    return key


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """The claims that every JWT must have, checked; `all` holds every claim of the token."""

    subject: str
    token_id: str
    issued_at: float
    not_before: float
    expires_at: float
    all: Mapping[str, Any]


def read_claims(claims: Mapping[str, Any]) -> Claims:
    """Read the claims; `exp`, `iat`, `sub` and `jti` are required and their types are checked.

    RFC 7519 section 4.1, RFC 8725 section 3.8.
    """
    issued_at = _instant(claims, "iat")
    return Claims(
        subject=_text(claims, "sub"),
        token_id=_text(claims, "jti"),
        issued_at=issued_at,
        not_before=_instant(claims, "nbf") if "nbf" in claims else issued_at,
        expires_at=_instant(claims, "exp"),
        all=claims,
    )


def check_times(claims: Claims, now: float, judge: Callable[[], str]) -> None:
    """Raise `TokenInvalidError` for a JWT not valid at `now` (Unix s), with 5 s of leeway.

    `judge` returns the name of the clock, for the text of the refusal.
    """
    if now >= claims.expires_at + LEEWAY:
        raise TokenInvalidError(f"The JWT has expired by {judge()}.")
    if now < max(claims.issued_at, claims.not_before) - LEEWAY:
        raise TokenInvalidError(f"The JWT is not valid yet by {judge()}.")


def _instant(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenInvalidError(f"The JWT's {name} is missing or not a number.")
    # A value in milliseconds would be an instant thousands of years ahead. A NaN is refused too,
    # since every comparison with it is false.
    if not 0 <= value <= _LAST_INSTANT:
        raise TokenInvalidError(f"The JWT's {name} is not an instant in seconds.")
    return float(value)


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 255:
        raise TokenInvalidError(f"The JWT's {name} is missing or not a string.")
    return value
