"""The operations on API keys. Each path is written here once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from clerk_m2m.backend_api import parsing as wire
from clerk_m2m.backend_api import resources as records
from clerk_m2m.backend_api.operations import (
    UNSET,
    OperationGroup,
    Revocation,
    Unset,
    items,
    segment,
    walk,
)
from clerk_m2m.secret import Secret


class ApiKeys(OperationGroup):
    """API keys of users, organizations and machines. Takes the instance's key."""

    async def create(
        self,
        name: str,
        *,
        subject: str,
        scopes: Iterable[str] = (),
        claims: Mapping[str, Any] | None = None,
        description: str | None = None,
        created_by: str | None = None,
        seconds_until_expiration: float | None = None,
    ) -> records.CreatedApiKey:
        """Create an API key for `subject` (`createApiKey`); gives its secret."""
        body = {
            "name": name,
            "subject": subject,
            "scopes": items("scopes", scopes),
            "claims": None if claims is None else dict(claims),
            "description": description,
            "created_by": created_by,
            "seconds_until_expiration": seconds_until_expiration,
        }
        key = self._session.instance_key()
        return wire.read_created_api_key(
            await self._send("createApiKey", "POST", "/v1/api_keys", key, body)
        )

    async def list(
        self,
        subject: str,
        *,
        include_invalid: bool = False,
        limit: int = 10,
        offset: int = 0,
        query: str | None = None,
    ) -> records.Page[records.ApiKey]:
        """Give a page of a subject's API keys (`getApiKeys`)."""
        answer = await self._get(
            "getApiKeys",
            "/v1/api_keys",
            self._session.instance_key(),
            {
                "subject": subject,
                "include_invalid": include_invalid,
                "limit": limit,
                "offset": offset,
                "query": query,
            },
        )
        return wire.read_page(answer, "data", wire.read_api_key)

    async def iter(
        self, subject: str, *, include_invalid: bool = False, page_size: int = 100
    ) -> AsyncIterator[records.ApiKey]:
        """Walk all pages of a subject's API keys."""

        async def page(limit: int, offset: int) -> records.Page[records.ApiKey]:
            return await self.list(
                subject, include_invalid=include_invalid, limit=limit, offset=offset
            )

        async for api_key in walk(page, page_size):
            yield api_key

    async def get(self, api_key_id: str) -> records.ApiKey:
        """Give one API key (`getApiKey`)."""
        url = f"/v1/api_keys/{segment(api_key_id)}"
        return wire.read_api_key(await self._get("getApiKey", url, self._session.instance_key()))

    async def update(
        self,
        api_key_id: str,
        *,
        scopes: Iterable[str] | Unset = UNSET,
        claims: Mapping[str, Any] | Unset | None = UNSET,
        description: str | Unset | None = UNSET,
        subject: str | Unset = UNSET,
        seconds_until_expiration: float | Unset | None = UNSET,
    ) -> records.ApiKey:
        """Change an API key (`updateApiKey`); what is not given stays, None clears.

        Verdicts of the key are forgotten by the verifiers that listen, so that a permission taken
        away is gone at once.
        """
        body = {
            "scopes": UNSET if isinstance(scopes, Unset) else items("scopes", scopes),
            "claims": dict(claims) if isinstance(claims, Mapping) else claims,
            "description": description,
            "subject": subject,
            "seconds_until_expiration": seconds_until_expiration,
        }
        url, key = f"/v1/api_keys/{segment(api_key_id)}", self._session.instance_key()
        ends = Revocation(token_id=api_key_id)
        answer = await self._send("updateApiKey", "PATCH", url, key, body, ends=ends)
        return wire.read_api_key(answer)

    async def delete(self, api_key_id: str) -> None:
        """Delete an API key (`deleteApiKey`)."""
        url, key = f"/v1/api_keys/{segment(api_key_id)}", self._session.instance_key()
        ends = Revocation(token_id=api_key_id)
        wire.read_deleted(await self._send("deleteApiKey", "DELETE", url, key, ends=ends))

    async def get_secret(self, api_key_id: str) -> Secret:
        """Give an API key's secret (`getApiKeySecret`)."""
        url = f"/v1/api_keys/{segment(api_key_id)}/secret"
        answer = await self._get("getApiKeySecret", url, self._session.instance_key())
        return wire.read_secret(answer)

    async def revoke(
        self, api_key_id: str, *, revocation_reason: str | None = None
    ) -> records.ApiKey:
        """Revoke an API key (`revokeApiKey`)."""
        url = f"/v1/api_keys/{segment(api_key_id)}/revoke"
        body, key = {"revocation_reason": revocation_reason}, self._session.instance_key()
        ends = Revocation(token_id=api_key_id)
        answer = await self._send("revokeApiKey", "POST", url, key, body, ends=ends)
        return wire.read_api_key(answer)

    async def verify(self, secret: str | Secret, *, background: bool = False) -> records.ApiKey:
        """Ask Clerk about an API key (`verifyApiKey`); billed. See `live` of the answer."""
        secret = Secret(secret)  # first of all: tracebacks may show the locals of this frame
        url, key = "/v1/api_keys/verify", self._session.instance_key()
        body = {"secret": secret}
        return wire.read_api_key(await self._verify("verifyApiKey", url, key, body, background))
