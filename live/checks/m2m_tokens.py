"""Live opaque M2M tokens: minted, verified, listed, reused."""

from __future__ import annotations

import re

from live.calls import Answer
from live.checks.answers import listed, made_up
from live.checks.machines import PARSING, unit
from live.finding import Finding, check, compare
from live.stage import DEFAULT_TTL, TOKEN_TTL, VERIFY, Stage

CLIENT = "clerk_m2m/backend_api/m2m_tokens.py"
ONLINE = "clerk_m2m/verification/online.py"
MINTING = "clerk_m2m/outbound/minting.py"
EMULATOR = "clerk_m2m/emulator/m2m_tokens.py"

_OPAQUE = re.compile(r"mt_[A-Za-z0-9_\-]{16,}")


@check(
    "an opaque token as it is minted",
    assumed="mt_ and 16 word characters or more; scopes are the machines that it may call",
    where=(PARSING, "clerk_m2m/credentials.py"),
)
async def minted(stage: Stage) -> Finding:
    token = await stage.token(claims={"check": 1})
    none = await stage.token(stage.stranger)
    text = token.token.reveal()
    form = "of that form" if _OPAQUE.fullmatch(text) else "of another form"
    as_assumed = (
        _OPAQUE.fullmatch(text) is not None
        and token.scopes == (stage.callee.id,)
        and none.scopes == ()
        and token.claims == {"check": 1}
        and token.live
    )
    seen = [
        f"{form} ({len(text)} characters)",
        f"{len(token.scopes)} scope, without an edge {len(none.scopes)}",
        "its claims" if token.claims == {"check": 1} else "other claims",
    ]
    return compare(as_assumed, "; ".join(seen))


@check(
    "instants of M2M tokens",
    assumed="milliseconds; expiration minus created_at is the lifetime in the request",
    where=(PARSING, MINTING),
)
async def instants(stage: Stage) -> Finding:
    body = {"seconds_until_expiration": TOKEN_TTL}
    answer = await stage.calls.post("/v1/m2m_tokens", body, key=stage.caller.secret_key)
    units = {name: unit(answer.get(name)) for name in ("created_at", "expiration")}
    life = _life(answer)
    seen = ", ".join(f"{name}: {found}" for name, found in units.items())
    as_assumed = set(units.values()) == {"milliseconds"} and life == f"{TOKEN_TTL} s"
    return compare(as_assumed, f"{answer}; {seen}; life {life} of {TOKEN_TTL} s")


def _life(answer: Answer) -> str:
    created, end = answer.get("created_at"), answer.get("expiration")
    if end is None:
        return "without end"
    if not isinstance(created, int | float) or not isinstance(end, int | float):
        return "unreadable"
    return f"{(end - created) / 1000:.0f} s"


@check(
    "the lifetime of a token if the request has none",
    assumed="the machine's default_token_ttl; also for null (SDK 3.25: never expires)",
    where=(CLIENT, EMULATOR),
)
async def default_life(stage: Stage) -> Finding:
    key, lives = stage.caller.secret_key, {}
    for what, body in {"left out": {}, "null": {"seconds_until_expiration": None}}.items():
        answer = await stage.calls.post("/v1/m2m_tokens", body, key=key)
        lives[what] = _life(answer) if answer.status < 300 else str(answer)
        token_id = answer.get("id")
        if what == "null" and isinstance(token_id, str):
            await stage.clerk.m2m_tokens.revoke(token_id)  # it may never expire
    seen = "; ".join(f"{what}: {life}" for what, life in lives.items())
    return compare(set(lives.values()) == {f"{DEFAULT_TTL} s"}, seen)


@check(
    "a live token, verified with each key",
    assumed="instance, callee: 200; caller, or a machine that it may not call: 404, not 401",
    where=(ONLINE, "clerk_m2m/backend_api/problems.py", "docs/answers.md"),
)
async def by_key(stage: Stage) -> Finding:
    token = (await stage.token()).token
    answers = {
        "instance": await stage.verify(token),
        "callee": await stage.verify(token, key=stage.callee.secret_key),
        "stranger": await stage.verify(token, key=stage.stranger.secret_key),
        "caller": await stage.verify(token, key=stage.caller.secret_key),
    }
    as_assumed = all(answers[name].status == 200 for name in ("instance", "callee")) and all(
        answers[name].is_error(404) for name in ("stranger", "caller")
    )
    return compare(as_assumed, listed(answers))


@check(
    "the fields of a verification",
    assumed="scopes, claims and expiration as at the mint, revoked and expired false; no token",
    where=(ONLINE, PARSING),
)
async def verified(stage: Stage) -> Finding:
    token = await stage.token(claims={"check": [1, None]})
    answer = await stage.verify(token.token, key=stage.callee.secret_key)
    read = await stage.clerk.m2m_tokens.verify(token.token)
    same = {
        "scopes": answer.get("scopes") == list(token.scopes),
        "claims": answer.get("claims") == {"check": [1, None]},
        "expiration": read.expires_at == token.expires_at,
        "flags": (answer.get("revoked"), answer.get("expired")) == (False, False),
        "no token": answer.get("token") is None,
    }
    return compare(all(same.values()), "; ".join(f"{k}: {_yes(v)}" for k, v in same.items()))


def _yes(value: bool) -> str:
    return "as assumed" if value else "otherwise"


@check(
    "a token that does not exist",
    assumed="404 for a well-formed one, with either key; 400 or 404 for an ill-formed one",
    where=(ONLINE, "clerk_m2m/backend_api/problems.py"),
)
async def unknown_token(stage: Stage) -> Finding:
    token = made_up("mt_")
    formed = {
        "instance's key": await stage.verify(token),
        "machine's key": await stage.verify(token, key=stage.callee.secret_key),
    }
    others = {
        text: await stage.calls.post(VERIFY, {"token": token})
        for text, token in {"mt_": "mt_", "empty": "", "of a user": "eyJ.eyJ.x"}.items()
    }
    as_assumed = all(each.is_error(404) for each in formed.values()) and all(
        each.is_error(400, 404) for each in others.values()
    )
    return compare(as_assumed, listed(formed | others))


@check(
    "a list of tokens",
    assumed="limit=100 is accepted, limit=101 is 400; newest first; a machine lists its own",
    where=(CLIENT, "clerk_m2m/emulator/m2m_token_operations.py"),
)
async def pages(stage: Stage) -> Finding:
    made = [(await stage.token(stage.stranger)).id for _ in range(2)]
    query = {"subject": stage.stranger.id}
    most = await stage.calls.get("/v1/m2m_tokens", **query, limit="100")
    over = await stage.calls.get("/v1/m2m_tokens", **query, limit="101")
    own = await stage.calls.raw("GET", "/v1/m2m_tokens", key=stage.stranger.secret_key, query=query)
    listed_ids = most.get("m2m_tokens")
    ids = [each.get("id") for each in listed_ids] if isinstance(listed_ids, list) else []
    newest_first = ids[:2] == made[::-1]
    as_assumed = (
        (most.status, own.status) == (200, 200)
        and over.is_error(400)
        and newest_first
        and isinstance(most.get("total_count"), int)
    )
    order = "newest first" if newest_first else "in another order"
    return compare(as_assumed, f"100: {most}, {order}; 101: {over}; by its own key: {own}")


@check(
    "min_remaining_ttl_seconds",
    assumed="gives the same token again, with the created_at of its mint, for equal claims only; "
    "400 if it is not less than the lifetime",
    where=(MINTING, EMULATOR),
)
async def reuse(stage: Stage) -> Finding:
    machine = await stage.machine("reuse")

    async def mint(remaining: int, **claims: int) -> Answer:
        body = {
            "seconds_until_expiration": TOKEN_TTL,
            "min_remaining_ttl_seconds": remaining,
            "claims": claims or None,
        }
        return await stage.calls.post("/v1/m2m_tokens", body, key=machine.secret_key)

    first, again, other = await mint(60), await mint(60), await mint(60, other=1)
    over = await mint(TOKEN_TTL)
    token = first.get("token")
    same = isinstance(token, str) and again.get("token") == token
    distinct = other.get("token") not in (None, token)
    born = first.get("created_at") == again.get("created_at")
    seen = [
        f"again: {again}, {'the same' if same else 'another'} token, "
        f"{'its' if born else 'another'} created_at",
        f"other claims: {'another' if distinct else 'the same'} token",
        f"not less than the lifetime: {over}",
    ]
    return compare(same and distinct and born and over.is_error(400), "; ".join(seen))
