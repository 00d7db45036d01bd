"""The operation that gives the keys that sign the instance's JWTs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from clerk_m2m.backend_api import parsing
from clerk_m2m.backend_api.calls import Answered, BackendAPI, reading
from clerk_m2m.errors import ConfigurationError
from clerk_m2m.transport.gate import CallDemand


async def get_jwks(
    api: BackendAPI, url: str | None = None, *, demand: CallDemand | None = None
) -> Answered[Mapping[str, Any]]:
    """Get the key set (`GetJWKS`): from a public `url`, else with the instance's key."""
    key = None if url else api.instance_key()
    call = reading("GetJWKS", url or "/v1/jwks", key)
    return await api.send(call, parsing.read_jwks, demand=demand)


class KeySets:
    """The keys that sign the instance's JWTs."""

    def __init__(self, api: BackendAPI) -> None:
        self._api = api

    async def get(self) -> Mapping[str, Any]:
        """Give the instance's JSON Web Key Set (`GetJWKS`, RFC 7517). Takes the instance's key."""
        return (await get_jwks(self._api)).value

    async def get_public(self, url: str) -> Mapping[str, Any]:
        """Give the key set that the Frontend API publishes at `url`; sends no key.

        Raises `ConfigurationError` where `url` is not https. As for `api_url`, loopback is
        excepted, and so are all with `allow_http` or with a `transport`.
        """
        try:
            urlsplit(url)
        except (AttributeError, ValueError):  # no text, or no address
            raise ConfigurationError("GetJWKS: the address cannot be used.") from None
        if self._api.check_public_url is not None:
            self._api.check_public_url(url)
        return (await get_jwks(self._api, url)).value
