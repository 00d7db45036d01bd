"""M2M tokens as JWTs, and the key set that verifies them."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx

from clerk_m2m import BackendAPIError, ConfigurationError, Secret, TokenInvalidError
from clerk_m2m.credentials import M2M_CATEGORY, M2M_JWT_TYPES, UnverifiedJWT, split_jwt
from clerk_m2m.verification.signature import verify_signature
from live.checks.m2m_tokens import EMULATOR
from live.checks.machines import unit
from live.finding import Finding, check, compare, different, unknown
from live.stage import Stage

CREDENTIALS = "clerk_m2m/credentials.py"
SIGNATURE = "clerk_m2m/verification/signature.py"
OFFLINE = "clerk_m2m/verification/offline.py"

REGISTERED = {"iss", "sub", "exp", "nbf", "iat", "jti"}


async def mint(stage: Stage, **claims: object) -> tuple[UnverifiedJWT, dict[str, Any], Secret, str]:
    """Mint a JWT for the caller; return its parts, its claims, its text and its id."""
    created = await stage.token(token_format="jwt", claims=dict(claims) or None)
    jwt = split_jwt(created.token.reveal())
    return jwt, json.loads(jwt.payload), created.token, created.id


@check(
    "the header of an M2M JWT",
    assumed=f"alg RS256; kid ins_…; cat {M2M_CATEGORY} or none; typ JWT or none",
    where=(CREDENTIALS, SIGNATURE),
)
async def header(stage: Stage) -> Finding:
    jwt, _, _, _ = await mint(stage)
    kid, cat, typ = (jwt.header.get(name) for name in ("kid", "cat", "typ"))
    form = "ins_…" if isinstance(kid, str) and kid.startswith("ins_") else "of another form"
    kind = typ.lower() if isinstance(typ, str) else typ
    as_assumed = (
        jwt.header.get("alg") == "RS256"
        and form == "ins_…"
        and cat in (None, M2M_CATEGORY)
        and kind in M2M_JWT_TYPES
    )
    more = sorted(set(jwt.header) - {"alg", "kid", "cat", "typ"})
    seen = f"alg {jwt.header.get('alg')}; kid {form}; cat {cat}; typ {typ}; besides: {more or '-'}"
    return compare(as_assumed, seen)


@check(
    "the claims of an M2M JWT",
    assumed="iss, sub, exp, nbf, iat, jti and no other; sub is the machine, jti the token's id; "
    "instants are seconds",
    where=(SIGNATURE, OFFLINE),
)
async def claims(stage: Stage) -> Finding:
    _, found, _, token_id = await mint(stage)
    units = {name: unit(found.get(name)) for name in ("exp", "nbf", "iat")}
    as_assumed = (
        set(found) == REGISTERED
        and found["sub"] == stage.caller.id
        and found["jti"] == token_id
        and set(units.values()) == {"seconds"}
    )
    seen = [
        ", ".join(sorted(found)),
        f"sub is {'the machine' if found.get('sub') == stage.caller.id else 'something else'}",
        f"jti is {'the id' if found.get('jti') == token_id else 'something else'}",
        ", ".join(f"{name}: {of}" for name, of in units.items()),
    ]
    return compare(as_assumed, "; ".join(seen))


@check(
    "aud and scopes that the caller chooses",
    assumed="the JWT has them as the caller wrote them, so they must not authorize",
    where=(OFFLINE, "docs/scope-policy.md"),
)
async def chosen(stage: Stage) -> Finding:
    wanted = {"aud": [stage.stranger.id], "scopes": stage.stranger.id}
    _, found, _, _ = await mint(stage, **wanted)
    same = {name: found.get(name) == value for name, value in wanted.items()}
    seen = "; ".join(
        f"{name}: {'as written' if kept else 'not as written'}" for name, kept in same.items()
    )
    return compare(all(same.values()), seen)


@check("sub that the caller chooses", assumed="refused with 400, or ignored", where=EMULATOR)
async def chosen_subject(stage: Stage) -> Finding:
    body = {"token_format": "jwt", "claims": {"sub": stage.stranger.id}}
    answer = await stage.calls.post("/v1/m2m_tokens", body, key=stage.caller.secret_key)
    token = answer.get("token")
    if not isinstance(token, str):
        return compare(answer.is_error(400), str(answer))
    subject = json.loads(split_jwt(token).payload).get("sub")
    taken = subject == stage.stranger.id
    return compare(not taken, f"{answer}; {'taken' if taken else 'not taken'}")


@check(
    "the signature of an M2M JWT",
    assumed="verifies with the key of its kid in GET /v1/jwks (kty RSA, use sig, alg RS256)",
    where=(SIGNATURE, "clerk_m2m/verification/key_set.py"),
)
async def signature(stage: Stage) -> Finding:
    _, _, token, _ = await mint(stage)
    keys = await stage.clerk.jwks.get()
    kinds = sorted({f"{k.get('kty')}/{k.get('use')}/{k.get('alg')}" for k in keys["keys"]})
    seen = f"{len(keys['keys'])} in the set: {', '.join(kinds)}"
    try:
        verify_signature(token.reveal(), keys)
    except TokenInvalidError as exc:
        return different(f"{seen}; does not verify: {exc}")
    return compare(True, f"{seen}; verifies")


@check(
    "the public key set",
    assumed="iss and /.well-known/jwks.json give the same keys without a secret key",
    where=("clerk_m2m/backend_api/jwks.py", "clerk_m2m/settings.py"),
)
async def public_keys(stage: Stage) -> Finding:
    _, found, _, _ = await mint(stage)
    issuer = str(found.get("iss"))
    # An emulator's issuer is made up, and it publishes its keys itself.
    base = issuer if stage.calls.api_url.startswith("https://") else stage.calls.api_url
    if not re.fullmatch(r"https?://[A-Za-z0-9.\-:\[\]]+", base):
        return different("the issuer is not an https address")
    try:
        public = await stage.clerk.jwks.get_public(f"{base}/.well-known/jwks.json")
    except (BackendAPIError, ConfigurationError, httpx.HTTPError) as exc:
        return unknown(f"{type(exc).__name__} from the issuer's address")
    ours = await stage.clerk.jwks.get()
    kids = [sorted(str(key.get("kid")) for key in each["keys"]) for each in (public, ours)]
    return compare(kids[0] == kids[1], f"{len(kids[0])} public, {len(kids[1])} of the Backend API")


@check(
    "an M2M JWT at verifyM2MToken",
    assumed="200 with the instance's key and no scopes; 404 with a machine's key",
    where=(EMULATOR, "docs/emulator.md"),
)
async def online(stage: Stage) -> Finding:
    _, _, token, _ = await mint(stage)
    instance = await stage.verify(token)
    machine = await stage.verify(token, key=stage.callee.secret_key)
    as_assumed = instance.status == 200 and not instance.get("scopes") and machine.is_error(404)
    scopes = "with scopes" if instance.get("scopes") else "without scopes"
    return compare(as_assumed, f"instance's key: {instance} {scopes}; machine's key: {machine}")
