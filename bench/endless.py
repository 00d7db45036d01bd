"""A transport that accepts every token without a server, for rows about many tokens."""

from __future__ import annotations

import json
import secrets

import httpx

from clerk_m2m import Clock, ScopeGraph, Settings, Verifier

CALLEE = "mch_" + "c" * 27
CREATED_AT = 1_780_000_000_000
EXPIRATION = 4_000_000_000_000


def machine_id(number: int) -> str:
    """Return the id of an invented machine."""
    return f"mch_{number:027d}"


def new_token() -> str:
    """Return an invented opaque token."""
    return "mt_" + secrets.token_hex(24)


def verified(subject: str) -> bytes:
    """Return the body of `verifyM2MToken`'s answer for a token of `subject`."""
    body = {
        "object": "machine_to_machine_token",
        "id": "mt_" + secrets.token_hex(16),
        "subject": subject,
        "scopes": [CALLEE],
        "claims": None,
        "revoked": False,
        "revocation_reason": None,
        "expired": False,
        "expiration": EXPIRATION,
        "created_at": CREATED_AT,
        "updated_at": CREATED_AT,
    }
    return json.dumps(body).encode()


class Endless(httpx.AsyncBaseTransport):
    """Answers every verification: the token's holder is one of `callers`, in turn."""

    def __init__(self, callers: int) -> None:
        self._callers = callers
        self.calls = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer as `verifyM2MToken` does."""
        self.calls += 1
        body = verified(machine_id(self.calls % self._callers))
        return httpx.Response(200, stream=httpx.ByteStream(body))


def verifier(
    *,
    callers: int = 10,
    cache_size: int = 10_000,
    graph: ScopeGraph | None = None,
    clock: Clock | None = None,
) -> Verifier:
    """Return a verifier with this transport.

    Its verdicts live for an hour, or for 60 s if a clock is given.
    """
    settings = Settings(
        machine_id=CALLEE,
        machine_secret_key="ak_" + "b" * 40,
        cache_size=cache_size,
        cache_ttl=60.0 if clock else 3600.0,
        graph=graph,
        unknown_rate=1e6,
    )
    return Verifier(settings, transport=Endless(callers), clock=clock)
