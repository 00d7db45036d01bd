"""`verify_signature`: which tokens a key of the set has signed, and which not (RFC 7515, 7517).

The cases are those that test suites for JOSE libraries have, made anew with our own keys.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from forging import (
    KID,
    b64,
    hs,
    jwk,
    jws,
    nothing,
    number,
    pss,
    public_pem,
    resigned,
    respelled,
    rs256,
    rsa_key,
    rsa_with,
    segment,
    signature_of,
    unb64,
)
from hypothesis import given
from hypothesis import strategies as st

from clerk_m2m.errors import ConfigurationError, TokenInvalidError
from clerk_m2m.verification.signature import key_from_pem, usable_keys, verify_signature

KEY, OTHER = rsa_key("ours"), rsa_key("another")
HEADER = {"alg": "RS256", "kid": KID, "typ": "JWT"}
PAYLOAD = b"any bytes at all"
JWKS = {"keys": [jwk(KEY)]}
TOKEN = jws(HEADER, PAYLOAD, rs256(KEY))
SIGNATURE = signature_of(TOKEN)

Case = tuple[str, str, Mapping[str, Any]]


def with_key(**members: Any) -> dict[str, Any]:
    """A set of our key alone, with its members changed."""
    return {"keys": [jwk(KEY, **members)]}


def signed(header: Any = HEADER, payload: Any = PAYLOAD, by: Any = None) -> str:
    """A token over these, signed by our key unless another is given."""
    return jws(header, payload, by or rs256(KEY))


ACCEPTED: list[Case] = [
    ("a token of the one key", TOKEN, JWKS),
    ("a payload that is empty", signed(payload=b""), JWKS),
    ("a payload that is no JSON", signed(payload=b"\xff\x00"), JWKS),
    ("a key without use, alg and key_ops", TOKEN, with_key(use=None, alg=None)),
    ("a key for verifying", TOKEN, with_key(key_ops=["verify"])),
    ("a key for signing and verifying", TOKEN, with_key(key_ops=["sign", "verify"])),
    ("the second of two keys of one kid", TOKEN, {"keys": [jwk(OTHER), jwk(KEY)]}),
    ("the last of three keys",
     TOKEN, {"keys": [jwk(OTHER, kid="a"), jwk(OTHER, kid="b"), jwk(KEY)]}),
    ("a good key after things that are no keys", TOKEN, {"keys": [None, 7, "x", [], {}, jwk(KEY)]}),
    ("a modulus with a leading zero octet", TOKEN, with_key(n=b64(b"\0" + unb64(jwk(KEY)["n"])))),
    ("an exponent with leading zero octets", TOKEN, with_key(e=b64(b"\0\0" + unb64("AQAB")))),
    ("a key with members that nobody knows", TOKEN, with_key(x5t="x", nbf=1, ext=True)),
    ("a key whose private half was left in", TOKEN, with_key(d="AQAB", p="AQAB", q="AQAB")),
    ("header members that are informative only", signed(HEADER | {"cty": "x", "iss": 1}), JWKS),
    ("a key of 4096 bits", signed(by=rs256(rsa_key("long", 4096))),
     {"keys": [jwk(rsa_key("long", 4096))]}),
]  # fmt: skip

BIT_FLIPPED = b64(bytes([unb64(SIGNATURE)[0] ^ 1]) + unb64(SIGNATURE)[1:])
MODULUS = KEY.public_key().public_numbers().n
SAME_RESIDUE = b64((int.from_bytes(unb64(SIGNATURE), "big") + MODULUS).to_bytes(257, "big"))

ODD_ALGORITHMS: list[Any] = ["none", "rs256", "RS256 ", "RSA", "ES256", "EdDSA"]
ODD_ALGORITHMS += [None, 256, True, ["RS256"], {}]

REFUSED: list[Case] = [
    # The signature
    ("a signature of another key", signed(by=rs256(OTHER)), JWKS),
    ("a signature with a bit flipped", resigned(TOKEN, signature=BIT_FLIPPED), JWKS),
    ("a signature of zeros", resigned(TOKEN, signature=b64(bytes(256))), JWKS),
    ("a signature of ones", resigned(TOKEN, signature=b64(b"\xff" * 256)), JWKS),
    ("a signature that is the number one",
     resigned(TOKEN, signature=b64(bytes(255) + b"\1")), JWKS),
    ("a signature that is short of a byte",
     resigned(TOKEN, signature=b64(unb64(SIGNATURE)[1:])), JWKS),
    ("a signature with a zero byte before",
     resigned(TOKEN, signature=b64(b"\0" + unb64(SIGNATURE))), JWKS),
    ("a signature with a byte after",
     resigned(TOKEN, signature=b64(unb64(SIGNATURE) + b"\0")), JWKS),
    ("a signature plus the modulus", resigned(TOKEN, signature=SAME_RESIDUE), JWKS),
    ("another payload", resigned(TOKEN, payload=b64(b"other bytes")), JWKS),
    ("no payload where there was one", resigned(TOKEN, payload=""), JWKS),
    ("another header", resigned(TOKEN, header=segment(HEADER | {"typ": "X"})), JWKS),
    ("the digest of SHA-512", signed(by=rsa_with(KEY, hashes.SHA512())), JWKS),
    ("the digest of SHA-1", signed(by=rsa_with(KEY, hashes.SHA1())), JWKS),
    ("the padding of PSS", signed(by=pss(KEY)), JWKS),
    # The algorithm
    ("PS256, truly signed", signed(HEADER | {"alg": "PS256"}, by=pss(KEY)), JWKS),
    ("PS256 for a key that says so",
     signed(HEADER | {"alg": "PS256"}, by=pss(KEY)), with_key(alg="PS256")),
    ("RS384, truly signed",
     signed(HEADER | {"alg": "RS384"}, by=rsa_with(KEY, hashes.SHA384())), JWKS),
    ("RS512, truly signed",
     signed(HEADER | {"alg": "RS512"}, by=rsa_with(KEY, hashes.SHA512())), JWKS),
    ("RS512 in the header of an RS256 signature", signed(HEADER | {"alg": "RS512"}), JWKS),
    ("HS256 with the public key's PEM",
     signed(HEADER | {"alg": "HS256"}, by=hs(public_pem(KEY))), JWKS),
    ("HS256 with the modulus",
     signed(HEADER | {"alg": "HS256"}, by=hs(unb64(jwk(KEY)["n"]))), JWKS),
    ("HS256 with a symmetric key of the set", signed(HEADER | {"alg": "HS256"}, by=hs(b"k" * 32)),
     {"keys": [{"kty": "oct", "kid": KID, "alg": "HS256", "use": "sig", "k": b64(b"k" * 32)}]}),
    ("an empty signature under RS256", signed(by=nothing), JWKS),
    *[(f"the algorithm {alg} and no signature", signed(HEADER | {"alg": alg}, by=nothing), JWKS)
      for alg in ("none", "None", "NONE", "nOnE", "")],
    *[(f"the algorithm {alg} beside a true signature", signed(HEADER | {"alg": alg}), JWKS)
      for alg in ODD_ALGORITHMS],
    ("no algorithm", signed({"kid": KID}), JWKS),
    # The header
    ("crit with nothing in it", signed(HEADER | {"crit": []}), JWKS),
    ("crit with an extension", signed(HEADER | {"crit": ["exp"], "exp": 1}), JWKS),
    ("crit that is no list", signed(HEADER | {"crit": None}), JWKS),
    ("a payload that is not encoded", signed(HEADER | {"b64": False, "crit": ["b64"]}), JWKS),
    ("b64 without crit", signed(HEADER | {"b64": False}), JWKS),
    ("a header that is a list", signed(["RS256"]), JWKS),
    ("a header that is a string", signed('"RS256"'), JWKS),
    ("a header that is no JSON", signed(b"{"), JWKS),
    ("a header with bytes after it", signed(json.dumps(HEADER) + "}"), JWKS),
    ("a header with a comment", signed('{"alg":"RS256"/**/}'), JWKS),
    ("a header in UTF-16", signed(json.dumps(HEADER).encode("utf-16")), JWKS),
    ("a header with a byte order mark",
     signed(b"\xef\xbb\xbf" + json.dumps(HEADER).encode()), JWKS),
    ("a header that is not UTF-8", signed(b'{"alg":"RS256","x":"\xff"}'), JWKS),
    ("two algorithms", signed('{"alg":"RS256","alg":"RS256"}'), JWKS),
    ("a duplicate key deep in the header", signed('{"alg":"RS256","x":{"a":1,"a":2}}'), JWKS),
    ("NaN in the header", signed('{"alg":"RS256","x":NaN}'), JWKS),
    ("a header that never stops nesting", signed('{"alg":"RS256","x":' + "[" * 3000), JWKS),
    ("a number without end in the header", signed('{"alg":"RS256","x":' + "9" * 5000 + "}"), JWKS),
    ("a kid that is a number", signed(HEADER | {"kid": 7}), JWKS),
    ("a kid that is a list", signed(HEADER | {"kid": [KID]}), JWKS),
    ("an attacker's key in jwk", signed(HEADER | {"jwk": jwk(OTHER)}, by=rs256(OTHER)), JWKS),
    # The form
    ("no text", "", JWKS),
    ("one dot", ".", JWKS),
    ("two dots", "..", JWKS),
    ("no header", resigned(TOKEN, header=""), JWKS),
    ("no signature", resigned(TOKEN, signature=""), JWKS),
    ("two segments", TOKEN.rpartition(".")[0], JWKS),
    ("a fourth segment that is empty", TOKEN + ".", JWKS),
    ("a fourth segment", TOKEN + ".x", JWKS),
    ("five segments, as encryption has", f"{TOKEN}.x.y", JWKS),
    ("padding after the signature", TOKEN + "==", JWKS),
    ("padding in the header", resigned(TOKEN, header=segment(HEADER) + "="), JWKS),
    ("padding in the payload", resigned(TOKEN, payload=b64(PAYLOAD) + "=="), JWKS),
    ("a line break at the end", TOKEN + "\n", JWKS),
    ("a space at the end", TOKEN + " ", JWKS),
    ("a line break within", TOKEN[:40] + "\n" + TOKEN[40:], JWKS),
    ("the alphabet of base64", TOKEN.replace("_", "/").replace("-", "+"), JWKS),
    ("a signature of one character", resigned(TOKEN, signature="A"), JWKS),
    ("another spelling of the signature", resigned(TOKEN, signature=respelled(SIGNATURE)), JWKS),
    ("another spelling of the payload",
     signed(payload=b"1234").replace(b64(b"1234"), respelled(b64(b"1234"))), JWKS),
    ("digits that are not ASCII", resigned(TOKEN, signature="\u0661" * 342), JWKS),
    ("JSON serialization", json.dumps({"payload": b64(PAYLOAD), "protected": segment(HEADER),
                                       "signature": SIGNATURE}), JWKS),
    # The key
    ("a kid that no key has", signed(HEADER | {"kid": "ins_other"}), JWKS),
    ("an empty kid", signed(HEADER | {"kid": ""}), JWKS),
    ("no kid in the header", signed({"alg": "RS256"}), JWKS),
    ("no kid in the key", TOKEN, with_key(kid=None)),
    ("no kid in either", signed({"alg": "RS256"}), with_key(kid=None)),
    ("a kid that is null in both", signed({"alg": "RS256", "kid": None}),
     {"keys": [jwk(KEY) | {"kid": None}]}),
    ("the kid of another key", TOKEN, {"keys": [jwk(OTHER), jwk(KEY, kid="ins_other")]}),
    ("a key for encryption", TOKEN, with_key(use="enc")),
    ("a use that is unknown", TOKEN, with_key(use="SIG")),
    ("a use that is null", TOKEN, {"keys": [jwk(KEY) | {"use": None}]}),
    ("a key for encrypting", TOKEN, with_key(key_ops=["encrypt"])),
    ("a key for signing only", TOKEN, with_key(key_ops=["sign"])),
    ("a key for nothing", TOKEN, with_key(key_ops=[])),
    ("operations in one string", TOKEN, with_key(key_ops="verify")),
    ("operations that are null", TOKEN, {"keys": [jwk(KEY) | {"key_ops": None}]}),
    ("a key to sign, but not for verifying", TOKEN, with_key(use="sig", key_ops=["wrapKey"])),
    *[(f"a key for {alg}", TOKEN, with_key(alg=alg))
      for alg in ("PS256", "RS512", "RSA1_5", "RSA-OAEP", "none", "", 256)],
    ("an alg that is null", TOKEN, {"keys": [jwk(KEY) | {"alg": None}]}),
    ("a key of 1024 bits",
     signed(by=rs256(rsa_key("short", 1024))), {"keys": [jwk(rsa_key("short", 1024))]}),
    *[(f"a key of type {kty}", TOKEN, with_key(kty=kty)) for kty in ("rsa", "EC", "oct", "OKP", 7)],
    ("a key without a type", TOKEN, with_key(kty=None)),
    ("a key whose kid is a number", signed({"alg": "RS256"}), with_key(kid=7)),
    ("a certificate instead of a key",
     TOKEN, {"keys": [{"kty": "RSA", "kid": KID, "x5c": ["MIIB"]}]}),
    ("a set without keys", TOKEN, {"keys": []}),
    ("a set that is one key", TOKEN, jwk(KEY)),
    ("a set that is empty", TOKEN, {}),
    ("keys by name", TOKEN, {"keys": {KID: jwk(KEY)}}),
    ("keys in a list of lists", TOKEN, {"keys": [[jwk(KEY)]]}),
    *[(f"keys that are {keys!r}", TOKEN, {"keys": keys}) for keys in (None, "x", 7, True, [None])],
]  # fmt: skip


def _named(cases: list[Case]) -> Any:
    return [pytest.param(token, jwks, id=sentence) for sentence, token, jwks in cases]


@pytest.mark.parametrize(("token", "jwks"), _named(ACCEPTED))
def test_a_signature_of_a_usable_key_returns_the_payload(
    token: str, jwks: Mapping[str, Any]
) -> None:
    assert verify_signature(token, jwks) == unb64(token.split(".")[1])


@pytest.mark.parametrize(("token", "jwks"), _named(REFUSED))
def test_any_other_token_is_refused(token: str, jwks: Mapping[str, Any]) -> None:
    with pytest.raises(TokenInvalidError) as refused:
        verify_signature(token, jwks)

    assert refused.value.code == "token_invalid"


def test_verifying_does_not_change_the_key_set() -> None:
    jwks = {"keys": [jwk(OTHER), jwk(KEY)]}
    before = json.dumps(jwks)

    verify_signature(TOKEN, jwks)

    assert json.dumps(jwks) == before


@given(position=st.integers(0, len(TOKEN) - 1), letter=st.sampled_from("AaZz09-_.="))
def test_a_token_with_a_changed_character_is_refused(position: int, letter: str) -> None:
    changed = TOKEN[:position] + letter + TOKEN[position + 1 :]
    if changed == TOKEN:
        return

    with pytest.raises(TokenInvalidError):
        verify_signature(changed, JWKS)


@given(st.text() | st.from_regex(r"[\w-]{1,20}\.[\w-]{0,20}\.[\w-]{1,20}", fullmatch=True))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(TokenInvalidError):
        verify_signature(text, JWKS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
MEMBERS = st.sampled_from(["kty", "use", "alg", "key_ops", "kid", "n", "e", "x"])


@given(changes=st.dictionaries(MEMBERS, JSON, min_size=1), rest=JSON)
def test_entries_of_any_shape_beside_a_good_key_are_ignored(
    changes: dict[str, Any], rest: Any
) -> None:
    assert verify_signature(TOKEN, {"keys": [jwk(KEY) | changes, rest, jwk(KEY)]}) == PAYLOAD


@given(entries=st.lists(JSON))
def test_json_that_is_not_a_key_is_never_used_as_one(entries: list[Any]) -> None:
    assert usable_keys({"keys": entries}) == {}


ODD_NUMBERS: list[Any] = [None, "", "!", "A", "\u00e9", "\ud800", 7, True, 3.0, [], {}, ["AQAB"]]


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"n": number(2**2046 + 1)}, id="2047 bits"),
        pytest.param({"n": number(2**16383 + 1)}, id="16,384 bits"),
        pytest.param({"n": number(2**1_000_000 + 1)}, id="a million bits"),
        pytest.param({"n": number(MODULUS - 1)}, id="an even modulus"),
        pytest.param({"e": "AA"}, id="an exponent of zero"),
        pytest.param({"e": number(1)}, id="an exponent of one"),
        pytest.param({"e": number(65536)}, id="an even exponent"),
        pytest.param({"e": number(MODULUS + 2)}, id="an exponent over the modulus"),
        *[pytest.param({"n": n}, id=f"a modulus that is {n!r}") for n in ODD_NUMBERS],
        *[pytest.param({"e": e}, id=f"an exponent that is {e!r}") for e in ODD_NUMBERS],
    ],
)
def test_a_key_with_unsound_numbers_is_not_used(members: dict[str, Any]) -> None:
    assert usable_keys(with_key(**members)) == {}


def test_a_key_of_a_weak_generator_is_not_used() -> None:
    product = math.prod(n for n in range(2, 164) if all(n % d for d in range(2, n)))
    weak = pow(65537, 1234567, product) + product * (2**2047 // product + 1)
    assert weak.bit_length() == 2048

    assert usable_keys(with_key(n=number(weak))) == {}
    assert usable_keys(with_key(n=number(weak + 2)))  # the same size and form, but not weak


PEM = public_pem(KEY).decode()


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param(PEM, id="as it is"),
        pytest.param(PEM.replace("\n", "\\n"), id="in one line"),
        pytest.param("".join(PEM.splitlines()[1:-1]), id="without its first and last line"),
        pytest.param("  " + PEM.replace("\n", "\r\n") + "\n\n", id="with other line ends"),
    ],
)
def test_a_pem_key_is_read(pem: str) -> None:
    assert key_from_pem(pem).public_numbers() == KEY.public_key().public_numbers()


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param("", id="nothing"),
        pytest.param("sk_test_" + "x" * 40, id="another of Clerk's keys"),
        pytest.param(PEM[:100], id="a part"),
        pytest.param(public_pem(rsa_key("short", 1024)).decode(), id="1024 bits"),
        pytest.param(json.dumps(jwk(KEY)), id="a JWK"),
    ],
)
def test_a_key_that_cannot_be_used_is_a_configuration_error(pem: str) -> None:
    with pytest.raises(ConfigurationError, match="jwt_key"):
        key_from_pem(pem)


def test_the_error_about_a_private_key_as_jwt_key_does_not_show_it() -> None:
    from cryptography.hazmat.primitives import serialization

    private = KEY.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()

    with pytest.raises(ConfigurationError) as refused:
        key_from_pem(private)

    assert private.splitlines()[1] not in str(refused.value)
