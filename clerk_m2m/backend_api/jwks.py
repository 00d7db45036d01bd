"""The operation that gives the keys that sign the instance's JWTs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clerk_m2m.backend_api import parsing as wire
from clerk_m2m.backend_api.operations import (
    OperationGroup,
)


class KeySets(OperationGroup):
    """The keys that sign the instance's JWTs."""

    async def get(self) -> Mapping[str, Any]:
        """Give the instance's JSON Web Key Set (`GetJWKS`, RFC 7517). Takes the instance's key."""
        return wire.read_jwks(await self._get("GetJWKS", "/v1/jwks", self._session.instance_key()))

    async def get_public(self, url: str) -> Mapping[str, Any]:
        """Give the key set that the Frontend API publishes at `url`; sends no key."""
        return wire.read_jwks(await self._get("GetJWKS", url, None))
