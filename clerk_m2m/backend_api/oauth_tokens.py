"""The operations on OAuth access tokens. Each path is written here once."""

from __future__ import annotations

from clerk_m2m.backend_api import parsing, resources
from clerk_m2m.backend_api.calls import Answered, BackendAPI, verifying
from clerk_m2m.secret import Secret
from clerk_m2m.transport.gate import CallDemand


async def verify_oauth_access_token(
    api: BackendAPI, access_token: Secret, *, demand: CallDemand | None = None
) -> Answered[resources.OAuthAccessToken | None]:
    """Ask Clerk about an OAuth access token (`verifyOAuthAccessToken`); billed."""
    url, key = "/v1/oauth_applications/access_tokens/verify", api.instance_key()
    call = verifying("verifyOAuthAccessToken", url, key, {"access_token": access_token})
    return await api.send(call, parsing.read_oauth_access_token, demand=demand)


class OAuthAccessTokens:
    """OAuth access tokens. Takes the instance's key."""

    def __init__(self, api: BackendAPI) -> None:
        self._api = api

    async def verify(self, access_token: str | Secret) -> resources.OAuthAccessToken | None:
        """Ask Clerk about an OAuth access token (`verifyOAuthAccessToken`); None: not active."""
        access_token = Secret(access_token)  # first: tracebacks may show the locals of this frame
        return (await verify_oauth_access_token(self._api, access_token)).value
