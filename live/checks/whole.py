"""The package as a whole: a service's verifier against the instance."""

from __future__ import annotations

from clerk_m2m import RefusalError, Secret, Settings, Verifier
from live.calls import TIMEOUT
from live.finding import Finding, check, compare
from live.stage import Stage

VERIFIER = "clerk_m2m/verification/verifier.py"


async def _code(verifier: Verifier, token: Secret) -> str:
    """Return `admitted`, or the code of the refusal."""
    try:
        await verifier.verify(token.reveal())
    except RefusalError as refusal:
        return refusal.code
    return "admitted"


async def _codes(verifier: Verifier, tokens: dict[str, Secret]) -> dict[str, str]:
    try:
        return {what: await _code(verifier, token) for what, token in tokens.items()}
    finally:
        await verifier.aclose()


@check(
    "a service with its machine's key",
    assumed="accepts the caller; the answer to the stranger is token_invalid",
    where=(VERIFIER, "docs/scope-policy.md"),
)
async def machine_key(stage: Stage) -> Finding:
    settings = Settings(
        machine_id=stage.callee.id,
        machine_secret_key=stage.callee.secret_key,
        api_url=stage.calls.api_url,
        allow_http=True,  # `read_options` has decided whether http is allowed
        timeout=TIMEOUT,
    )
    tokens = {
        "caller": (await stage.token()).token,
        "stranger": (await stage.token(stage.stranger)).token,
    }
    codes = await _codes(Verifier(settings, transport=stage.calls.connection), tokens)
    expected = {"caller": "admitted", "stranger": "token_invalid"}
    return compare(codes == expected, "; ".join(f"{k}: {v}" for k, v in codes.items()))


@check(
    "a service with the instance's key and the live graph",
    assumed="accepts the caller's opaque token and JWT; for the stranger's it is scope_denied",
    where=(VERIFIER, "clerk_m2m/graph/live.py"),
)
async def instance_key(stage: Stage) -> Finding:
    settings = Settings(
        machine_id=stage.callee.id,
        secret_key=stage.calls.secret_key,
        api_url=stage.calls.api_url,
        allow_http=True,
        timeout=TIMEOUT,
    )
    tokens = {
        "caller": (await stage.token()).token,
        "caller's JWT": (await stage.token(token_format="jwt")).token,
        "stranger": (await stage.token(stage.stranger)).token,
        "stranger's JWT": (await stage.token(stage.stranger, token_format="jwt")).token,
    }
    codes = await _codes(Verifier(settings, transport=stage.calls.connection), tokens)
    expected = dict.fromkeys(tokens, "admitted")
    expected |= dict.fromkeys(("stranger", "stranger's JWT"), "scope_denied")
    return compare(codes == expected, "; ".join(f"{k}: {v}" for k, v in codes.items()))
