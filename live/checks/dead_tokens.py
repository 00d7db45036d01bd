"""M2M tokens that were revoked or have expired."""

from __future__ import annotations

from live.calls import Answer
from live.checks.m2m_tokens import CLIENT, EMULATOR, ONLINE
from live.finding import Finding, check, compare
from live.stage import Stage

SECONDS = 2
PATIENCE = 10  # seconds: how long a dead token is verified again until it is refused
ENDED = "404 in Clerk's error format, or 200 with its flag"


def says(answer: Answer, flag: str) -> str:
    """Return an answer with its flag as text, such as `200 with revoked true`."""
    value = answer.get(flag)
    return f"{answer} with {flag} {str(value).lower()}" if isinstance(value, bool) else str(answer)


def is_ended(answer: Answer, flag: str) -> bool:
    """Return whether a verification refuses the token, in a form that this package reads."""
    return answer.is_error(404) or (answer.status == 200 and answer.get(flag) is True)


@check("a revoked token", assumed=f"{ENDED} `revoked`, at once", where=(ONLINE, "docs/security.md"))
async def revoked(stage: Stage) -> Finding:
    token = await stage.token()
    before = await stage.verify(token.token)
    await stage.clerk.m2m_tokens.revoke(token.id, revocation_reason="live check")
    waited, answer = 0, await stage.verify(token.token)
    while not is_ended(answer, "revoked") and waited < PATIENCE:
        await stage.sleep(1)
        waited, answer = waited + 1, await stage.verify(token.token)
    by_callee = await stage.verify(token.token, key=stage.callee.secret_key)
    as_assumed = before.status == 200 and waited == 0 and is_ended(by_callee, "revoked")
    seen = f"before: {before}; after {waited} s: {says(answer, 'revoked')}"
    return compare(as_assumed, f"{seen}; with the callee's key: {says(by_callee, 'revoked')}")


@check(
    "an expired token",
    assumed=f"{ENDED} `expired`, and not one second late",
    where=(ONLINE, "clerk_m2m/emulator/instance.py"),
)
async def expired(stage: Stage) -> Finding:
    token = await stage.token(seconds=SECONDS)
    before = await stage.verify(token.token)
    await stage.sleep(SECONDS + 1)
    answer = await stage.verify(token.token)
    by_callee = await stage.verify(token.token, key=stage.callee.secret_key)
    as_assumed = all(is_ended(each, "expired") for each in (answer, by_callee))
    seen = f"before: {before}; {SECONDS + 1} s after its mint: {says(answer, 'expired')}"
    return compare(as_assumed, f"{seen}; with the callee's key: {says(by_callee, 'expired')}")


@check("a token revoked twice", assumed="200, with the first reason", where=(CLIENT, EMULATOR))
async def revoked_twice(stage: Stage) -> Finding:
    token = await stage.token()
    url = f"/v1/m2m_tokens/{token.id}/revoke"
    await stage.calls.post(url, {"revocation_reason": "first"})
    again = await stage.calls.post(url, {"revocation_reason": "second"})
    reason = again.get("revocation_reason")
    kept = reason if reason in ("first", "second") else "no"
    return compare(again.status == 200 and reason == "first", f"{again}, with the {kept} reason")


@check(
    "a list with dead tokens",
    assumed="left out without revoked=true; with it they are listed with their scopes",
    where=(CLIENT, EMULATOR),
)
async def listed_dead(stage: Stage) -> Finding:
    machine = await stage.machine("dead", may_call=[stage.callee.id])
    token = await stage.token(machine)
    await stage.clerk.m2m_tokens.revoke(token.id)
    without = await stage.clerk.m2m_tokens.list(machine.id)
    with_dead = await stage.clerk.m2m_tokens.list(machine.id, revoked=True)
    found = [each.id for each in with_dead]
    scopes = [len(each.scopes) for each in with_dead]
    seen = f"without: {len(without)}; with revoked=true: {len(found)}, scopes of each: {scopes}"
    return compare(not without.items and found == [token.id] and scopes == [1], seen)
