"""The operations on API keys. Each path is written here once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from clerk_m2m.backend_api import parsing, resources
from clerk_m2m.backend_api.calls import (
    UNSET,
    Answered,
    BackendAPI,
    Unset,
    items,
    reading,
    segment,
    verifying,
    writing,
)
from clerk_m2m.backend_api.revocations import Revocation
from clerk_m2m.backend_api.walking import walk
from clerk_m2m.secret import Secret
from clerk_m2m.transport.gate import CallDemand


async def verify_api_key(
    api: BackendAPI, secret: Secret, *, demand: CallDemand | None = None
) -> Answered[resources.ApiKey]:
    """Ask Clerk about an API key (`verifyApiKey`); billed."""
    url, key = "/v1/api_keys/verify", api.instance_key()
    return await api.send(
        verifying("verifyApiKey", url, key, {"secret": secret}), parsing.read_api_key, demand=demand
    )


class ApiKeys:
    """API keys of users, organizations and machines. Needs the instance's key."""

    def __init__(self, api: BackendAPI) -> None:
        self._api = api

    async def create(
        self,
        name: str,
        *,
        subject: str,
        type: str | None = None,
        scopes: Iterable[str] = (),
        claims: Any = None,
        description: str | None = None,
        created_by: str | None = None,
        seconds_until_expiration: float | None = None,
    ) -> resources.CreatedApiKey:
        """Create an API key for `subject` (`createApiKey`); the result holds its secret.

        `type` None means `api_key`, Clerk's default; `list` and `iter` return keys of one type.
        `claims` is any JSON.
        """
        body = {
            "type": UNSET if type is None else type,
            "name": name,
            "subject": subject,
            "scopes": items("scopes", scopes),
            "claims": claims,
            "description": description,
            "created_by": created_by,
            "seconds_until_expiration": seconds_until_expiration,
        }
        key = self._api.instance_key()
        return await self._api.run(
            writing("createApiKey", "POST", "/v1/api_keys", key, body), parsing.read_created_api_key
        )

    async def list(
        self,
        subject: str,
        *,
        type: str | None = None,
        include_invalid: bool = False,
        limit: int = 10,
        offset: int = 0,
        query: str | None = None,
    ) -> resources.Page[resources.ApiKey]:
        """Return a page of a subject's API keys (`getApiKeys`), newest first, at most 100.

        `type` None means `api_key`, Clerk's default; `query` is an exact id or part of a name.
        """
        call = reading(
            "getApiKeys",
            "/v1/api_keys",
            self._api.instance_key(),
            {
                "subject": subject,
                "type": type,
                "include_invalid": include_invalid,
                "limit": limit,
                "offset": offset,
                "query": query,
            },
            items=limit,
        )
        return await self._api.run(
            call, lambda page: parsing.read_page(page, "data", parsing.read_api_key)
        )

    async def iter(
        self,
        subject: str,
        *,
        type: str | None = None,
        include_invalid: bool = False,
        page_size: int = 100,
        query: str | None = None,
    ) -> AsyncIterator[resources.ApiKey]:
        """Iterate over all of a subject's API keys, each once; `type` and `query` as in `list`.

        All pages are read before the first key is yielded, so the loop body may revoke or delete
        keys. Keys that are created during the reading may be missing.
        """

        async def page(limit: int, offset: int) -> resources.Page[resources.ApiKey]:
            return await self.list(
                subject,
                type=type,
                include_invalid=include_invalid,
                limit=limit,
                offset=offset,
                query=query,
            )

        async for api_key in walk(page, page_size):
            yield api_key

    async def get(self, api_key_id: str) -> resources.ApiKey:
        """Return one API key (`getApiKey`)."""
        url = f"/v1/api_keys/{segment(api_key_id)}"
        return await self._api.run(
            reading("getApiKey", url, self._api.instance_key()), parsing.read_api_key
        )

    async def update(
        self,
        api_key_id: str,
        *,
        scopes: Iterable[str] | Unset = UNSET,
        claims: Any = UNSET,
        description: str | Unset | None = UNSET,
        subject: str | Unset = UNSET,
        seconds_until_expiration: float | Unset | None = UNSET,
    ) -> resources.ApiKey:
        """Change an API key (`updateApiKey`). A missing argument keeps the value, None clears it.

        `claims` is any JSON. Values that were read from Clerk can be written back unchanged. After
        the call, verifiers that watch this client drop their cached verdicts of the key, so a
        removed permission is gone at once.
        """
        body = {
            "scopes": UNSET if isinstance(scopes, Unset) else items("scopes", scopes),
            "claims": claims,
            "description": description,
            "subject": subject,
            "seconds_until_expiration": seconds_until_expiration,
        }
        url, key = f"/v1/api_keys/{segment(api_key_id)}", self._api.instance_key()
        ends = Revocation(token_id=api_key_id)
        call = writing("updateApiKey", "PATCH", url, key, body)
        return await self._api.run(call, parsing.read_api_key, ends=ends)

    async def delete(self, api_key_id: str) -> None:
        """Delete an API key (`deleteApiKey`)."""
        url, key = f"/v1/api_keys/{segment(api_key_id)}", self._api.instance_key()
        ends = Revocation(token_id=api_key_id)
        await self._api.run(
            writing("deleteApiKey", "DELETE", url, key), parsing.read_deleted, ends=ends
        )

    async def get_secret(self, api_key_id: str) -> Secret:
        """Return an API key's secret (`getApiKeySecret`)."""
        url = f"/v1/api_keys/{segment(api_key_id)}/secret"
        call = reading("getApiKeySecret", url, self._api.instance_key())
        return await self._api.run(call, parsing.read_secret)

    async def revoke(
        self, api_key_id: str, *, revocation_reason: str | None = None
    ) -> resources.ApiKey:
        """Revoke an API key (`revokeApiKey`)."""
        url = f"/v1/api_keys/{segment(api_key_id)}/revoke"
        body, key = {"revocation_reason": revocation_reason}, self._api.instance_key()
        ends = Revocation(token_id=api_key_id)
        call = writing("revokeApiKey", "POST", url, key, body)
        return await self._api.run(call, parsing.read_api_key, ends=ends)

    async def verify(self, secret: str | Secret) -> resources.ApiKey:
        """Ask Clerk about an API key (`verifyApiKey`); billed. Check `live` of the result."""
        secret = Secret(secret)  # first of all: tracebacks may show the locals of this frame
        return (await verify_api_key(self._api, secret)).value
