"""Extracts the credential from ASGI headers, and finds its class. Pure: no I/O, no clock.

Rules, in the order in which they apply (RFC 9110 section 11.4, RFC 6750 section 2.1):

- A header longer than 8 KiB is refused before any byte of it is decoded.
- There must be exactly one credential. Two are refused; the first one is never chosen.
- The header is `Bearer` (in any case), then token68 characters and nothing else. Spaces and tabs
  around the whole value are ignored (RFC 9110 section 5.5), because not every server removes them.
- Another scheme (Basic, Digest) is not ours, and counts as no credential.
- The class of a credential depends on its form alone, and is known before any network call.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NoReturn, TypeAlias

from clerk_m2m.errors import (
    RefusalError,
    TokenInvalidError,
    TokenMalformedError,
    TokenMissingError,
    TokenTypeNotAcceptedError,
)
from clerk_m2m.identity import MACHINE_ID, TokenClass, TokenType
from clerk_m2m.secret import Secret

MAX_CREDENTIAL_BYTES: Final = 8192

M2M_CATEGORY: Final = "cl_B7d4PD333AAA"
SESSION_CATEGORIES: Final = frozenset({"cl_B7d4PD111AAA", "cl_B7d4PD222AAA"})
OAUTH_JWT_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})
M2M_JWT_TYPES: Final = frozenset({None, "jwt", "application/jwt"})

_OWS = rb"[ \t]*"
_TOKEN68 = rb"[A-Za-z0-9\-._~+/]+=*"
_BEARER = re.compile(_OWS + rb"(?i:bearer) +(" + _TOKEN68 + rb")" + _OWS)
_BARE = re.compile(_OWS + rb"(" + _TOKEN68 + rb")" + _OWS)
_OTHER_SCHEME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+( [\t\x20-\x7e]*)?")
_BEARER_WORD = re.compile(rb"(?i)(^|[\s,])bearer($|[\s,])")

# An API key may contain base64 characters, so all of token68 is allowed there.
_OPAQUE = re.compile(r"(mt|oat)_[A-Za-z0-9_\-]{16,}|ak_[A-Za-z0-9\-._~+/]{16,}=*")
_JWT = re.compile(r"[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]*\.[A-Za-z0-9_\-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The properties of one class of credential.

    An opaque credential begins with `prefix` and is verified at Clerk by `operation`. A JWT has
    neither: it is verified offline. `keys` are the settings that may hold the key for the
    operation. The first one that is set is used.
    """

    token_type: TokenType
    prefix: str | None = None
    operation: str | None = None
    keys: tuple[str, ...] = ()


KINDS: Final[Mapping[TokenClass, Kind]] = {
    TokenClass.M2M_OPAQUE: Kind(
        token_type=TokenType.M2M_TOKEN,
        prefix="mt",
        operation="verifyM2MToken",
        keys=("machine_secret_key", "secret_key"),
    ),
    TokenClass.M2M_JWT: Kind(token_type=TokenType.M2M_TOKEN),
    TokenClass.API_KEY: Kind(
        token_type=TokenType.API_KEY,
        prefix="ak",
        operation="verifyApiKey",
        keys=("secret_key",),
    ),
    TokenClass.OAUTH_OPAQUE: Kind(
        token_type=TokenType.OAUTH_TOKEN,
        prefix="oat",
        operation="verifyOAuthAccessToken",
        keys=("secret_key",),
    ),
    TokenClass.OAUTH_JWT: Kind(token_type=TokenType.OAUTH_TOKEN),
}
_BY_PREFIX: Final = {kind.prefix: each for each, kind in KINDS.items() if kind.prefix}


@dataclass(frozen=True, slots=True)
class UnverifiedJWT:
    """The three parts of a compact JWS (RFC 7515 section 7.1), decoded but not verified."""

    header: Mapping[str, Any]
    payload: bytes = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OpaqueCredential:
    """A credential without readable contents: only Clerk can verify `token`."""

    token_class: TokenClass
    token: Secret


@dataclass(frozen=True, slots=True)
class JWTCredential:
    """A parsed JWT; its parts and its claims are not verified."""

    token_class: TokenClass
    jwt: UnverifiedJWT
    claims: Mapping[str, Any] = field(repr=False)


Credential: TypeAlias = OpaqueCredential | JWTCredential

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str] | tuple[bytes, bytes]]


def extract(
    headers: Collection[tuple[bytes, bytes]], *, api_key_header: bytes | None = None
) -> str | None:
    """Return the one credential in ASGI `headers`, or None if there is none of ours.

    `api_key_header` is the lower-case name of a header that may hold an API key instead. Raises
    `TokenMalformedError`, or `TokenTypeNotAcceptedError` if that header holds anything but an API
    key.
    """
    authorization = _only(headers, b"authorization")
    token = None if authorization is None else _bearer_token(authorization)
    api_key = _only(headers, api_key_header) if api_key_header else None
    if api_key is None:
        return token
    if token is not None:
        raise TokenMalformedError("A Bearer credential and an API key header were sent. Send one.")
    return _api_key(api_key)


def usual_bearer(
    headers: Collection[tuple[bytes, bytes]], *, api_key_header: bytes | None = None
) -> bytes | None:
    """Return the bytes after `Bearer ` if the only credential is in one `Authorization` header.

    Their form is not checked. Returns None in every other case: another spelling of `Bearer`, two
    headers, an API key header, or a value above 8 KiB. `extract` then decides.
    """
    found = None
    for name, value in headers:
        if name == b"authorization":
            if found is not None:
                return None
            found = value
        elif name == api_key_header:
            return None
    if found is None or len(found) > MAX_CREDENTIAL_BYTES or found[:7] != b"Bearer ":
        return None
    return found[7:]


def credential_of(headers: Headers, api_key_header: str | None) -> str:
    """Return the credential in the headers of any framework, by the rules of `extract`.

    Header names that differ only in case count as one header, sent twice. Raises what `extract`
    does, and `TokenMissingError`. The app calls this, so the middleware does not answer these
    errors.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    in_asgi = [(_latin1(name).lower(), _latin1(value)) for name, value in pairs]
    try:
        token = extract(
            in_asgi, api_key_header=api_key_header.encode("ascii") if api_key_header else None
        )
        if token is None:
            raise TokenMissingError(api_key_header=api_key_header)
    except RefusalError as refusal:
        refusal.from_verifier = True
        raise
    return token


def _latin1(text: str | bytes) -> bytes:
    # HTTP headers have only Latin-1 characters. Any other becomes "?", which no token contains.
    return text if isinstance(text, bytes) else text.encode("latin-1", "replace")


def _only(headers: Collection[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    found = None
    for name, value in headers:
        if name == wanted:
            if found is not None:
                raise TokenMalformedError("A header for the credential was sent twice. Send one.")
            if len(value) > MAX_CREDENTIAL_BYTES:
                raise TokenMalformedError(
                    f"The credential is longer than {MAX_CREDENTIAL_BYTES} bytes."
                )
            found = value
    return found


def _bearer_token(value: bytes) -> str | None:
    if match := _BEARER.fullmatch(value):
        return match[1].decode("ascii")
    # Return None only for a well-formed header of another scheme that does not also contain a
    # Bearer credential: proxies join two Authorization headers with a comma.
    other = value.strip(b" \t")
    if _OTHER_SCHEME.fullmatch(other) and not _BEARER_WORD.search(other):
        return None
    raise TokenMalformedError


def _api_key(value: bytes) -> str:
    match = _BARE.fullmatch(value)
    if match is None:
        raise TokenMalformedError("The API key header contains characters that are not allowed.")
    if not match[1].startswith(b"ak_"):
        raise TokenTypeNotAcceptedError("The API key header may contain an API key only.")
    return match[1].decode("ascii")


def parse(token: Secret) -> Credential:
    """Return a credential with its class, read from its form alone; a JWT is also parsed.

    The category (`cat`) and the subject of a JWT are read unverified: they only select which checks
    run; they grant no access. Raises `TokenInvalidError` if the form is not that of a Clerk
    credential.
    """
    parsed = _parse(token)
    if isinstance(parsed, TokenClass):
        raise TokenInvalidError(
            "The credential does not have the form of a Clerk credential.", token_class=parsed
        )
    return parsed


def _parse(token: Secret) -> Credential | TokenClass:
    # Do not raise in this function: its locals hold the token, and tracebacks may show them.
    text = token.reveal()
    prefix, mark, _ = text.partition("_")
    if mark and prefix in _BY_PREFIX:
        whole = _OPAQUE.fullmatch(text)
        return OpaqueCredential(_BY_PREFIX[prefix], token) if whole else TokenClass.MALFORMED
    try:
        jwt = split_jwt(text)
        claims = load_object(jwt.payload)
    except TokenInvalidError:
        return TokenClass.UNKNOWN
    token_class = classify_jwt(jwt.header, claims)
    if token_class is TokenClass.UNKNOWN:
        return token_class
    return JWTCredential(token_class, jwt, claims)


def jwt_of(token: str) -> UnverifiedJWT | None:
    """Parse a JWT without verification; None if the token is not a JWT."""
    try:
        return split_jwt(token)
    except TokenInvalidError:
        return None


def classify_jwt(header: Mapping[str, Any], claims: Mapping[str, Any]) -> TokenClass:
    """Return the class of a JWT, from its category (`cat`), then its type, then its subject.

    With a `typ` that we do not know, it is another kind of JWT (RFC 8725 section 3.11).
    """
    category, subject, typ = header.get("cat"), claims.get("sub"), header.get("typ")
    if isinstance(category, str) and category in SESSION_CATEGORIES:
        return TokenClass.SESSION_JWT
    # A JSON null is not the same as a missing member, and no issuer sends one.
    if None in header.values():
        return TokenClass.UNKNOWN
    if category not in (None, M2M_CATEGORY) or not isinstance(typ, str | None):
        return TokenClass.UNKNOWN
    typ = typ if typ is None else typ.lower()
    if typ in OAUTH_JWT_TYPES:
        return TokenClass.OAUTH_JWT if category is None else TokenClass.UNKNOWN
    if typ not in M2M_JWT_TYPES or not isinstance(subject, str):
        return TokenClass.UNKNOWN
    if MACHINE_ID.fullmatch(subject):
        return TokenClass.M2M_JWT
    return TokenClass.SESSION_JWT if category is None else TokenClass.UNKNOWN


def split_jwt(token: str) -> UnverifiedJWT:
    """Parse a compact JWS; raises `TokenInvalidError` unless its encoding is the canonical one."""
    if not _JWT.fullmatch(token):
        raise TokenInvalidError("The credential is not a JWT.")
    signing_input, _, signature = token.rpartition(".")
    header, _, payload = signing_input.partition(".")
    return UnverifiedJWT(
        _header(header),
        _decode(payload),
        signing_input.encode("ascii"),
        _decode(signature),
    )


# Cached, because all JWTs of an instance have the same header: parsing it takes a tenth of the time
# of a first verification.
@lru_cache(maxsize=64)
def _header(segment: str) -> Mapping[str, Any]:
    return MappingProxyType(load_object(_decode(segment)))


def _decode(segment: str) -> bytes:
    try:
        decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except binascii.Error:
        decoded = b""
    # Unused bits in the last character would allow several encodings of one token (RFC 4648
    # section 3.5).
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != segment.encode("ascii"):
        raise TokenInvalidError("The JWT is not base64url in its canonical form.")
    return decoded


def load_object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object; raises `TokenInvalidError` on duplicate keys, NaN or deep nesting."""
    try:
        value = _decode_json(text.decode("utf-8"))
    except (ValueError, RecursionError):
        value = None  # drop the error: it contains the parsed text, a part of the token
    if not isinstance(value, dict):
        raise TokenInvalidError("The JWT does not hold a well-formed JSON object.")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # RFC 7519 section 4: of two values for one name, two parsers could use different ones.
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("duplicate key")
    return unique


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decode_json = json.JSONDecoder(
    object_pairs_hook=_without_duplicates, parse_constant=_no_constant
).decode
