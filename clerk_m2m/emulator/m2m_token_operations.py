"""The operations on M2M tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clerk_m2m.emulator import credentials, m2m_tokens
from clerk_m2m.emulator.checks import Anything, Body, Flag, Number, Query, Text
from clerk_m2m.emulator.ids import M2M_TOKEN_ID, MACHINE_ID
from clerk_m2m.emulator.m2m_tokens import M2MTokenRow, MintRequest
from clerk_m2m.emulator.machines import existing_machine
from clerk_m2m.emulator.operations import Operation
from clerk_m2m.emulator.responses import Refusal, Response, json_response, not_found

if TYPE_CHECKING:
    from clerk_m2m.emulator.instance import CheckedRequest


def create_m2m_token(request: CheckedRequest) -> Response:
    """createM2MToken."""
    if request.holder.machine_id is None:
        raise TypeError("a token is minted with a machine secret key")
    machine = existing_machine(request.db, request.holder.machine_id)
    token = m2m_tokens.mint(request.db, request.instance, machine, MintRequest(**request.body))
    return json_response({**token.as_json(request.now), "token": token.token}, 201)


def get_m2m_tokens(request: CheckedRequest) -> Response:
    """getM2MTokens."""
    subject = request.query["subject"]
    if request.holder.machine_id not in (None, subject):
        message = "A machine secret key lists the tokens of its own machine only"
        raise Refusal(403, "authorization_invalid", message)
    existing_machine(request.db, subject)
    page, total = m2m_tokens.select_tokens(
        request.db,
        subject=subject,
        revoked=bool(request.query.get("revoked")),
        expired=bool(request.query.get("expired")),
        now=request.now,
        limit=request.query.get("limit", 10),
        offset=request.query.get("offset") or 0,
    )
    data = [token.as_json(request.now) for token in page]
    return json_response({"m2m_tokens": data, "total_count": total})


def revoke_m2m_token(request: CheckedRequest) -> Response:
    """revokeM2MToken."""
    token = credentials.find_by_id(request.db, M2MTokenRow, request.path["m2m_token_id"])
    if token is None or request.holder.machine_id not in (None, token.subject):
        raise not_found("Token")
    revoked = credentials.revoke(
        request.db, token, request.body.get("revocation_reason"), request.now
    )
    return json_response(revoked.as_json(request.now))


def verify_m2m_token(request: CheckedRequest) -> Response:
    """verifyM2MToken."""
    token = _presented(request)
    if token is None or not _is_open_to_holder(request, token):
        raise not_found("Token")
    used = credentials.record_use(request.db, request.instance, token, request.now)
    return json_response(used.as_json(request.now))


def _presented(request: CheckedRequest) -> M2MTokenRow | None:
    value = request.body["token"]
    if value.startswith("mt_"):
        return credentials.find_by_value(request.db, M2MTokenRow, value)
    return m2m_tokens.read_jwt(request.db, request.instance, value)


def _is_open_to_holder(request: CheckedRequest, token: M2MTokenRow) -> bool:
    holder = request.holder.machine_id
    return holder is None or holder in token.as_json(request.now)["scopes"]


OPERATIONS = (
    Operation(
        id="createM2MToken",
        method="POST",
        path="/m2m_tokens",
        key="machine",
        run=create_m2m_token,
        body=Body(
            fields={
                "token_format": Text(choices=("opaque", "jwt")),
                "seconds_until_expiration": Number(above=0, nullable=True),
                "claims": Anything(),
                "min_remaining_ttl_seconds": Number(minimum=0, whole=True),
            }
        ),
    ),
    Operation(
        id="getM2MTokens",
        method="GET",
        path="/m2m_tokens",
        key="either",
        run=get_m2m_tokens,
        query=Query(
            fields={
                "subject": Text(pattern=MACHINE_ID),
                "revoked": Flag(),
                "expired": Flag(),
                "limit": Number(minimum=1, maximum=100),
                "offset": Number(minimum=0, nullable=True),
            },
            required=("subject",),
        ),
    ),
    Operation(
        id="revokeM2MToken",
        method="POST",
        path="/m2m_tokens/{m2m_token_id}/revoke",
        key="either",
        run=revoke_m2m_token,
        path_rules={"m2m_token_id": Text(pattern=M2M_TOKEN_ID)},
        body=Body(fields={"revocation_reason": Text(nullable=True)}),
    ),
    Operation(
        id="verifyM2MToken",
        method="POST",
        path="/m2m_tokens/verify",
        key="either",
        run=verify_m2m_token,
        body=Body(fields={"token": Text()}, required=("token",)),
    ),
)
