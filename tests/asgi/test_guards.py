"""Guards: what a route requires of the caller that the middleware has identified."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Message, Scope

from clerk_m2m import (
    ApiKeyIdentity,
    ConfigurationError,
    Guard,
    Identity,
    MachineIdentity,
    MiddlewareMissingError,
    OAuthIdentity,
    PermissionDeniedError,
    RefusalError,
    TokenMalformedError,
    TokenMissingError,
    TokenTypeNotAcceptedError,
    require_any,
    require_api_key,
    require_machine,
    require_oauth,
)
from clerk_m2m.asgi.refusals import Exchange

CALLER, OTHER, USER = "mch_" + "a" * 27, "mch_" + "o" * 27, "user_" + "u" * 27
MACHINE = MachineIdentity(token_id="mt_1", token_format="opaque", subject=CALLER)
API_KEY = ApiKeyIdentity(
    token_id="ak_1", name="reports", subject=USER, scopes=frozenset({"read", "write"})
)
OAUTH = OAuthIdentity(
    token_id="oat_1", client_id="client_1", subject=USER, scopes=frozenset({"profile"})
)


async def no_send(message: Message) -> None:
    raise AssertionError("a guard sends nothing")


async def no_receive() -> Message:
    raise AssertionError("a guard reads nothing")


def connection(
    identity: Identity | None, *headers: tuple[bytes, bytes], kind: str = "http"
) -> HTTPConnection:
    scope: Scope = {"type": kind, "headers": list(headers)}
    Exchange(scope, no_receive, no_send).admit(identity)
    return HTTPConnection(scope)


def refusal(guard: Guard[Any], identity: Identity) -> RefusalError:
    with pytest.raises(RefusalError) as refused:
        guard.check(connection(identity))
    return refused.value


def test_require_machine_accepts_a_machine() -> None:
    assert require_machine().check(connection(MACHINE)) is MACHINE
    assert require_machine(OTHER, CALLER).check(connection(MACHINE)) is MACHINE


def test_require_machine_refuses_a_machine_that_it_does_not_list() -> None:
    refused = refusal(require_machine(OTHER), MACHINE)

    assert refused.code == "permission_denied"
    assert refused.detail == f"{CALLER} is not among this route's callers."


@pytest.mark.parametrize(
    ("guard", "identity"),
    [
        (require_machine(), API_KEY),
        (require_machine(), OAUTH),
        (require_api_key(), MACHINE),
        (require_api_key(), OAUTH),
        (require_oauth(), MACHINE),
        (require_oauth(), API_KEY),
    ],
)
def test_a_credential_of_another_type_is_refused(guard: Guard[Any], identity: Identity) -> None:
    assert refusal(guard, identity).code == "token_type_not_accepted"


def test_require_machine_refuses_an_api_key_of_a_machine() -> None:
    key = ApiKeyIdentity(token_id="ak_1", name="robot", subject=CALLER)

    assert refusal(require_machine(), key).code == "token_type_not_accepted"
    assert refusal(require_machine(CALLER), key).code == "token_type_not_accepted"


@pytest.mark.parametrize(
    ("guard", "identity"),
    [
        (require_api_key(), API_KEY),
        (require_api_key(scopes=["read"]), API_KEY),
        (require_api_key(scopes={"write", "read"}), API_KEY),
        (require_oauth(), OAUTH),
        (require_oauth(scopes=("profile",)), OAUTH),
    ],
)
def test_a_credential_with_the_permissions_is_accepted(
    guard: Guard[Any], identity: Identity
) -> None:
    assert guard.check(connection(identity)) is identity


@pytest.mark.parametrize(
    ("guard", "identity", "scopes", "said"),
    [
        (require_api_key(scopes=["read", "admin"]), API_KEY, ("read", "admin"), "lacks: admin."),
        (require_oauth(scopes=["email", "phone"]), OAUTH, ("email", "phone"), "email phone."),
    ],
)
def test_a_missing_permission_is_refused_and_the_challenge_names_all_that_are_required(
    guard: Guard[Any], identity: Identity, scopes: tuple[str, ...], said: str
) -> None:
    refused = refusal(guard, identity)

    assert isinstance(refused, PermissionDeniedError)
    assert refused.code == "permission_denied"
    assert refused.required_scopes == scopes
    assert refused.detail.endswith(said)


def test_permissions_are_compared_exactly() -> None:
    assert refusal(require_api_key(scopes=["rea"]), API_KEY).code == "permission_denied"
    assert refusal(require_api_key(scopes=["READ"]), API_KEY).code == "permission_denied"


def test_require_any_accepts_what_one_of_its_guards_accepts() -> None:
    guard = require_any(require_machine(CALLER), require_api_key(scopes=["read"]))

    assert guard.check(connection(MACHINE)) is MACHINE
    assert guard.check(connection(API_KEY)) is API_KEY


def test_when_all_guards_of_require_any_refuse_the_closest_refusal_is_raised() -> None:
    guard = require_any(require_machine(OTHER), require_api_key(scopes=["admin"]), require_oauth())

    assert refusal(guard, API_KEY).detail == "The credential lacks: admin."
    assert refusal(guard, MACHINE).code == "permission_denied"
    assert refusal(require_any(require_api_key(), require_oauth()), MACHINE).code == (
        "token_type_not_accepted"
    )
    assert refusal(require_any(require_machine(OTHER)), MACHINE).code == "permission_denied"


def test_require_any_can_be_nested() -> None:
    guard = require_any(require_any(require_api_key(), require_oauth()), require_machine())

    assert guard.check(connection(MACHINE)) is MACHINE


async def test_a_guard_can_be_awaited_and_works_on_websockets() -> None:
    guard = require_machine()

    assert await guard(connection(MACHINE)) is MACHINE
    assert await guard(connection(MACHINE, kind="websocket")) is MACHINE


@pytest.mark.parametrize("guard", [require_machine(), require_any(require_api_key())])
def test_a_request_without_a_credential_is_token_missing(guard: Guard[Any]) -> None:
    for headers in ([], [(b"x", b"y")], [(b"authorization", b"Basic x")]):
        with pytest.raises(TokenMissingError) as refused:
            guard.check(connection(None, *headers))

        assert refused.value.code == "token_missing"


def test_a_credential_of_another_kind_is_token_type_not_accepted() -> None:
    with pytest.raises(TokenTypeNotAcceptedError) as refused:
        require_machine().check(connection(None, (b"authorization", b"Bearer session")))

    assert refused.value.code == "token_type_not_accepted"


def test_an_ill_formed_credential_is_refused_on_an_excluded_path_too() -> None:
    with pytest.raises(TokenMalformedError) as refused:
        require_machine().check(connection(None, (b"authorization", b"Bearer a b")))

    assert refused.value.code == "token_malformed"


@pytest.mark.parametrize("scope", [{}, {"state": {}}, {"state": {"machine": MACHINE}}])
def test_a_guard_without_the_middleware_raises_middleware_missing(scope: dict[str, Any]) -> None:
    with pytest.raises(MiddlewareMissingError, match=r"add_middleware\(MachineAuthMiddleware\)"):
        require_machine().check(HTTPConnection({"type": "http", "headers": []} | scope))


@pytest.mark.parametrize(
    "make",
    [
        lambda: require_machine("billing"),
        lambda: require_machine(CALLER, ""),
        lambda: require_machine(CALLER + "\n"),
        lambda: require_api_key(scopes="read"),
        lambda: require_api_key(scopes=["read write"]),
        lambda: require_api_key(scopes=['"']),
        lambda: require_api_key(scopes=["back\\slash"]),
        lambda: require_oauth(scopes=["é"]),
        lambda: require_oauth(scopes=["line\nbreak"]),
        lambda: require_oauth(scopes=[""]),
    ],
)
def test_a_guard_with_an_impossible_requirement_is_rejected_when_it_is_made(make: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        make()

    assert refused.value.code == "configuration_invalid"


def test_the_error_about_a_machine_name_given_as_id_says_why() -> None:
    with pytest.raises(ConfigurationError, match=r"'billing'\): not a machine id. A name is not"):
        require_machine("billing")


def test_guards_work_without_fastapi_installed() -> None:
    script = """
import sys
sys.modules["fastapi"] = None  # as if it were not installed
import asyncio
from starlette.requests import HTTPConnection
from clerk_m2m import MachineIdentity, require_machine
from clerk_m2m.asgi.refusals import Exchange
identity = MachineIdentity(token_id="mt_1", token_format="opaque", subject="mch_1")
scope = {"type": "http", "headers": []}
Exchange(scope, None, None).admit(identity)
connection = HTTPConnection(scope)
checked = require_machine().check(connection)
print(checked is asyncio.run(require_machine()(connection)) is identity)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )

    assert done.stdout.strip() == "True"
