"""API keys of a machine, and of a user if `--user` is given."""

from __future__ import annotations

import re

from clerk_m2m import Secret
from clerk_m2m.backend_api.parsing import API_KEY_ID
from live.calls import Answer
from live.checks.answers import API_KEY_VERIFY, listed, made_up
from live.checks.dead_tokens import ENDED, SECONDS, is_ended, says
from live.checks.m2m_tokens import ONLINE
from live.checks.machines import PARSING, unit
from live.finding import Finding, check, compare, different, lacking
from live.stage import KEYS_LABEL, TOKEN_TTL, Stage

CLIENT = "clerk_m2m/backend_api/api_keys.py"
EMULATOR = "clerk_m2m/emulator/api_key_operations.py"
NEEDS_USER = "not tried: give --user user_… for an API key of a user"

_SECRET = re.compile(r"ak_[A-Za-z0-9\-._~+/]{16,}=*")


async def machine_key(stage: Stage, *, seconds: float = TOKEN_TTL) -> Answer:
    """Create an API key of a machine that the run creates for API keys."""
    if stage.keys_machine is None:
        stage.keys_machine = (await stage.machine(KEYS_LABEL)).id
    return await create(stage, stage.keys_machine, seconds=seconds)


async def create(
    stage: Stage, subject: str, *, seconds: float = TOKEN_TTL, version: str | None = None
) -> Answer:
    """Create an API key, which is found by its name and deleted at the end."""
    body = {
        "name": f"{stage.prefix}key",
        "subject": subject,
        "scopes": ["live:check"],
        "claims": {"check": 1},
        "seconds_until_expiration": seconds,
    }
    headers = {"Clerk-API-Version": version} if version else None
    key = stage.calls.secret_key
    return await stage.calls.raw("POST", "/v1/api_keys", key=key, body=body, headers=headers)


async def usable_key(stage: Stage, *, seconds: float = TOKEN_TTL) -> Answer:
    """Create a key of the user if there is one, else of the machine."""
    if stage.options.user:
        return await create(stage, stage.options.user, seconds=seconds)
    return await machine_key(stage, seconds=seconds)


def none_made(answer: Answer) -> Finding:
    """Return the finding of a check for which no API key could be created."""
    return lacking(f"not tried: no API key could be created ({answer}); see --user")


async def verify(stage: Stage, secret: object) -> Answer:
    """Verify an API key at Clerk."""
    return await stage.calls.post(API_KEY_VERIFY, {"secret": secret})


@check(
    "an API key of a machine",
    assumed="createApiKey takes a machine as subject; 200, and 201 for a client of 2025-11-10",
    where=(CLIENT, EMULATOR, "clerk_m2m/verification/policy.py"),
)
async def of_machine(stage: Stage) -> Finding:
    answer = await machine_key(stage)
    if answer.is_error(400, 422):
        return different(str(answer))
    if answer.status >= 300 or stage.keys_machine is None:
        return lacking(f"not tried: this instance creates no API keys ({answer})")
    older = await create(stage, stage.keys_machine, version="2025-11-10")
    as_assumed = (answer.status, older.status) == (200, 201)
    return compare(as_assumed, f"{answer}; for a client of 2025-11-10: {older}")


@check(
    "an API key of a user",
    assumed="createApiKey answers 200; it verifies with the user as subject",
    where=(CLIENT, PARSING, EMULATOR),
)
async def of_user(stage: Stage) -> Finding:
    user = stage.options.user
    if user is None:
        return lacking(NEEDS_USER)
    answer = await create(stage, user)
    verified = await verify(stage, answer.get("secret") or "")
    subject = "the user" if verified.get("subject") == user else "something else"
    as_assumed = answer.status == 200 and verified.status == 200 and subject == "the user"
    return compare(as_assumed, f"created: {answer}; verified: {verified}, subject {subject}")


@check(
    "the fields of an API key and of its verification",
    assumed="id ak_ and 32 hex, secret ak_ and longer, type api_key, milliseconds; the same on "
    "verification, without the secret",
    where=(PARSING, ONLINE, "clerk_m2m/credentials.py"),
)
async def fields(stage: Stage) -> Finding:
    answer = await usable_key(stage)
    secret = answer.get("secret")
    if not isinstance(secret, str):
        return none_made(answer)
    verified = await verify(stage, secret)
    read = await stage.clerk.api_keys.verify(secret)
    units = {unit(answer.get(name)) for name in ("created_at", "expiration")}
    same = {
        "id": API_KEY_ID.fullmatch(str(answer.get("id"))) is not None and read.id != secret,
        "secret": _SECRET.fullmatch(secret) is not None,
        "type": answer.get("type") == verified.get("type") == "api_key",
        "milliseconds": units == {"milliseconds"},
        "scopes": read.scopes == ("live:check",),
        "claims": read.claims == {"check": 1},
        "no secret": verified.get("secret") is None,
    }
    otherwise = [name for name, kept in same.items() if not kept]
    seen = f"created: {answer}, verified: {verified}; otherwise: {', '.join(otherwise) or '-'}"
    return compare(not otherwise, seen)


@check(
    "an API key that does not exist",
    assumed="404; also for a machine's secret key, which looks like an API key",
    where=(ONLINE, EMULATOR),
)
async def unknown_key(stage: Stage) -> Finding:
    answers = {
        "made up": await verify(stage, made_up("ak_")),
        "a machine's key": await verify(stage, stage.stranger.secret_key),
    }
    return compare(all(each.is_error(404) for each in answers.values()), listed(answers))


@check(
    "a list of API keys",
    assumed="limit=100 is accepted, limit=101 is 400",
    where=(CLIENT, EMULATOR),
)
async def pages(stage: Stage) -> Finding:
    subject = stage.options.user or stage.stranger.id
    most = await stage.calls.get("/v1/api_keys", subject=subject, limit="100")
    over = await stage.calls.get("/v1/api_keys", subject=subject, limit="101")
    return compare(most.status == 200 and over.is_error(400), f"100: {most}; 101: {over}")


@check("a revoked API key", assumed=f"{ENDED} `revoked`, at once", where=(ONLINE, EMULATOR))
async def revoked(stage: Stage) -> Finding:
    answer = await usable_key(stage)
    if answer.status >= 300:
        return none_made(answer)
    await stage.clerk.api_keys.revoke(str(answer.get("id")))
    verified = await verify(stage, Secret(str(answer.get("secret"))))
    return compare(is_ended(verified, "revoked"), says(verified, "revoked"))


@check("an expired API key", assumed=f"{ENDED} `expired`", where=(ONLINE, EMULATOR))
async def expired(stage: Stage) -> Finding:
    answer = await usable_key(stage, seconds=SECONDS)
    if answer.status >= 300:
        return none_made(answer)
    await stage.sleep(SECONDS + 1)
    verified = await verify(stage, Secret(str(answer.get("secret"))))
    return compare(is_ended(verified, "expired"), says(verified, "expired"))


@check(
    "a deleted API key",
    assumed="before, its secret can be read; after, its verification is 404",
    where=(CLIENT, ONLINE),
)
async def deleted(stage: Stage) -> Finding:
    answer = await usable_key(stage)
    if answer.status >= 300:
        return none_made(answer)
    key_id, secret = str(answer.get("id")), Secret(str(answer.get("secret")))
    same = await stage.clerk.api_keys.get_secret(key_id) == secret
    await stage.clerk.api_keys.delete(key_id)
    verified = await verify(stage, secret)
    seen = f"secret read again: {'the same' if same else 'another'}; verified: {verified}"
    return compare(same and verified.is_error(404), seen)
