"""The operations on API keys, and the verification of OAuth access tokens."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from clerk_m2m.emulator import api_keys, oauth_tokens
from clerk_m2m.emulator.checks import Anything, Body, Number, Query, Text, Texts
from clerk_m2m.emulator.ids import API_KEY_ID, SUBJECT, USER_ID
from clerk_m2m.emulator.instance import JWT
from clerk_m2m.emulator.m2m_tokens import canonical, expires_at, refuse_dead
from clerk_m2m.emulator.machines import find_machine
from clerk_m2m.emulator.operations import Operation
from clerk_m2m.emulator.responses import Answer, InvalidField, json_answer, not_found

if TYPE_CHECKING:
    from clerk_m2m.emulator.api_keys import ApiKey
    from clerk_m2m.emulator.instance import Call

# The contract's ^(\S(.*\S)?)?$ as JavaScript reads it: the dot stops at every line terminator.
TRIMMED = re.compile(r"(\S([^\n\r\u2028\u2029]*\S)?)?")

# The contract (version 2026-05-12) lists 200 for createApiKey. Clerk's generated Python client
# says in its header that it speaks 2025-11-10, and takes nothing but 201.
OLDER_VERSION = re.compile(r"20(2[0-5]-[0-9]{2}|26-0[1-4])-[0-9]{2}")

KEY_ID_RULE = {"apiKeyID": Text(pattern=API_KEY_ID)}
LIFETIME = Number(above=0, nullable=True)
DESCRIPTION = Text(max_length=255, nullable=True)
REASON = Body(fields={"revocation_reason": Text(nullable=True)})


def create_key(call: Call) -> Answer:
    """createApiKey."""
    given = dict(call.body)
    _refuse_unknown_subject(call, given["subject"])
    end = _end(call, given.pop("seconds_until_expiration", None))
    key = api_keys.new_key(**given, expires_at=end, now=call.now)
    api_keys.insert_key(call.db, key)
    status = 201 if OLDER_VERSION.fullmatch(call.api_version) else 200
    return json_answer({**key.as_json(call.now), "secret": key.secret}, status)


def _refuse_unknown_subject(call: Call, subject: str) -> None:
    # The contract takes scim_ subjects but has no answer that could carry one.
    if subject.startswith("scim_"):
        message = "subject must be a user, an organization or a machine"
        raise InvalidField("subject", "form_param_value_invalid", message)
    if subject.startswith("mch_") and find_machine(call.db, subject) is None:
        raise InvalidField("subject", "form_param_value_invalid", "subject is an unknown machine")


def _end(call: Call, seconds: float | None) -> int | None:
    return None if seconds is None else expires_at(call.now, seconds)


def list_keys(call: Call) -> Answer:
    """getApiKeys."""
    page, total = api_keys.list_keys(
        call.db,
        subject=call.query["subject"],
        type=call.query.get("type", "api_key"),
        query=call.query.get("query", ""),
        include_invalid=call.query.get("include_invalid") == "true",
        now=call.now,
        limit=call.query.get("limit", 10),
        offset=call.query.get("offset") or 0,
    )
    return json_answer({"data": [key.as_json(call.now) for key in page], "total_count": total})


def _key(call: Call) -> ApiKey:
    key = api_keys.find_by_id(call.db, call.path["apiKeyID"])
    if key is None:
        raise not_found("API key")
    return key


def get_key(call: Call) -> Answer:
    """getApiKey."""
    return json_answer(_key(call).as_json(call.now))


def update_key(call: Call) -> Answer:
    """updateApiKey."""
    key = _key(call)
    changes: dict[str, Any] = dict(call.body)
    if "subject" in changes:
        _refuse_unknown_subject(call, changes["subject"])
    if "seconds_until_expiration" in changes:
        changes["expires_at"] = _end(call, changes.pop("seconds_until_expiration"))
    for name in {"claims", "scopes"} & changes.keys():
        changes[name] = canonical(changes[name])
    return json_answer(api_keys.change_key(call.db, key, changes, call.now).as_json(call.now))


def delete_key(call: Call) -> Answer:
    """deleteApiKey."""
    key = _key(call)
    api_keys.delete_key(call.db, key)
    return json_answer({"id": key.id, "object": "api_key", "deleted": True})


def get_secret(call: Call) -> Answer:
    """getApiKeySecret."""
    return json_answer({"secret": _key(call).secret})


def revoke_key(call: Call) -> Answer:
    """revokeApiKey."""
    reason = call.body.get("revocation_reason")
    revoked = api_keys.revoke(call.db, _key(call), reason, call.now)
    return json_answer(revoked.as_json(call.now))


def verify_key(call: Call) -> Answer:
    """verifyApiKey."""
    key = api_keys.find_by_secret(call.db, call.body["secret"])
    if key is None:
        raise not_found("API key")
    live = key.is_live(call.now)
    refuse_dead(call.instance, live=live)
    if live:
        key = api_keys.touch(call.db, key, call.now)
    return json_answer(key.as_json(call.now))


def verify_oauth_token(call: Call) -> Answer:
    """verifyOAuthAccessToken."""
    value = call.body.get("access_token", call.body.get("secret"))
    if value is None:
        raise InvalidField("access_token", "form_param_missing", "access_token is required")
    token = oauth_tokens.find_by_token(call.db, value)
    if token is None:
        raise not_found("OAuth access token")
    if token.token_format == JWT and token.is_expired(call.now):
        return json_answer({"active": False})
    refuse_dead(call.instance, live=token.is_live(call.now))
    return json_answer(token.as_json(call.now, call.instance.oauth_instants))


OPERATIONS = (
    Operation(
        id="createApiKey",
        method="POST",
        path="/api_keys",
        key="instance",
        run=create_key,
        body=Body(
            fields={
                "type": Text(min_length=3, max_length=25),
                "name": Text(min_length=3, pattern=TRIMMED),
                "description": DESCRIPTION,
                "subject": Text(pattern=SUBJECT),
                "claims": Anything(),
                "scopes": Texts(),
                "created_by": Text(pattern=USER_ID, nullable=True),
                "seconds_until_expiration": LIFETIME,
            },
            required=("name", "subject"),
        ),
    ),
    Operation(
        id="getApiKeys",
        method="GET",
        path="/api_keys",
        key="instance",
        run=list_keys,
        query=Query(
            fields={
                "type": Text(min_length=3),
                "subject": Text(pattern=SUBJECT),
                "include_invalid": Text(choices=("true", "false")),
                "limit": Number(minimum=1, maximum=100),
                "offset": Number(minimum=0, nullable=True),
                "query": Text(),
            },
            required=("subject",),
        ),
    ),
    Operation(
        id="getApiKey",
        method="GET",
        path="/api_keys/{apiKeyID}",
        key="instance",
        run=get_key,
        path_rules=KEY_ID_RULE,
    ),
    Operation(
        id="updateApiKey",
        method="PATCH",
        path="/api_keys/{apiKeyID}",
        key="instance",
        run=update_key,
        path_rules=KEY_ID_RULE,
        body=Body(
            fields={
                "claims": Anything(),
                "scopes": Texts(),
                "description": DESCRIPTION,
                "subject": Text(pattern=SUBJECT),
                "seconds_until_expiration": LIFETIME,
            }
        ),
    ),
    Operation(
        id="deleteApiKey",
        method="DELETE",
        path="/api_keys/{apiKeyID}",
        key="instance",
        run=delete_key,
        path_rules=KEY_ID_RULE,
    ),
    Operation(
        id="getApiKeySecret",
        method="GET",
        path="/api_keys/{apiKeyID}/secret",
        key="instance",
        run=get_secret,
        path_rules=KEY_ID_RULE,
    ),
    Operation(
        id="revokeApiKey",
        method="POST",
        path="/api_keys/{apiKeyID}/revoke",
        key="instance",
        run=revoke_key,
        path_rules=KEY_ID_RULE,
        body=REASON,
    ),
    Operation(
        id="verifyApiKey",
        method="POST",
        path="/api_keys/verify",
        key="instance",
        run=verify_key,
        body=Body(fields={"secret": Text()}, required=("secret",)),
    ),
    Operation(
        id="verifyOAuthAccessToken",
        method="POST",
        path="/oauth_applications/access_tokens/verify",
        key="instance",
        run=verify_oauth_token,
        body=Body(fields={"access_token": Text(), "secret": Text()}, closed=False),
    ),
)
