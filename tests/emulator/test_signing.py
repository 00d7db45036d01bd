"""JWTs, the key set, and tokens that tests forge."""

from __future__ import annotations

from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from clerk_m2m.emulator import Emulator

UNCHECKED: Any = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
}


def read(token: str, key: Any) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, key, ["RS256"], options=UNCHECKED)
    return claims


async def test_an_m2m_jwt_has_clerks_header_and_claims(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    orders = emulator.add_machine("orders", default_token_ttl=60)
    token = emulator.mint_m2m_token(orders, token_format="jwt", claims={"aud": "x", "scopes": []})
    now = int(emulator.now())
    assert jwt.get_unverified_header(token.token) == {
        "alg": "RS256",
        "typ": "JWT",
        "kid": emulator.instance_id,
        "cat": "cl_B7d4PD333AAA",
    }
    assert read(token.token, emulator.public_key_pem()) == {
        "iss": emulator.issuer,
        "sub": orders.id,
        "exp": now + 60,
        "nbf": now,
        "iat": now,
        "jti": token.id,
        "aud": "x",
        "scopes": [],
    }


async def test_the_key_set_verifies_what_the_instance_signed(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    token = emulator.mint_session_jwt()
    for path in ("/jwks", "http://emulator.test/.well-known/jwks.json"):
        answer = (await api.get(path)).json()
        assert answer == emulator.jwks()
        (key,) = answer["keys"]
        assert key.keys() == {"use", "kty", "kid", "alg", "n", "e"}
        assert read(token, jwt.PyJWK(key).key)["sub"].startswith("user_")


async def test_the_frontends_key_set_is_public(client: Any) -> None:
    answer = await client(None).get("http://emulator.test/.well-known/jwks.json")
    assert answer.status_code == 200


def test_session_and_template_jwts_have_different_cat_headers(emulator: Emulator) -> None:
    user = "user_" + "a" * 27
    session = emulator.mint_session_jwt(user, claims={"org": "acme"})
    template = emulator.mint_template_jwt(user, claims={"aud": "mch"}, seconds_until_expiration=5)
    assert jwt.get_unverified_header(session)["cat"] == "cl_B7d4PD111AAA"
    assert jwt.get_unverified_header(template)["cat"] == "cl_B7d4PD222AAA"
    assert read(session, emulator.public_key_pem())["org"] == "acme"
    claims = read(template, emulator.public_key_pem())
    assert (claims["sub"], claims["aud"]) == (user, "mch")
    assert claims["exp"] - claims["iat"] == 5


async def test_rotation_keeps_the_old_key_in_the_set_unless_keep_previous_is_false(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    old = emulator.mint_session_jwt()
    second = emulator.rotate_signing_key()
    assert second.startswith("ins_")
    assert [key["kid"] for key in emulator.jwks()["keys"]] == [second, emulator.instance_id]
    keys = jwt.PyJWKSet.from_dict(emulator.jwks())
    assert read(old, keys[emulator.instance_id].key)
    third = emulator.rotate_signing_key(keep_previous=False)
    assert [key["kid"] for key in emulator.jwks()["keys"]] == [third]
    assert jwt.get_unverified_header(emulator.mint_session_jwt())["kid"] == third


def test_a_signing_key_can_be_given() -> None:
    pem = pem_of(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    first, second = Emulator(signing_key=pem), Emulator(signing_key=pem)
    assert first.public_key_pem() == second.public_key_pem()
    assert read(first.mint_session_jwt(), second.public_key_pem())
    first.close()
    second.close()


def test_a_signing_key_must_be_an_rsa_key() -> None:
    with pytest.raises(ValueError, match="RSA"):
        Emulator(signing_key=pem_of(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(ValueError, match="PEM"):
        Emulator(signing_key="not a key")


def pem_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def test_odd_and_forged_tokens_can_be_signed(emulator: Emulator) -> None:
    odd = emulator.sign_jwt({"sub": 7, "exp": "soon"}, headers={"kid": None, "typ": "at+jwt"})
    assert jwt.get_unverified_header(odd) == {"alg": "RS256", "typ": "at+jwt"}
    unsigned = emulator.sign_jwt({}, algorithm="none")
    assert unsigned.endswith(".")
    confused = emulator.sign_jwt(
        {"sub": "x"}, algorithm="HS256", secret=emulator.public_key_pem().encode()
    )
    assert jwt.get_unverified_header(confused)["alg"] == "HS256"
    hashed = emulator.sign_jwt({"sub": "x"}, algorithm="HS256", secret=b"s" * 32)
    assert jwt.decode(hashed, b"s" * 32, ["HS256"]) == {"sub": "x"}
    with pytest.raises(ValueError, match="algorithm"):
        emulator.sign_jwt({}, algorithm="ES256")  # type: ignore[arg-type]
