"""Extraction of the credential from raw header fields, and its class."""

from __future__ import annotations

import json
from typing import Any

import pytest
from forging import jws, segment
from sent_credentials import classify

from clerk_m2m import TokenInvalidError, TokenMalformedError, TokenTypeNotAcceptedError
from clerk_m2m.credentials import (
    KINDS,
    MAX_CREDENTIAL_BYTES,
    JWTCredential,
    OpaqueCredential,
    extract,
    load_object,
    parse,
    split_jwt,
)
from clerk_m2m.identity import TokenClass, TokenType
from clerk_m2m.secret import Secret
from clerk_m2m.verification.online import OPERATIONS
from harness import USER_ID, World

API_KEY_HEADER = b"x-api-key"
MACHINE = "mch_" + "m" * 27
M2M_CAT, SESSION_CAT, TEMPLATE_CAT = "cl_B7d4PD333AAA", "cl_B7d4PD111AAA", "cl_B7d4PD222AAA"


def authorization(*values: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"service.test"), *((b"authorization", value) for value in values)]


def unsigned_jwt(header: Any, claims: Any) -> str:
    return jws(header, claims, lambda _: b"signature")


# Extraction


def test_a_request_without_credentials_has_none() -> None:
    assert extract([(b"host", b"service.test"), (b"x-api-key", b"ak_1")]) is None


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (b"Bearer mt_1", "mt_1"),
        (b"bearer mt_1", "mt_1"),
        (b"BEARER mt_1", "mt_1"),
        (b"bEaReR mt_1", "mt_1"),
        (b"Bearer  mt_1", "mt_1"),
        (b"Bearer mt_1 ", "mt_1"),
        (b"Bearer mt_1\t", "mt_1"),
        (b"Bearer mt_1 \t ", "mt_1"),
        (b" \tBearer mt_1", "mt_1"),
        (b" " * (MAX_CREDENTIAL_BYTES - 11) + b"Bearer mt_1", "mt_1"),
        (b"Bearer a.b-c_d~e+f/g==", "a.b-c_d~e+f/g=="),
        (b"Bearer " + b"x" * (MAX_CREDENTIAL_BYTES - 7), "x" * (MAX_CREDENTIAL_BYTES - 7)),
    ],
)
def test_a_bearer_credential_is_extracted_whatever_the_case_of_its_scheme(
    value: bytes, token: str
) -> None:
    assert extract(authorization(value)) == token


@pytest.mark.parametrize(
    "value",
    [
        b"Basic dXNlcjpwYXNz",
        b"Basic",
        b"Negotiate ",
        b"Basic\t",
        b"\t Basic dXNlcjpwYXNz \t",
        b'Digest username="Mufasa", realm="a@b", uri="/", response="6629"',
        b'Digest username="bearer", realm="a"',
        b"BearerX mt_1",
        b"X-Bearer mt_1",
    ],
)
def test_another_scheme_is_ignored(value: bytes) -> None:
    assert extract(authorization(value)) is None


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"Bearer", id="scheme alone"),
        pytest.param(b"Bearer ", id="scheme and a space"),
        pytest.param(b"mt_1 mt_2\x80", id="no scheme"),
        pytest.param(b"Bearer\tmt_1", id="tab for the space"),
        pytest.param(b"Bearer \tmt_1", id="tab before the token"),
        pytest.param(b"Bearer mt_1 x", id="space within the token"),
        pytest.param(b"Bearer mt_1\tx", id="tab within the token"),
        pytest.param(b" \t ", id="spaces alone"),
        pytest.param(b"\tBearer\t", id="scheme between tabs"),
        pytest.param(b"Bearer mt_1\x0b", id="vertical tab after the token"),
        pytest.param(b"Bearer mt_1" + b" " * (MAX_CREDENTIAL_BYTES - 10), id="8193 with spaces"),
        pytest.param(b"Bearer mt_1\n", id="newline"),
        pytest.param(b"Bearer mt_\x001", id="NUL"),
        pytest.param(b"Bearer mt_\x011", id="0x01"),
        pytest.param(b"Bearer mt_1\x7f", id="DEL"),
        pytest.param("Bearer mt_é".encode(), id="UTF-8"),
        pytest.param("Bearer mt_é".encode("latin-1"), id="Latin-1"),
        pytest.param(b"Bearer mt_1 mt_2", id="two tokens"),
        pytest.param(b"Bearer mt_1,mt_2", id="joined tokens"),
        pytest.param(b"Bearer mt_1, Bearer mt_2", id="joined fields"),
        pytest.param(b"Bearer mt=1", id="padding inside"),
        pytest.param(b'Bearer "mt_1"', id="quoted"),
        pytest.param(b"Bearer: mt_1", id="colon"),
        pytest.param(b"Basic x, Bearer mt_1", id="joined after Basic"),
        pytest.param(b"Basic x,bearer mt_1", id="joined after Basic, no space"),
        pytest.param(b"Basic x,\tBEARER", id="joined after Basic, tab"),
        pytest.param(b"Basic bearer mt_1", id="a second scheme"),
        pytest.param(b"Basic \x00", id="NUL after another scheme"),
        pytest.param(b"Basic \xff", id="another scheme, not ASCII"),
        pytest.param(b"B@sic x", id="no scheme's characters"),
        pytest.param(b"Bearer " + b"x" * (MAX_CREDENTIAL_BYTES - 6), id="8193 bytes"),
        pytest.param(b"Basic " + b"x" * MAX_CREDENTIAL_BYTES, id="too long, another scheme"),
    ],
)
def test_an_ill_formed_authorization_header_is_refused(value: bytes) -> None:
    with pytest.raises(TokenMalformedError) as refused:
        extract(authorization(value))

    assert refused.value.code == "token_malformed"


@pytest.mark.parametrize("second", [b"Bearer mt_1", b"Bearer mt_2", b"Basic x", b""])
@pytest.mark.parametrize("first", [b"Bearer mt_1", b"Basic x"])
def test_two_authorization_headers_are_refused_whatever_they_hold(
    first: bytes, second: bytes
) -> None:
    with pytest.raises(TokenMalformedError) as refused:
        extract(authorization(first, second))

    assert refused.value.code == "token_malformed"


def test_an_api_key_is_extracted_from_the_api_key_header() -> None:
    headers = [(API_KEY_HEADER, b"ak_1")]

    assert extract(headers, api_key_header=API_KEY_HEADER) == "ak_1"
    spaced = [(API_KEY_HEADER, b"\t ak_1/=\t ")]
    assert extract(spaced, api_key_header=API_KEY_HEADER) == "ak_1/="
    assert extract(authorization(b"Basic x") + headers, api_key_header=API_KEY_HEADER) == "ak_1"
    assert extract(authorization(b"Bearer mt_1"), api_key_header=API_KEY_HEADER) == "mt_1"
    assert extract([], api_key_header=API_KEY_HEADER) is None


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([(API_KEY_HEADER, b"ak_1"), (API_KEY_HEADER, b"ak_1")], id="two of them"),
        pytest.param([*authorization(b"Bearer mt_1"), (API_KEY_HEADER, b"ak_1")], id="and Bearer"),
        pytest.param([*authorization(b"Bearer"), (API_KEY_HEADER, b"ak_1")], id="and half Bearer"),
        pytest.param([(API_KEY_HEADER, b"")], id="empty"),
        pytest.param([(API_KEY_HEADER, b"Bearer ak_1")], id="with a scheme"),
        pytest.param([(API_KEY_HEADER, b" \t")], id="spaces alone"),
        pytest.param([(API_KEY_HEADER, b"ak_1 ak_2")], id="two with a space"),
        pytest.param([(API_KEY_HEADER, b"ak_1,ak_2")], id="joined"),
        pytest.param([(API_KEY_HEADER, b"ak_\x00")], id="NUL"),
        pytest.param([(API_KEY_HEADER, b"ak_\xe9")], id="not ASCII"),
        pytest.param([(API_KEY_HEADER, b"ak_" + b"x" * (MAX_CREDENTIAL_BYTES - 2))], id="too long"),
    ],
)
def test_an_ill_formed_or_second_api_key_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(TokenMalformedError) as refused:
        extract(headers, api_key_header=API_KEY_HEADER)

    assert refused.value.code == "token_malformed"


@pytest.mark.parametrize("value", [b"mt_" + b"x" * 40, b"AK_1", b"secret"])
def test_the_api_key_header_accepts_only_api_keys(value: bytes) -> None:
    with pytest.raises(TokenTypeNotAcceptedError) as refused:
        extract([(API_KEY_HEADER, value)], api_key_header=API_KEY_HEADER)

    assert refused.value.code == "token_type_not_accepted"


def test_a_refusal_does_not_repeat_the_credential() -> None:
    with pytest.raises(TokenMalformedError) as refused:
        extract(authorization(b"Bearer mt_hidden mt_hidden"))

    assert "hidden" not in str(refused.value)


# Classification


async def test_every_credential_that_clerk_issues_is_classified_by_its_form(world: World) -> None:
    emulator = world.emulator
    forms = {
        world.token(): TokenClass.M2M_OPAQUE,
        world.jwt(): TokenClass.M2M_JWT,
        emulator.add_api_key("reports", subject=USER_ID).secret: TokenClass.API_KEY,
        world.caller.secret_key: TokenClass.API_KEY,  # a machine's own key looks the same
        emulator.add_oauth_token(subject=USER_ID).token: TokenClass.OAUTH_OPAQUE,
        emulator.add_oauth_token(subject=USER_ID, token_format="jwt").token: TokenClass.OAUTH_JWT,
        emulator.mint_session_jwt(): TokenClass.SESSION_JWT,
        emulator.mint_template_jwt(): TokenClass.SESSION_JWT,
    }

    assert {token: classify(token) for token in forms} == forms
    assert not emulator.calls


@pytest.mark.parametrize(
    ("token", "token_class"),
    [
        ("mt_" + "x" * 16, TokenClass.M2M_OPAQUE),
        ("ak_" + "x" * 16, TokenClass.API_KEY),
        ("oat_" + "x" * 16, TokenClass.OAUTH_OPAQUE),
        ("mt_" + "x" * 15, TokenClass.MALFORMED),
        ("mt_", TokenClass.MALFORMED),
        ("mt_" + "x" * 16 + "=", TokenClass.MALFORMED),
        ("mt_" + "x" * 16 + "/y", TokenClass.MALFORMED),
        ("oat_" + "x" * 16 + "+y=", TokenClass.MALFORMED),
        ("ak_" + "x" * 16 + ".y", TokenClass.API_KEY),
        ("ak_" + "x" * 16 + "/+~y==", TokenClass.API_KEY),
        ("ak_" + "x" * 16 + "=y", TokenClass.MALFORMED),
        ("ak_" + "x" * 15 + "=", TokenClass.MALFORMED),
        ("ak_" + "x" * 16 + ",y", TokenClass.MALFORMED),
        ("ak_" + "x" * 16 + "=\n", TokenClass.MALFORMED),
        ("oat_" + "~" * 16, TokenClass.MALFORMED),
        ("mt_" + "x" * 16 + "\n", TokenClass.MALFORMED),
        ("MT_" + "x" * 16, TokenClass.UNKNOWN),
        ("mt" + "x" * 16, TokenClass.UNKNOWN),
        ("mch_" + "x" * 27, TokenClass.UNKNOWN),
        ("sk_test_" + "x" * 27, TokenClass.UNKNOWN),
        ("", TokenClass.UNKNOWN),
        ("a.b", TokenClass.UNKNOWN),
        ("a.b.c.d", TokenClass.UNKNOWN),
        ("..", TokenClass.UNKNOWN),
    ],
)
def test_an_opaque_credential_is_classified_by_its_prefix_and_its_characters(
    token: str, token_class: TokenClass
) -> None:
    assert classify(token) is token_class


@pytest.mark.parametrize(
    ("header", "claims", "token_class"),
    [
        ({"cat": M2M_CAT}, {"sub": MACHINE}, TokenClass.M2M_JWT),
        ({}, {"sub": MACHINE}, TokenClass.M2M_JWT),
        ({"cat": None}, {"sub": MACHINE}, TokenClass.UNKNOWN),
        ({"cat": M2M_CAT, "typ": "jwt"}, {"sub": MACHINE}, TokenClass.M2M_JWT),
        ({"cat": M2M_CAT, "typ": "secevent+jwt"}, {"sub": MACHINE}, TokenClass.UNKNOWN),
        ({"cat": SESSION_CAT, "kid": None}, {"sub": MACHINE}, TokenClass.SESSION_JWT),
        ({"cat": M2M_CAT}, {"sub": USER_ID}, TokenClass.UNKNOWN),
        ({"cat": M2M_CAT}, {"sub": MACHINE + "x"}, TokenClass.UNKNOWN),
        ({"cat": M2M_CAT}, {}, TokenClass.UNKNOWN),
        ({"cat": M2M_CAT}, {"sub": [MACHINE]}, TokenClass.UNKNOWN),
        ({"cat": [M2M_CAT]}, {"sub": MACHINE}, TokenClass.UNKNOWN),
        ({"cat": "cl_other"}, {"sub": MACHINE}, TokenClass.UNKNOWN),
        ({"cat": SESSION_CAT}, {"sub": MACHINE}, TokenClass.SESSION_JWT),
        ({"cat": TEMPLATE_CAT}, {"sub": MACHINE}, TokenClass.SESSION_JWT),
        ({"cat": SESSION_CAT, "typ": "at+jwt"}, {"sub": USER_ID}, TokenClass.SESSION_JWT),
        ({"typ": "JWT"}, {"sub": USER_ID}, TokenClass.SESSION_JWT),
        ({"typ": "at+jwt"}, {"sub": USER_ID}, TokenClass.OAUTH_JWT),
        ({"typ": "application/AT+JWT"}, {"sub": USER_ID}, TokenClass.OAUTH_JWT),
        ({"typ": "at+jwt", "cat": M2M_CAT}, {"sub": MACHINE}, TokenClass.UNKNOWN),
        ({"typ": 7}, {"sub": MACHINE}, TokenClass.UNKNOWN),
    ],
)
def test_a_jwt_is_classified_by_its_category_and_then_by_its_subject(
    header: dict[str, Any], claims: dict[str, Any], token_class: TokenClass
) -> None:
    assert classify(unsigned_jwt(header, claims)) is token_class


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b'{"sub": "%b", "sub": "x"}' % MACHINE.encode(), id="duplicate key"),
        pytest.param(b'{"a": {"b": 1, "b": 2}}', id="duplicate key inside"),
        pytest.param(b'{"exp": NaN}', id="NaN"),
        pytest.param(b'{"exp": -Infinity}', id="infinity"),
        pytest.param(b'{"exp": ' + b"9" * 5000 + b"}", id="endless number"),
        pytest.param(b'{"a": ' + b"[" * 100_000, id="endless nesting"),
        pytest.param(b'{"a": "\xff"}', id="not UTF-8"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"null", id="null"),
        pytest.param(b"", id="empty"),
        pytest.param(b"{} {}", id="two objects"),
    ],
)
def test_json_that_two_parsers_could_read_differently_is_refused(payload: bytes) -> None:
    with pytest.raises(TokenInvalidError) as refused:
        load_object(payload)

    assert refused.value.code == "token_invalid"
    assert classify(f"{segment({})}.{segment(payload)}.{segment(b'x')}") is TokenClass.UNKNOWN


def test_a_jwt_is_split_into_header_payload_signature_and_signing_input() -> None:
    jwt = split_jwt(unsigned_jwt({"alg": "RS256"}, {"sub": MACHINE}))

    assert jwt.header == {"alg": "RS256"}
    assert json.loads(jwt.payload) == {"sub": MACHINE}
    assert jwt.signature == b"signature"
    assert jwt.signing_input.decode() == unsigned_jwt({"alg": "RS256"}, {"sub": MACHINE})[:-13]


def test_the_repr_of_a_credential_shows_nothing_that_could_be_replayed() -> None:
    jwt = split_jwt(unsigned_jwt({"alg": "RS256"}, {"sub": MACHINE, "note": "private"}))
    shown = repr(JWTCredential(TokenClass.M2M_JWT, jwt, {"note": "private"}))

    assert "private" not in shown
    assert [
        name for name in ("payload", "signing_input", "signature", "claims") if name in shown
    ] == []


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("e30.e30.QUJD\n", id="newline"),
        pytest.param("e30=.e30.QUJD", id="padding"),
        pytest.param("e30.e30.QUJ", id="spare bits set"),
        pytest.param("e30.e30.Q", id="impossible length"),
        pytest.param("e30.e30.", id="no signature"),
        pytest.param("e30.e30", id="two parts"),
        pytest.param("e30.e30.QUJD.QUJD", id="four parts"),
        pytest.param("e3+.e30.QUJD", id="standard base64"),
        pytest.param("bnVsbA.e30.QUJD", id="header is no object"),
    ],
)
def test_a_jwt_that_is_not_encoded_canonically_is_refused(token: str) -> None:
    with pytest.raises(TokenInvalidError) as refused:
        split_jwt(token)

    assert refused.value.code == "token_invalid"


def test_every_kind_of_credential_has_all_its_rows() -> None:
    """A new kind needs a row here, an operation if it is opaque, and a type that users name."""
    no_kind = {TokenClass.SESSION_JWT, TokenClass.MALFORMED, TokenClass.UNKNOWN}

    assert set(KINDS) == set(TokenClass) - no_kind
    assert {kind.token_type for kind in KINDS.values()} == set(TokenType)
    assert set(OPERATIONS) == {each for each, kind in KINDS.items() if kind.operation}
    for token_class, kind in KINDS.items():
        assert (kind.prefix is None) is (kind.operation is None) is (kind.keys == ())
        if kind.prefix is not None:
            credential = parse(Secret(f"{kind.prefix}_{'x' * 40}"))
            assert isinstance(credential, OpaqueCredential)
            assert credential.token_class is token_class
