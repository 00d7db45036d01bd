"""The operations on API keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from clerk_m2m.emulator import api_keys, credentials
from clerk_m2m.emulator.api_keys import ApiKeyRow
from clerk_m2m.emulator.checks import Anything, Body, Number, Query, Text, Texts
from clerk_m2m.emulator.credentials import canonical, expires_at
from clerk_m2m.emulator.ids import API_KEY_ID, SUBJECT, USER_ID
from clerk_m2m.emulator.machines import find_machine
from clerk_m2m.emulator.operations import Operation
from clerk_m2m.emulator.responses import InvalidField, Response, json_response, not_found

if TYPE_CHECKING:
    from clerk_m2m.emulator.instance import CheckedRequest

# The contract's ^(\S(.*\S)?)?$ as JavaScript reads it: the dot stops at every line terminator.
TRIMMED = re.compile(r"(\S([^\n\r\u2028\u2029]*\S)?)?")

# The contract (version 2026-05-12) lists 200 for createApiKey. Clerk's generated Python client
# says in its header that it speaks 2025-11-10, and takes nothing but 201.
OLDER_VERSION = re.compile(r"20(2[0-5]-[0-9]{2}|26-0[1-4])-[0-9]{2}")

KEY_ID_RULE = {"apiKeyID": Text(pattern=API_KEY_ID)}
LIFETIME = Number(above=0, nullable=True)
DESCRIPTION = Text(max_length=255, nullable=True)
REASON = Body(fields={"revocation_reason": Text(nullable=True)})


def create_api_key(request: CheckedRequest) -> Response:
    """createApiKey."""
    given = dict(request.body)
    _refuse_unknown_subject(request, given["subject"])
    end = _end(request, given.pop("seconds_until_expiration", None))
    key = api_keys.new_key(**given, expires_at=end, now=request.now)
    api_keys.insert_key(request.db, key)
    status = 201 if OLDER_VERSION.fullmatch(request.api_version) else 200
    return json_response({**key.as_json(request.now), "secret": key.secret}, status)


def _refuse_unknown_subject(request: CheckedRequest, subject: str) -> None:
    # The contract takes scim_ subjects but has no answer that could carry one.
    if subject.startswith("scim_"):
        message = "subject must be a user, an organization or a machine"
        raise InvalidField("subject", "form_param_value_invalid", message)
    if subject.startswith("mch_") and find_machine(request.db, subject) is None:
        raise InvalidField("subject", "form_param_value_invalid", "subject is an unknown machine")


def _end(request: CheckedRequest, seconds: float | None) -> int | None:
    return None if seconds is None else expires_at(request.now, seconds)


def get_api_keys(request: CheckedRequest) -> Response:
    """getApiKeys."""
    page, total = api_keys.select_keys(
        request.db,
        subject=request.query["subject"],
        type=request.query.get("type", "api_key"),
        query=request.query.get("query", ""),
        include_invalid=request.query.get("include_invalid") == "true",
        now=request.now,
        limit=request.query.get("limit", 10),
        offset=request.query.get("offset") or 0,
    )
    return json_response({"data": [key.as_json(request.now) for key in page], "total_count": total})


def _key(request: CheckedRequest) -> ApiKeyRow:
    key = credentials.find_by_id(request.db, ApiKeyRow, request.path["apiKeyID"])
    if key is None:
        raise not_found("API key")
    return key


def get_api_key(request: CheckedRequest) -> Response:
    """getApiKey."""
    return json_response(_key(request).as_json(request.now))


def update_api_key(request: CheckedRequest) -> Response:
    """updateApiKey."""
    key = _key(request)
    changes: dict[str, Any] = dict(request.body)
    if "subject" in changes:
        _refuse_unknown_subject(request, changes["subject"])
    if "seconds_until_expiration" in changes:
        changes["expires_at"] = _end(request, changes.pop("seconds_until_expiration"))
    for name in {"claims", "scopes"} & changes.keys():
        changes[name] = canonical(changes[name])
    return json_response(
        api_keys.change_key(request.db, key, changes, request.now).as_json(request.now)
    )


def delete_api_key(request: CheckedRequest) -> Response:
    """deleteApiKey."""
    key = _key(request)
    api_keys.remove_key(request.db, key)
    return json_response({"id": key.id, "object": "api_key", "deleted": True})


def get_api_key_secret(request: CheckedRequest) -> Response:
    """getApiKeySecret."""
    return json_response({"secret": _key(request).secret})


def revoke_api_key(request: CheckedRequest) -> Response:
    """revokeApiKey."""
    reason = request.body.get("revocation_reason")
    revoked = credentials.revoke(request.db, _key(request), reason, request.now)
    return json_response(revoked.as_json(request.now))


def verify_api_key(request: CheckedRequest) -> Response:
    """verifyApiKey."""
    key = credentials.find_by_value(request.db, ApiKeyRow, request.body["secret"])
    if key is None:
        raise not_found("API key")
    used = credentials.record_use(request.db, request.instance, key, request.now)
    return json_response(used.as_json(request.now))


OPERATIONS = (
    Operation(
        id="createApiKey",
        method="POST",
        path="/api_keys",
        key="instance",
        run=create_api_key,
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
        run=get_api_keys,
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
        run=get_api_key,
        path_rules=KEY_ID_RULE,
    ),
    Operation(
        id="updateApiKey",
        method="PATCH",
        path="/api_keys/{apiKeyID}",
        key="instance",
        run=update_api_key,
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
        run=delete_api_key,
        path_rules=KEY_ID_RULE,
    ),
    Operation(
        id="getApiKeySecret",
        method="GET",
        path="/api_keys/{apiKeyID}/secret",
        key="instance",
        run=get_api_key_secret,
        path_rules=KEY_ID_RULE,
    ),
    Operation(
        id="revokeApiKey",
        method="POST",
        path="/api_keys/{apiKeyID}/revoke",
        key="instance",
        run=revoke_api_key,
        path_rules=KEY_ID_RULE,
        body=REASON,
    ),
    Operation(
        id="verifyApiKey",
        method="POST",
        path="/api_keys/verify",
        key="instance",
        run=verify_api_key,
        body=Body(fields={"secret": Text()}, required=("secret",)),
    ),
)
