"""The operations on OAuth access tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clerk_m2m.emulator.checks import Body, Text
from clerk_m2m.emulator.credentials import find_by_value, refuse_dead, revoke
from clerk_m2m.emulator.instance import JWT
from clerk_m2m.emulator.oauth_tokens import OAuthTokenRow
from clerk_m2m.emulator.operations import Operation
from clerk_m2m.emulator.responses import InvalidField, Response, json_response, not_found

if TYPE_CHECKING:
    from clerk_m2m.emulator.instance import CheckedRequest


def verify_oauth_access_token(request: CheckedRequest) -> Response:
    """verifyOAuthAccessToken."""
    value = request.body.get("access_token", request.body.get("secret"))
    if value is None:
        raise InvalidField("access_token", "form_param_missing", "access_token is required")
    token = find_by_value(request.db, OAuthTokenRow, value)
    if token is None:
        raise not_found("OAuth access token")
    if token.token_format == JWT and token.is_expired(request.now):
        return json_response({"active": False})
    refuse_dead(request.instance, token, request.now)
    return json_response(token.as_json(request.now, request.instance.oauth_instants))


def revoke_oauth_application_token(request: CheckedRequest) -> Response:
    """RevokeOAuthApplicationToken."""
    token = find_by_value(request.db, OAuthTokenRow, request.body["token"])
    if token is None or token.oauth_application_id != request.path["oauth_application_id"]:
        raise not_found("OAuth token")
    if token.token_format == JWT:
        message = "JWT access tokens cannot be revoked"
        raise InvalidField("token", "form_param_value_invalid", message)
    revoke(request.db, token, None, request.now)
    return Response(204, b"")


OPERATIONS = (
    Operation(
        id="verifyOAuthAccessToken",
        method="POST",
        path="/oauth_applications/access_tokens/verify",
        key="instance",
        run=verify_oauth_access_token,
        body=Body(fields={"access_token": Text(), "secret": Text()}, closed=False),
    ),
    Operation(
        id="RevokeOAuthApplicationToken",
        method="POST",
        path="/oauth_applications/{oauth_application_id}/revoke_token",
        key="instance",
        run=revoke_oauth_application_token,
        body=Body(fields={"token": Text()}, required=("token",)),
    ),
)
