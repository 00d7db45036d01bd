"""The operations on M2M tokens. Each path is written here once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

from clerk_m2m.backend_api import parsing, resources
from clerk_m2m.backend_api.calls import (
    UNSET,
    Answered,
    BackendAPI,
    reading,
    segment,
    verifying,
    writing,
)
from clerk_m2m.backend_api.key_source import key_source
from clerk_m2m.backend_api.revocations import Revocation
from clerk_m2m.backend_api.walking import walk
from clerk_m2m.clock import Clock
from clerk_m2m.secret import Secret, hidden
from clerk_m2m.transport.gate import CallDemand


async def verify_m2m_token(
    api: BackendAPI, token: Secret, *, demand: CallDemand | None = None
) -> Answered[resources.M2MToken]:
    """Ask Clerk about an opaque M2M token (`verifyM2MToken`); billed."""
    url, key = "/v1/m2m_tokens/verify", api.verifying_key()
    call = verifying("verifyM2MToken", url, key, {"token": token})
    return await api.send(call, parsing.read_m2m_token, demand=demand)


class M2MTokens:
    """M2M tokens.

    A client with both keys lists and revokes with the instance's key, which reaches the tokens of
    every machine. It verifies and mints with the machine's key.
    """

    def __init__(self, api: BackendAPI) -> None:
        self._api = api

    async def create(
        self,
        *,
        token_format: Literal["opaque", "jwt"] = "opaque",
        seconds_until_expiration: float | None = None,
        claims: Mapping[str, Any] | None = None,
        min_remaining_ttl_seconds: int | None = None,
        machine_secret_key: str | Secret | None = None,
    ) -> resources.CreatedM2MToken:
        """Mint a token (`createM2MToken`) for the machine whose secret key this client has.

        `seconds_until_expiration` None means the machine's default. With
        `min_remaining_ttl_seconds`, Clerk may return an existing token with the same claims and
        scopes that lives at least that long.
        """
        # First of all: tracebacks may show the locals of this frame.
        machine_secret_key = hidden(machine_secret_key)
        body = {
            "token_format": token_format,
            "seconds_until_expiration": UNSET
            if seconds_until_expiration is None
            else seconds_until_expiration,
            "claims": UNSET if claims is None else claims,
            "min_remaining_ttl_seconds": UNSET
            if min_remaining_ttl_seconds is None
            else min_remaining_ttl_seconds,
        }
        key = key_source("machine_secret_key", "ak_", machine_secret_key, clock=Clock())
        key = key or self._api.machine_key()
        call = writing("createM2MToken", "POST", "/v1/m2m_tokens", key, body)
        return await self._api.run(call, parsing.read_created_m2m_token)

    async def list(
        self,
        subject: str,
        *,
        revoked: bool = False,
        expired: bool = False,
        limit: int = 10,
        offset: int = 0,
    ) -> resources.Page[resources.M2MToken]:
        """Return a page of a machine's opaque tokens (`getM2MTokens`), newest first, at most 100.

        `revoked` and `expired` include tokens that are revoked or expired.
        """
        call = reading(
            "getM2MTokens",
            "/v1/m2m_tokens",
            self._api.administering_key(),
            {
                "subject": subject,
                "revoked": revoked,
                "expired": expired,
                "limit": limit,
                "offset": offset,
            },
            items=limit,
        )
        return await self._api.run(
            call, lambda page: parsing.read_page(page, "m2m_tokens", parsing.read_m2m_token)
        )

    async def iter(
        self,
        subject: str,
        *,
        revoked: bool = False,
        expired: bool = False,
        page_size: int = 100,
    ) -> AsyncIterator[resources.M2MToken]:
        """Iterate over a machine's opaque tokens, each once; `revoked`, `expired` as in `list`.

        All pages are read before the first token is yielded, so the loop body may revoke tokens.
        Tokens that are minted during the reading may be missing.
        """

        async def page(limit: int, offset: int) -> resources.Page[resources.M2MToken]:
            return await self.list(
                subject, revoked=revoked, expired=expired, limit=limit, offset=offset
            )

        async for token in walk(page, page_size):
            yield token

    async def revoke(
        self, token_id: str, *, revocation_reason: str | None = None
    ) -> resources.M2MToken:
        """Revoke an opaque token (`revokeM2MToken`). A JWT cannot be revoked at Clerk."""
        url = f"/v1/m2m_tokens/{segment(token_id)}/revoke"
        body, key = {"revocation_reason": revocation_reason}, self._api.administering_key()
        ends = Revocation(token_id=token_id)
        call = writing("revokeM2MToken", "POST", url, key, body)
        return await self._api.run(call, parsing.read_m2m_token, ends=ends)

    async def verify(self, token: str | Secret) -> resources.M2MToken:
        """Ask Clerk about an opaque token (`verifyM2MToken`); billed.

        The result may be a revoked or expired token: check `live`.
        """
        token = Secret(token)  # first of all: tracebacks may show the locals of this frame
        return (await verify_m2m_token(self._api, token)).value
