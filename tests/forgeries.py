"""Forged and confused JWTs (RFC 8725 and above), each with the code of its refusal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from forging import (
    b64,
    hs,
    jwk,
    jws,
    nothing,
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

from harness import SIGNING_KEY, USER_ID

M2M, SESSION, TEMPLATE = "cl_B7d4PD333AAA", "cl_B7d4PD111AAA", "cl_B7d4PD222AAA"
INVALID, TYPE = "token_invalid", "token_type_not_accepted"
VICTIM = "mch_" + "v" * 27


def _genuine_key() -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(SIGNING_KEY.encode(), password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


KEY, ATTACKER = _genuine_key(), rsa_key("attacker")


@dataclass(frozen=True)
class Parts:
    """The parts of a good M2M JWT of the caller; each forgery changes some."""

    kid: str
    subject: str
    now: int

    @property
    def header(self) -> dict[str, Any]:
        """The header that Clerk writes."""
        return {"alg": "RS256", "typ": "JWT", "kid": self.kid, "cat": M2M}

    @property
    def claims(self) -> dict[str, Any]:
        """The claims that Clerk writes, and one that the caller chose."""
        now, token_id = self.now, "mt_" + "5" * 32
        return {
            "iss": "https://clerk.test",
            "sub": self.subject,
            "jti": token_id,
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "aud": [self.subject],
        }

    def token(
        self, by: Any = None, *, payload: Any = None, header: Any = None, **claims: Any
    ) -> str:
        """Sign with the instance's key or the given one; a claim that is `...` is left out."""
        merged = {k: v for k, v in (self.claims | claims).items() if v is not ...}
        return jws(
            self.header if header is None else header,
            merged if payload is None else payload,
            by or rs256(KEY),
        )

    def headed(self, by: Any = None, **members: Any) -> str:
        """The same token with changed members of the header; one that is `...` is left out."""
        header = {k: v for k, v in (self.header | members).items() if v is not ...}
        return self.token(by, header=header)


Forge = Callable[[Parts], str]
Case = tuple[str, Forge, str]  # the sentence, the forgery, the code of the refusal


def _raw(claims: dict[str, Any], **texts: str) -> str:
    """JSON in which some values are written as the given text, valid or not."""
    text = json.dumps(claims | {name: f"@{name}@" for name in texts})
    for name, value in texts.items():
        text = text.replace(f'"@{name}@"', value)
    return text


# RFC 8725 sections 2.1, 3.1 and 3.2
ALGORITHMS: list[Case] = [
    *[(f"the algorithm is {alg!r} and there is no signature",
       lambda p, alg=alg: p.headed(nothing, alg=alg), INVALID)
      for alg in ("none", "None", "NONE", "nOnE", "")],
    *[(f"the algorithm is {alg!r} and something stands for a signature",
       lambda p, alg=alg: p.headed(lambda _: b"x" * 256, alg=alg), INVALID)
      for alg in ("none", "None", "NONE", "nOnE", "RS256", "rs256", "RS256 ", "ES256", "EdDSA")],
    ("HS256 is keyed with the public key's PEM",
     lambda p: p.headed(hs(public_pem(KEY)), alg="HS256"), INVALID),
    ("HS256 is keyed with the PEM less its last line break",
     lambda p: p.headed(hs(public_pem(KEY).strip()), alg="HS256"), INVALID),
    ("HS256 is keyed with the modulus as the key set writes it",
     lambda p: p.headed(hs(jwk(KEY)["n"].encode()), alg="HS256"), INVALID),
    ("HS256 is keyed with the bytes of the modulus",
     lambda p: p.headed(hs(unb64(jwk(KEY)["n"])), alg="HS256"), INVALID),
    ("HS256 is keyed with nothing", lambda p: p.headed(hs(b""), alg="HS256"), INVALID),
    ("HS256 signs under the name of RS256", lambda p: p.token(hs(public_pem(KEY))), INVALID),
    ("HS512 is keyed with the public key's PEM",
     lambda p: p.headed(hs(public_pem(KEY), "sha512"), alg="HS512"), INVALID),
]  # fmt: skip

SIGNATURES: list[Case] = [
    ("another key signed it", lambda p: p.token(rs256(ATTACKER)), INVALID),
    ("the instance's key signed it and no kid is named", lambda p: p.headed(kid=...), INVALID),
    ("another key signed it and no kid is named",
     lambda p: p.headed(rs256(ATTACKER), kid=...), INVALID),
    ("a key of 1024 bits signed it", lambda p: p.token(rs256(rsa_key("short", 1024))), INVALID),
    ("the signature is all zeros", lambda p: p.token(lambda _: bytes(256)), INVALID),
    ("the signature is the number one", lambda p: p.token(lambda _: bytes(255) + b"\1"), INVALID),
    ("the signature is the modulus", lambda p: p.token(lambda _: unb64(jwk(KEY)["n"])), INVALID),
    ("the signature is one byte long", lambda p: p.token(lambda _: b"x"), INVALID),
    ("the signature is longer than any key", lambda p: p.token(lambda _: b"x" * 2048), INVALID),
    ("the signature was cut off", lambda p: resigned(p.token(), signature=""), INVALID),
    ("the signature and its dot were cut off", lambda p: p.token().rpartition(".")[0], INVALID),
    ("the subject was changed after signing",
     lambda p: resigned(p.token(), payload=segment(p.claims | {"sub": VICTIM})), INVALID),
    ("exp was changed after signing",
     lambda p: resigned(p.token(exp=p.now - 60), payload=segment(p.claims)), INVALID),
    ("the category was changed after signing",
     lambda p: resigned(p.headed(cat=SESSION), header=segment(p.header)), INVALID),
    ("the algorithm was changed to none after signing",
     lambda p: resigned(p.token(), header=segment(p.header | {"alg": "none"})), INVALID),
    ("the signature is that of another token",
     lambda p: resigned(p.token(), signature=signature_of(p.token(jti="another"))), INVALID),
    ("a byte stands before the signature",
     lambda p: resigned(p.token(), signature=b64(b"\0" + unb64(signature_of(p.token())))), INVALID),
]  # fmt: skip

ODD_KIDS: list[Any] = ["ins_unknown", "", "../../dev/null", "' OR 1=1 --", "http://attacker.test/k"]
ODD_KIDS += ["\0", "\ud800", "k" * 4000, 7, True, [], {}, None]

# RFC 8725 section 3.10
KEYS_OF_THE_TOKENS_OWN: list[Case] = [
    ("the attacker's key is in the header",
     lambda p: p.headed(rs256(ATTACKER), jwk=jwk(ATTACKER, kid=p.kid)), INVALID),
    ("the attacker's key is in the header and no kid",
     lambda p: p.headed(rs256(ATTACKER), kid=..., jwk=jwk(ATTACKER)), INVALID),
    ("the address of the attacker's key set is in the header",
     lambda p: p.headed(rs256(ATTACKER), jku="http://attacker.test/jwks.json"), INVALID),
    ("the address is that of a file",
     lambda p: p.headed(rs256(ATTACKER), jku="file:///etc/passwd"), INVALID),
    ("the address of the attacker's certificate is in the header",
     lambda p: p.headed(rs256(ATTACKER), x5u="http://attacker.test/cert.pem"), INVALID),
    ("the attacker's certificate is in the header",
     lambda p: p.headed(rs256(ATTACKER), x5c=["MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"]), INVALID),
    ("the thumbprint of the attacker's certificate is in the header",
     lambda p: p.headed(rs256(ATTACKER), **{"x5t#S256": b64(b"t" * 32)}), INVALID),
    *[(f"the kid is {kid!r}", lambda p, kid=kid: p.headed(rs256(ATTACKER), kid=kid), INVALID)
      for kid in ODD_KIDS],
]  # fmt: skip

SPELLINGS: list[Case] = [
    ("padding follows the signature", lambda p: p.token() + "==", INVALID),
    ("padding of one follows the signature", lambda p: p.token() + "=", INVALID),
    ("the signature is encoded in another way",
     lambda p: resigned(p.token(), signature=respelled(signature_of(p.token()))), INVALID),
    ("there is an empty fourth segment", lambda p: p.token() + ".", INVALID),
    ("there is a fourth segment", lambda p: p.token() + ".e30", INVALID),
    ("there are five segments, as encryption has", lambda p: p.token() + ".e30.e30", INVALID),
    ("there is no header", lambda p: resigned(p.token(), header=""), INVALID),
    ("there is no payload", lambda p: resigned(p.token(), payload=""), INVALID),
    ("there are dots only", lambda _: "..", INVALID),
    ("there is a word only", lambda _: "eyJhbGciOiJub25lIn0", INVALID),
    ("it is a JWT within a JWT", lambda p: p.token(payload=p.token(), by=rs256(ATTACKER)), INVALID),
    ("the signature has the alphabet of standard base64",
     lambda p: resigned(p.token(), signature=signature_of(p.token())[:-2] + "+/"), INVALID),
]  # fmt: skip

JSON: list[Case] = [
    *[(f"the header is {what}", lambda p, text=text: p.token(header=text), INVALID)
      for what, text in [
          ("a list", '["RS256"]'), ("a string", '"RS256"'), ("null", "null"), ("a number", "7"),
          ("no JSON", "{"), ("empty", " "), ("followed by another", "{} {}"),
          ("not UTF-8", b'{"alg":"\xff"}'), ("in UTF-16", '{"alg":"RS256"}'.encode("utf-16")),
          ("nested without end", '{"x":' + "[" * 2000)]],
    ("the algorithm is named twice",
     lambda p: p.token(nothing, header='{"alg":"none",' + json.dumps(p.header)[1:]), INVALID),
    ("the category is named twice",
     lambda p: p.token(header=json.dumps(p.header)[:-1] + f',"cat":"{SESSION}"}}'), INVALID),
    *[(f"the payload is {what}", lambda p, text=text: p.token(payload=text), INVALID)
      for what, text in [
          ("a list", "[]"), ("a string", '"x"'), ("null", "null"), ("a number", "7"),
          ("no JSON", "}"), ("not UTF-8", b'{"sub":"\xff"}'),
          ("nested without end", '{"x":' + "[" * 2500)]],
    ("the subject is named twice",
     lambda p: p.token(payload=f'{{"sub":"{USER_ID}",' + json.dumps(p.claims)[1:]), INVALID),
    ("exp is named twice",
     lambda p: p.token(payload=json.dumps(p.claims)[:-1] + ',"exp":99999999999}'), INVALID),
    ("a claim is NaN", lambda p: p.token(payload=_raw(p.claims, iat="NaN")), INVALID),
    ("exp is Infinity", lambda p: p.token(payload=_raw(p.claims, exp="Infinity")), INVALID),
    ("exp has four hundred digits",
     lambda p: p.token(payload=_raw(p.claims, exp="9" * 400)), INVALID),
    ("exp has five thousand digits",
     lambda p: p.token(payload=_raw(p.claims, exp="9" * 5000)), INVALID),
]  # fmt: skip

OTHER_ALGORITHMS_OF_THE_KEY: list[Case] = [
    ("RS384 is truly signed",
     lambda p: p.headed(rsa_with(KEY, hashes.SHA384()), alg="RS384"), INVALID),
    ("RS512 is truly signed",
     lambda p: p.headed(rsa_with(KEY, hashes.SHA512()), alg="RS512"), INVALID),
    ("PS256 is truly signed", lambda p: p.headed(pss(KEY), alg="PS256"), INVALID),
    ("PSS signs under the name of RS256", lambda p: p.token(pss(KEY)), INVALID),
    ("SHA-1 signs under the name of RS256",
     lambda p: p.token(rsa_with(KEY, hashes.SHA1())), INVALID),
]  # fmt: skip

EXTENSIONS: list[Case] = [
    ("crit is empty", lambda p: p.headed(crit=[]), INVALID),
    ("crit names a claim", lambda p: p.headed(crit=["exp"]), INVALID),
    ("crit names an extension",
     lambda p: p.headed(crit=["http://x.test/ext"], **{"http://x.test/ext": 1}), INVALID),
    ("the payload claims not to be encoded", lambda p: p.headed(b64=False), INVALID),
]  # fmt: skip

# RFC 8725 sections 2.8, 3.11 and 3.12
KINDS: list[Case] = [
    ("it is the JWT of a browser's session", lambda p: p.headed(cat=SESSION), TYPE),
    ("it is the JWT of a template", lambda p: p.headed(cat=TEMPLATE), TYPE),
    ("it is a session's, of a user, without a category",
     lambda p: p.token(header={"alg": "RS256", "typ": "JWT", "kid": p.kid}, sub=USER_ID), TYPE),
    ("it is a session's that calls itself an access token",
     lambda p: p.headed(cat=SESSION, typ="at+jwt"), TYPE),
    *[(f"the category is {cat!r}", lambda p, cat=cat: p.headed(cat=cat), INVALID)
      for cat in ("cl_B7d4PD444AAA", M2M.lower(), M2M + " ", "", None, 3, [M2M], {M2M: 1})],
    *[(f"the type is {typ!r}", lambda p, typ=typ: p.headed(typ=typ), INVALID)
      for typ in ("secevent+jwt", "dpop+jwt", "JWE", "", None, 1, ["JWT"])],
    ("a machine's category goes with the type of an access token",
     lambda p: p.headed(typ="at+jwt"), INVALID),
    ("a machine's category goes with the access token of a user",
     lambda p: p.token(header=p.header | {"typ": "at+jwt"}, sub=USER_ID), INVALID),
    ("it is an access token of a machine", lambda p: p.headed(cat=..., typ="at+jwt"), INVALID),
    ("it is an access token whose scope is a list",
     lambda p: p.token(header={"alg": "RS256", "typ": "at+jwt", "kid": p.kid},
                       sub=USER_ID, scope=["a"]), INVALID),
    ("a user has a machine's category", lambda p: p.token(sub=USER_ID), INVALID),
]  # fmt: skip

NO_TEXTS: list[Any] = [None, 7, True, [], {}, ""]
NO_INSTANTS: list[Any] = [None, True, False, [], {}, "1900000000", "never", -1, 1e30]
ODD_SUBJECTS = [*NO_TEXTS, ..., "mch_", "mch_" + "x" * 26, "mch_" + "x" * 28]
ODD_SUBJECTS += ["mch_" + "x" * 27 + "\n", "mch_" + "\u00e9" * 27, "MCH_" + "x" * 27]

CLAIMS: list[Case] = [
    *[(f"the subject is {sub!r}", lambda p, sub=sub: p.token(sub=sub), INVALID)
      for sub in ODD_SUBJECTS],
    *[(f"exp is {exp!r}", lambda p, exp=exp: p.token(exp=exp), INVALID)
      for exp in [*NO_INSTANTS, ..., 0, 1, math.pi]],
    ("it expired five seconds ago", lambda p: p.token(exp=p.now - 5), INVALID),
    ("exp is in milliseconds", lambda p: p.token(exp=(p.now + 600) * 1000), INVALID),
    ("exp is greater than any float",
     lambda p: p.token(payload=_raw(p.claims, exp="1e999")), INVALID),
    *[(f"iat is {iat!r}", lambda p, iat=iat: p.token(iat=iat), INVALID)
      for iat in [*NO_INSTANTS, ...]],
    ("iat is in an hour, and there is no nbf",
     lambda p: p.token(iat=p.now + 3600, nbf=...), INVALID),
    ("iat is in an hour, and nbf is now",
     lambda p: p.token(iat=p.now + 3600), INVALID),
    ("iat is in milliseconds", lambda p: p.token(iat=p.now * 1000), INVALID),
    ("nbf is in an hour", lambda p: p.token(nbf=p.now + 3600), INVALID),
    *[(f"nbf is {nbf!r}", lambda p, nbf=nbf: p.token(nbf=nbf), INVALID)
      for nbf in NO_INSTANTS],
    *[(f"the id is {str(jti)[:20]!r}", lambda p, jti=jti: p.token(jti=jti), INVALID)
      for jti in [*NO_TEXTS, ..., "x" * 300]],
]  # fmt: skip


WITHOUT_A_KEY = [*JSON, *EXTENSIONS, *KINDS, *CLAIMS]
WITH_A_KEY = [
    *ALGORITHMS,
    *SIGNATURES,
    *KEYS_OF_THE_TOKENS_OWN,
    *SPELLINGS,
    *OTHER_ALGORITHMS_OF_THE_KEY,
]
FORGERIES = [*WITH_A_KEY, *WITHOUT_A_KEY]
