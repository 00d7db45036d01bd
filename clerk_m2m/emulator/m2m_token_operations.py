"""The operations on M2M tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clerk_m2m.emulator import m2m_tokens
from clerk_m2m.emulator.checks import Anything, Body, Flag, Number, Query, Text
from clerk_m2m.emulator.ids import M2M_TOKEN_ID, MACHINE_ID
from clerk_m2m.emulator.m2m_tokens import M2MToken, MintRequest, refuse_dead
from clerk_m2m.emulator.machines import get_machine
from clerk_m2m.emulator.operations import Operation
from clerk_m2m.emulator.responses import Answer, Refusal, json_answer, not_found

if TYPE_CHECKING:
    from clerk_m2m.emulator.instance import Call


def create_token(call: Call) -> Answer:
    """createM2MToken."""
    if call.holder.machine_id is None:
        raise TypeError("a token is minted with a machine secret key")
    machine = get_machine(call.db, call.holder.machine_id)
    token = m2m_tokens.mint(call.db, call.instance, machine, MintRequest(**call.body))
    return json_answer({**token.as_json(call.now), "token": token.token}, 201)


def list_tokens(call: Call) -> Answer:
    """getM2MTokens."""
    subject = call.query["subject"]
    if call.holder.machine_id not in (None, subject):
        message = "A machine secret key lists the tokens of its own machine only"
        raise Refusal(403, "authorization_invalid", message)
    get_machine(call.db, subject)
    page, total = m2m_tokens.list_tokens(
        call.db,
        subject=subject,
        revoked=bool(call.query.get("revoked")),
        expired=bool(call.query.get("expired")),
        now=call.now,
        limit=call.query.get("limit", 10),
        offset=call.query.get("offset") or 0,
    )
    data = [token.as_json(call.now) for token in page]
    return json_answer({"m2m_tokens": data, "total_count": total})


def revoke_token(call: Call) -> Answer:
    """revokeM2MToken."""
    token = m2m_tokens.find_by_id(call.db, call.path["m2m_token_id"])
    if token is None or call.holder.machine_id not in (None, token.subject):
        raise not_found("Token")
    revoked = m2m_tokens.revoke(call.db, token, call.body.get("revocation_reason"), call.now)
    return json_answer(revoked.as_json(call.now))


def verify_token(call: Call) -> Answer:
    """verifyM2MToken."""
    token = _presented(call)
    if token is None or not _is_open_to_holder(call, token):
        raise not_found("Token")
    live = token.is_live(call.now)
    refuse_dead(call.instance, live=live)
    if live:
        token = m2m_tokens.touch(call.db, token, call.now)
    return json_answer(token.as_json(call.now))


def _presented(call: Call) -> M2MToken | None:
    value = call.body["token"]
    if value.startswith("mt_"):
        return m2m_tokens.find_by_token(call.db, value)
    return m2m_tokens.read_jwt(call.db, call.instance, value)


def _is_open_to_holder(call: Call, token: M2MToken) -> bool:
    holder = call.holder.machine_id
    return holder is None or holder in token.as_json(call.now)["scopes"]


OPERATIONS = (
    Operation(
        id="createM2MToken",
        method="POST",
        path="/m2m_tokens",
        key="machine",
        run=create_token,
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
        run=list_tokens,
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
        run=revoke_token,
        path_rules={"m2m_token_id": Text(pattern=M2M_TOKEN_ID)},
        body=Body(fields={"revocation_reason": Text(nullable=True)}),
    ),
    Operation(
        id="verifyM2MToken",
        method="POST",
        path="/m2m_tokens/verify",
        key="either",
        run=verify_token,
        body=Body(fields={"token": Text()}, required=("token",)),
    ),
)
