"""The endpoints under `/_emulator`: the emulator's own controls, without any key."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Protocol

from clerk_m2m.emulator.checks import Anything, Body, Number, Switch, Text, Texts, parse_object
from clerk_m2m.emulator.ids import USER_ID
from clerk_m2m.emulator.responses import (
    InvalidField,
    Refusal,
    Response,
    error_response,
    invalid_field_response,
    json_response,
    method_not_allowed,
    not_found,
    refusal_response,
)

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from clerk_m2m.emulator.faults import Fault
    from clerk_m2m.emulator.python_api import EmulatedToken
    from clerk_m2m.emulator.request import Request


class Controls(Protocol):
    """The methods of `Emulator` that these endpoints call."""

    @property
    def instance_id(self) -> str: ...
    @property
    def calls(self) -> Counter[str]: ...
    @property
    def faults(self) -> list[Fault]: ...
    def now(self) -> float: ...
    @property
    def fail(self) -> Callable[..., Fault]: ...
    @property
    def add_oauth_token(self) -> Callable[..., EmulatedToken]: ...
    def clear_faults(self, fault_id: int | None = ...) -> int: ...
    def travel(self, seconds: float) -> None: ...
    def reset(self) -> None: ...
    def rotate_signing_key(self, *, keep_previous: bool = ...) -> str: ...


FAULT = Body(
    fields={
        "operation": Text(),
        "kind": Text(),
        "status": Number(whole=True),
        "retry_after": Number(minimum=0, whole=True),
        "delay": Number(minimum=0),
        "pace": Number(above=0),
        "body": Anything(),
        "headers": Anything(),
        "times": Number(minimum=1, whole=True, nullable=True),
        "performed": Switch(),
    }
)
TRAVEL = Body(fields={"seconds": Number()}, required=("seconds",))
ROTATION = Body(fields={"keep_previous": Switch()})
OAUTH_TOKEN = Body(
    fields={
        "subject": Text(pattern=USER_ID),
        "scopes": Texts(),
        "client_id": Text(min_length=1),
        "token_format": Text(choices=("opaque", "jwt")),
        "seconds_until_expiration": Number(above=0),
        "audience": Anything(),
        "actor": Anything(),
    },
    required=("subject",),
)

_ONE_FAULT = re.compile(r"/_emulator/faults/([0-9]{1,9})")


def answer_control(emulator: Controls, request: Request) -> Response:
    """The response to a request under `/_emulator`."""
    try:
        return _run(emulator, request)
    except InvalidField as invalid:
        return invalid_field_response(invalid, 400)
    except ValueError as exc:
        return error_response(400, "script_invalid", str(exc))
    except Refusal as refusal:
        return refusal_response(refusal)


def _run(emulator: Controls, request: Request) -> Response:
    one_fault = _ONE_FAULT.fullmatch(request.path)
    if one_fault and request.method == "DELETE":
        if not emulator.clear_faults(int(one_fault[1])):
            raise not_found("Fault")
        return json_response({"cleared": 1})
    endpoints = _ENDPOINTS.get(request.path.rstrip("/"))
    if endpoints is None:
        raise not_found("Endpoint")
    if request.method not in endpoints:
        raise method_not_allowed(request.method, endpoints)
    # No content type is required: people type these requests with curl.
    return endpoints[request.method](emulator, parse_object(request.content or b"{}"))


def _show(emulator: Controls, _: dict[str, Any]) -> Response:
    return json_response({"instance_id": emulator.instance_id, "now": emulator.now()})


def _show_calls(emulator: Controls, _: dict[str, Any]) -> Response:
    return json_response({"calls": dict(emulator.calls), "total": emulator.calls.total()})


def _forget_calls(emulator: Controls, _: dict[str, Any]) -> Response:
    emulator.calls.clear()
    return json_response({"calls": {}, "total": 0})


def _show_faults(emulator: Controls, _: dict[str, Any]) -> Response:
    return json_response({"faults": [fault.as_json() for fault in emulator.faults]})


def _add_fault(emulator: Controls, body: dict[str, Any]) -> Response:
    details = FAULT.check(body)
    if "headers" in details:
        details["headers"] = _header_mapping(details["headers"])
    if "body" in details and not isinstance(details["body"], str):
        details["body"] = json.dumps(details["body"])
    return json_response(emulator.fail(**details).as_json(), 201)


def _header_mapping(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("headers must be an object of strings")
    return value


def _clear_faults(emulator: Controls, _: dict[str, Any]) -> Response:
    return json_response({"cleared": emulator.clear_faults()})


def _travel(emulator: Controls, body: dict[str, Any]) -> Response:
    emulator.travel(TRAVEL.check(body)["seconds"])
    return json_response({"now": emulator.now()})


def _reset(emulator: Controls, _: dict[str, Any]) -> Response:
    emulator.reset()
    return json_response({"now": emulator.now()})


def _rotate_signing_key(emulator: Controls, body: dict[str, Any]) -> Response:
    return json_response({"kid": emulator.rotate_signing_key(**ROTATION.check(body))})


def _add_oauth_token(emulator: Controls, body: dict[str, Any]) -> Response:
    token = emulator.add_oauth_token(**OAUTH_TOKEN.check(body))
    return json_response({"id": token.id, "access_token": token.token}, 201)


_ENDPOINTS: dict[str, dict[str, Callable[[Controls, dict[str, Any]], Response]]] = {
    "/_emulator": {"GET": _show},
    "/_emulator/calls": {"GET": _show_calls, "DELETE": _forget_calls},
    "/_emulator/faults": {"GET": _show_faults, "POST": _add_fault, "DELETE": _clear_faults},
    "/_emulator/travel": {"POST": _travel},
    "/_emulator/reset": {"POST": _reset},
    "/_emulator/signing_key": {"POST": _rotate_signing_key},
    "/_emulator/oauth_tokens": {"POST": _add_oauth_token},
}
