"""The operations on OAuth access tokens. Each path is written here once."""

from __future__ import annotations

from clerk_m2m.backend_api import parsing, resources
from clerk_m2m.backend_api.arguments import check_text
from clerk_m2m.backend_api.calls import Answered, BackendAPI, Keyed, segment, verifying
from clerk_m2m.backend_api.revocations import Revocation
from clerk_m2m.secret import Secret
from clerk_m2m.transport.call import Call
from clerk_m2m.transport.gate import CallDemand


async def verify_oauth_access_token(
    api: BackendAPI, access_token: Secret, *, demand: CallDemand | None = None
) -> Answered[resources.OAuthAccessToken | None]:
    """Ask Clerk about an OAuth access token (`verifyOAuthAccessToken`); billed."""
    url, key = "/v1/oauth_applications/access_tokens/verify", api.instance_key()
    call = verifying("verifyOAuthAccessToken", url, key, {"access_token": access_token})
    return await api.send(call, parsing.read_oauth_access_token, demand=demand)


class OAuthAccessTokens:
    """OAuth access tokens. Needs the instance's key."""

    def __init__(self, api: BackendAPI) -> None:
        self._api = api

    async def verify(self, access_token: str | Secret) -> resources.OAuthAccessToken | None:
        """Ask Clerk about an OAuth access token (`verifyOAuthAccessToken`); None if not active."""
        access_token = Secret(access_token)  # first: tracebacks may show the locals of this frame
        return (await verify_oauth_access_token(self._api, access_token)).value

    async def revoke(self, token: str | Secret, *, oauth_application_id: str) -> None:
        """Revoke an opaque access or refresh token (`RevokeOAuthApplicationToken`).

        Clerk also revokes all other tokens of the same grant. A verifier that watches this client
        drops only the cached verdict of the given token; verdicts of the grant's other tokens stay
        in use for up to `cache_ttl`. So pass the access token if you have it. A JWT cannot be
        revoked at Clerk. `oauth_application_id` is the id of the OAuth application that the token
        was issued to, not its client id.
        """
        token = Secret(token)  # first of all: tracebacks may show the locals of this frame
        url = f"/v1/oauth_applications/{segment(oauth_application_id)}/revoke_token"
        operation, body = "RevokeOAuthApplicationToken", {"token": token}
        check_text(operation, body)
        call = Call(operation=operation, method="POST", url=url, body=body)
        keyed, ends = Keyed(call=call, key=self._api.instance_key()), Revocation(token=token)
        await self._api.run(keyed, parsing.read_nothing, ends=ends)
