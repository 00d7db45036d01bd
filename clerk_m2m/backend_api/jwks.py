"""The operation that reads the instance's key set, which signs its JWTs."""

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
        """Return the instance's JSON Web Key Set (`GetJWKS`, RFC 7517). Needs the instance key."""
        return (await get_jwks(self._api)).value

    async def get_public(self, url: str) -> Mapping[str, Any]:
        """Return the key set that the Frontend API publishes at `url`; sends no key.

        Raises `ConfigurationError` if `url` is not https. As for `api_url`, plain http is allowed
        on loopback, with `allow_http`, and with a `transport`.
        """
        try:
            urlsplit(url)
        except (AttributeError, ValueError):  # not text, or not a URL
            raise ConfigurationError("GetJWKS: the argument is not a URL.") from None
        if self._api.check_public_url is not None:
            self._api.check_public_url(url)
        return (await get_jwks(self._api, url)).value
