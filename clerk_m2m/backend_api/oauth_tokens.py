"""The operations on OAuth access tokens. Each path is written here once."""

from __future__ import annotations

from clerk_m2m.backend_api import parsing as wire
from clerk_m2m.backend_api import resources as records
from clerk_m2m.backend_api.operations import (
    OperationGroup,
)
from clerk_m2m.secret import Secret


class OAuthAccessTokens(OperationGroup):
    """OAuth access tokens. Takes the instance's key."""

    async def verify(
        self, access_token: str | Secret, *, background: bool = False
    ) -> records.OAuthAccessToken | None:
        """Ask Clerk about an OAuth access token (`verifyOAuthAccessToken`); None: not active."""
        # First of all: tracebacks may show the locals of this frame.
        access_token = Secret(access_token)
        url = "/v1/oauth_applications/access_tokens/verify"
        body, key = {"access_token": access_token}, self._session.instance_key()
        answer = await self._verify("verifyOAuthAccessToken", url, key, body, background)
        return wire.read_oauth_access_token(answer)
