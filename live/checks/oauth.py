"""OAuth access tokens, which the Backend API can verify but not create."""

from __future__ import annotations

from live.calls import Answer
from live.checks.answers import OAUTH_VERIFY, made_up
from live.checks.m2m_tokens import ONLINE
from live.checks.machines import PARSING
from live.finding import Finding, check, compare, different, lacking
from live.stage import Stage

EMULATOR = "clerk_m2m/emulator/oauth_tokens.py"
CLIENT = "clerk_m2m/backend_api/oauth_tokens.py"
INSTANTS = ("expiration", "created_at", "updated_at")
NEEDS_TOKEN = "not tried: --oauth-token-file names a file with a live OAuth access token"


@check(
    "an OAuth access token that does not exist",
    assumed="404 or 400 in Clerk's error format, or 200 with active false",
    where=(ONLINE, CLIENT),
)
async def unknown_token(stage: Stage) -> Finding:
    answer = await stage.calls.post(OAUTH_VERIFY, {"access_token": made_up("oat_")})
    inactive = answer.status == 200 and answer.get("active") is False
    active = " with active false" if inactive else ""
    return compare(answer.is_error(400, 404) or inactive, f"{answer}{active}")


@check(
    "instants of OAuth access tokens",
    assumed="seconds (the package also reads milliseconds)",
    where=(PARSING, EMULATOR),
)
async def instants(stage: Stage) -> Finding:
    answer = await _verified(stage)
    if answer is None:
        return lacking(NEEDS_TOKEN)
    if answer.status != 200 or answer.get("active") is False:
        return lacking(f"not tried: the token in the file is not live ({answer})")
    units = {name: _unit(answer.get(name)) for name in INSTANTS if answer.get(name) is not None}
    seen = ", ".join(f"{name}: {found}" for name, found in units.items())
    return compare(set(units.values()) == {"seconds"}, seen or "no instant")


@check(
    "the fields of a verification of an OAuth access token",
    assumed="the contract's fields, which the package can read; aud if the token has one",
    where=(PARSING, ONLINE),
)
async def fields(stage: Stage) -> Finding:
    token = stage.options.oauth_token
    if token is None:
        return lacking(NEEDS_TOKEN)
    read = await stage.clerk.oauth_access_tokens.verify(token)
    if read is None:
        return lacking("not tried: the token in the file is not active")
    answer = await _verified(stage)
    if answer is None or not isinstance(answer.body, dict):
        return different("no JSON object")
    return compare(read.live, f"{', '.join(sorted(answer.body))}; {len(read.audience)} audiences")


async def _verified(stage: Stage) -> Answer | None:
    token = stage.options.oauth_token
    return await stage.calls.post(OAUTH_VERIFY, {"access_token": token}) if token else None


def _unit(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "no number"
    return "seconds" if value < 1e11 else "milliseconds"
