"""Reading JSON of the Backend API: strict for properties that decide, lenient for others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from clerk_m2m import BackendUnavailableError
from clerk_m2m.backend_api import parsing as wire
from clerk_m2m.backend_api.problems import read_problem
from clerk_m2m.backend_api.resources import MachineScope
from clerk_m2m.errors import FieldError
from harness import USER_ID

CALLER, CALLEE = "mch_" + "a" * 27, "mch_" + "c" * 27
NOW_MS = 1_800_000_000_123
NOW = datetime(2027, 1, 15, 8, 0, 0, 123_000, tzinfo=UTC)

MACHINE = {
    "object": "machine",
    "id": CALLER,
    "name": "caller",
    "instance_id": "ins_1",
    "default_token_ttl": 600,
    "created_at": NOW_MS,
    "updated_at": NOW_MS,
    "scoped_machines": [],
}
M2M_TOKEN = {
    "object": "machine_to_machine_token",
    "id": "mt_" + "0" * 32,
    "subject": CALLER,
    "scopes": [CALLEE],
    "claims": None,
    "revoked": False,
    "revocation_reason": None,
    "expired": False,
    "expiration": None,
    "created_at": NOW_MS,
    "updated_at": NOW_MS,
}
API_KEY = M2M_TOKEN | {
    "object": "api_key",
    "id": "ak_" + "0" * 32,
    "subject": USER_ID,
    "scopes": ["read"],
    "name": "reports",
}
OAUTH_TOKEN = M2M_TOKEN | {
    "id": "oat_" + "0" * 32,
    "subject": USER_ID,
    "scopes": ["read"],
    "client_id": "client_1",
}
NOTHING = object()  # marks a property that is missing
SCOPE = {"from_machine_id": CALLER, "to_machine_id": CALLEE, "created_at": NOW_MS}


def changed(whole: dict[str, Any], name: str, value: object) -> dict[str, Any]:
    rest = {key: item for key, item in whole.items() if key != name}
    return rest if value is NOTHING else rest | {name: value}


def test_a_machine_is_read_with_the_machines_that_it_may_call() -> None:
    machine = wire.read_machine(MACHINE | {"scoped_machines": [MACHINE | {"id": CALLEE}]})

    assert (machine.id, machine.name, machine.default_token_ttl) == (CALLER, "caller", 600)
    assert [callee.id for callee in machine.scoped_machines] == [CALLEE]
    assert machine.created_at == NOW


def test_a_machine_without_a_token_life_has_clerks_default() -> None:
    assert wire.read_scoped_machine(changed(MACHINE, "default_token_ttl", NOTHING)) == (
        wire.read_scoped_machine(MACHINE | {"default_token_ttl": 3600})
    )


def test_instants_are_aware_and_to_the_millisecond() -> None:
    token = wire.read_m2m_token(M2M_TOKEN | {"expiration": NOW_MS + 0.5, "last_used_at": NOW_MS})

    assert token.expires_at is not None
    assert token.expires_at.tzinfo is UTC
    assert token.last_used_at == token.created_at == NOW


@pytest.mark.parametrize(
    ("value", "instant"),
    [
        (1_800_000_000, datetime(2027, 1, 15, 8, tzinfo=UTC)),
        (1_800_000_000_000, datetime(2027, 1, 15, 8, tzinfo=UTC)),
        (1_800_000_000.5, datetime(2027, 1, 15, 8, 0, 0, 500_000, tzinfo=UTC)),
        (99_999_999_999, datetime(5138, 11, 16, 9, 46, 39, tzinfo=UTC)),
    ],
)
def test_an_instant_of_an_oauth_token_is_read_in_seconds_and_in_milliseconds(
    value: float, instant: datetime
) -> None:
    token = wire.read_oauth_access_token(OAUTH_TOKEN | {"expiration": value, "created_at": value})

    assert token is not None
    assert token.expires_at == token.created_at == instant


@pytest.mark.parametrize("value", [None, NOTHING, "yesterday", True, -1, 10**400, float("nan"), {}])
@pytest.mark.parametrize("name", ["created_at", "updated_at", "last_used_at"])
def test_an_invalid_instant_that_decides_nothing_is_none(name: str, value: object) -> None:
    token = wire.read_m2m_token(changed(M2M_TOKEN, name, value))
    key = wire.read_created_api_key(changed(API_KEY, name, value) | {"secret": "ak_x"})
    assert getattr(token, name) is getattr(key, name) is None
    if name != "last_used_at":
        machine = wire.read_created_machine(changed(MACHINE, name, value) | {"secret_key": "ak_x"})
        assert getattr(machine, name) is None


def test_an_edge_with_an_invalid_instant_is_read() -> None:
    assert wire.read_scope(SCOPE | {"created_at": "now"}).created_at is None


def test_an_m2m_token_may_lack_scopes_and_claims() -> None:
    token = wire.read_m2m_token(changed(changed(M2M_TOKEN, "scopes", NOTHING), "claims", NOTHING))

    assert (token.scopes, token.claims) == ((), None)
    assert token.expires_at is None
    assert token.live


@pytest.mark.parametrize("flags", [{"revoked": True}, {"expired": True}])
def test_a_token_that_is_revoked_or_expired_is_not_live(flags: dict[str, bool]) -> None:
    assert not wire.read_m2m_token(M2M_TOKEN | flags).live


@pytest.mark.parametrize("claims", [None, {"tenant": {"id": 1}}, "acme", [1, [2]], 0, False])
def test_claims_of_any_type_are_kept_as_they_are(claims: object) -> None:
    assert wire.read_m2m_token(M2M_TOKEN | {"claims": claims}).claims == claims


def test_an_api_key_is_read_with_its_name_and_permissions() -> None:
    key = wire.read_api_key(API_KEY | {"description": "for reports", "created_by": USER_ID})

    assert (key.name, key.subject, key.scopes) == ("reports", USER_ID, ("read",))
    assert (key.description, key.created_by, key.last_used_at) == ("for reports", USER_ID, None)


def test_an_oauth_token_is_read_or_is_not_active() -> None:
    token = wire.read_oauth_access_token(OAUTH_TOKEN)

    assert token is not None
    assert (token.client_id, token.scopes) == ("client_1", ("read",))
    assert wire.read_oauth_access_token({"active": False}) is None


def test_an_oauth_token_is_read_with_its_audience_and_its_actor() -> None:
    bare = wire.read_oauth_access_token(OAUTH_TOKEN | {"aud": None, "act": None})
    one = wire.read_oauth_access_token(OAUTH_TOKEN | {"aud": "https://a.test"})
    two = wire.read_oauth_access_token(
        OAUTH_TOKEN | {"aud": ["https://a.test", "b"], "act": {"sub": "client_1"}}
    )

    assert bare is not None and one is not None and two is not None  # noqa: PT018
    assert (bare.audience, bare.actor) == ((), None)
    assert one.audience == ("https://a.test",)
    assert (two.audience, two.actor) == (("https://a.test", "b"), {"sub": "client_1"})


def test_an_edge_is_read_from_its_creation_and_from_its_deletion() -> None:
    assert wire.read_scope(SCOPE) == MachineScope(caller=CALLER, callee=CALLEE, created_at=NOW)
    assert wire.read_scope(changed(SCOPE, "created_at", NOTHING) | {"deleted": True}) == (
        MachineScope(caller=CALLER, callee=CALLEE)
    )


def test_a_page_is_iterated_and_counted() -> None:
    page = wire.read_page({"data": [MACHINE, MACHINE], "total_count": 7}, "data", wire.read_machine)

    assert (len(page), page.total_count) == (2, 7)
    assert [machine.id for machine in page] == [CALLER, CALLER]


def test_a_deletion_returns_the_id_of_the_deleted_resource() -> None:
    assert wire.read_deleted({"id": CALLER, "object": "machine", "deleted": True}) == CALLER


def test_a_key_set_is_an_object_with_a_list_of_keys() -> None:
    assert wire.read_jwks({"keys": [{"kty": "RSA"}]}) == {"keys": [{"kty": "RSA"}]}


def test_secrets_are_read_as_secret_objects() -> None:
    machine = wire.read_created_machine(MACHINE | {"secret_key": "ak_hidden"})
    token = wire.read_created_m2m_token(M2M_TOKEN | {"token": "mt_hidden"})
    key = wire.read_created_api_key(API_KEY | {"secret": "ak_hidden"})

    assert machine.secret_key.reveal() == "ak_hidden"
    assert token.token.reveal() == "mt_hidden"
    assert key.secret.reveal() == "ak_hidden"
    assert wire.read_secret({"secret": "ak_hidden"}).reveal() == "ak_hidden"
    assert "hidden" not in repr([machine, token, key])


UNREADABLE: list[tuple[Callable[[Any], Any], dict[str, Any], str, object]] = [
    (wire.read_m2m_token, M2M_TOKEN, "id", NOTHING),
    (wire.read_m2m_token, M2M_TOKEN, "id", 7),
    (wire.read_m2m_token, M2M_TOKEN, "id", "mt_1"),
    (wire.read_m2m_token, M2M_TOKEN, "id", "mt_" + "0" * 32 + "\n"),
    (wire.read_m2m_token, M2M_TOKEN, "subject", USER_ID),
    (wire.read_m2m_token, M2M_TOKEN, "scopes", CALLEE),
    (wire.read_m2m_token, M2M_TOKEN, "scopes", {}),
    (wire.read_m2m_token, M2M_TOKEN, "scopes", False),
    (wire.read_m2m_token, M2M_TOKEN, "scopes", [7]),
    (wire.read_m2m_token, M2M_TOKEN, "scopes", ["billing"]),
    (wire.read_m2m_token, M2M_TOKEN, "revoked", NOTHING),
    (wire.read_m2m_token, M2M_TOKEN, "revoked", None),
    (wire.read_m2m_token, M2M_TOKEN, "revoked", "false"),
    (wire.read_m2m_token, M2M_TOKEN, "revoked", 0),
    (wire.read_m2m_token, M2M_TOKEN, "expired", NOTHING),
    (wire.read_m2m_token, M2M_TOKEN, "revocation_reason", 7),
    (wire.read_m2m_token, M2M_TOKEN, "expiration", NOTHING),
    (wire.read_m2m_token, M2M_TOKEN, "expiration", "never"),
    (wire.read_m2m_token, M2M_TOKEN, "expiration", True),
    (wire.read_m2m_token, M2M_TOKEN, "expiration", float("nan")),
    (wire.read_m2m_token, M2M_TOKEN, "expiration", float("inf")),
    (wire.read_m2m_token, M2M_TOKEN, "expiration", 10**400),
    (wire.read_m2m_token, M2M_TOKEN, "expiration", -1),
    pytest.param(  # type: ignore[list-item]  # a row like the others, with a name
        wire.read_m2m_token, M2M_TOKEN, "expiration", 1_800_000_000, id="seconds"
    ),
    pytest.param(  # type: ignore[list-item]  # a row like the others, with a name
        wire.read_oauth_access_token, OAUTH_TOKEN, "expiration", 9e8, id="seconds before 2001"
    ),
    pytest.param(  # type: ignore[list-item]  # a row like the others, with a name
        wire.read_oauth_access_token, OAUTH_TOKEN, "expiration", 1e11, id="milliseconds before"
    ),
    pytest.param(  # type: ignore[list-item]  # a row like the others, with a name
        wire.read_m2m_token, M2M_TOKEN, "expiration", NOW_MS * 1000, id="microseconds"
    ),
    (wire.read_created_m2m_token, M2M_TOKEN | {"token": "mt_x"}, "created_at", None),
    (wire.read_created_m2m_token, M2M_TOKEN | {"token": "mt_x"}, "created_at", "now"),
    (wire.read_created_m2m_token, M2M_TOKEN | {"token": "mt_x"}, "created_at", NOTHING),
    (wire.read_oauth_access_token, OAUTH_TOKEN, "expiration", NOTHING),
    (wire.read_oauth_access_token, OAUTH_TOKEN, "expiration", "never"),
    (wire.read_oauth_access_token, OAUTH_TOKEN, "expiration", True),
    (wire.read_oauth_access_token, OAUTH_TOKEN, "expiration", float("nan")),
    (wire.read_oauth_access_token, OAUTH_TOKEN, "expiration", 0),
    (wire.read_oauth_access_token, OAUTH_TOKEN, "aud", 7),
    (wire.read_oauth_access_token, OAUTH_TOKEN, "aud", []),
    (wire.read_oauth_access_token, OAUTH_TOKEN, "aud", ["https://a.test", 7]),
    (wire.read_oauth_access_token, OAUTH_TOKEN, "aud", {"a": 1}),
    (wire.read_oauth_access_token, OAUTH_TOKEN, "act", "client_1"),
    (wire.read_oauth_access_token, OAUTH_TOKEN, "act", [{}]),
    (wire.read_api_key, API_KEY, "id", "mt_" + "0" * 32),
    (wire.read_api_key, API_KEY, "subject", "scim_" + "0" * 27),
    (wire.read_api_key, API_KEY, "name", None),
    (wire.read_oauth_access_token, OAUTH_TOKEN, "subject", CALLER),
    (wire.read_oauth_access_token, OAUTH_TOKEN, "client_id", NOTHING),
    (wire.read_oauth_access_token, OAUTH_TOKEN, "active", True),
    (wire.read_oauth_access_token, OAUTH_TOKEN, "active", "false"),
    (wire.read_machine, MACHINE, "id", "machine"),
    (wire.read_machine, MACHINE, "scoped_machines", NOTHING),
    (wire.read_machine, MACHINE, "scoped_machines", {}),
    (wire.read_machine, MACHINE, "scoped_machines", [CALLEE]),
    (wire.read_machine, MACHINE, "default_token_ttl", -1),
    (wire.read_machine, MACHINE, "default_token_ttl", True),
    (wire.read_machine, MACHINE, "default_token_ttl", "600"),
    (wire.read_scope, SCOPE, "from_machine_id", "caller"),
    (wire.read_deleted, {"id": CALLER, "deleted": True}, "deleted", False),
    (wire.read_deleted, {"id": CALLER, "deleted": True}, "deleted", NOTHING),
    (wire.read_jwks, {"keys": []}, "keys", {}),
]


@pytest.mark.parametrize(("read", "whole", "name", "value"), UNREADABLE)
def test_an_invalid_decisive_property_is_rejected_and_not_quoted(
    read: Callable[[Any], Any], whole: dict[str, Any], name: str, value: object
) -> None:
    read(whole)
    with pytest.raises(BackendUnavailableError) as failed:
        read(changed(whole, name, value))

    assert failed.value.code == "backend_unavailable"
    assert str(failed.value).startswith("Clerk's answer ")
    assert str(value) not in str(failed.value)


@pytest.mark.parametrize("value", [None, [], "text", 7, True])
def test_an_answer_that_is_not_an_object_is_rejected(value: object) -> None:
    with pytest.raises(BackendUnavailableError) as failed:
        wire.read_m2m_token(value)

    assert failed.value.code == "backend_unavailable"


def test_an_error_answer_is_read_field_by_field() -> None:
    problem = read_problem(
        {
            "errors": [
                {
                    "code": "form_param_missing",
                    "message": "is missing",
                    "long_message": "name is required",
                    "meta": {"param_name": "name"},
                },
                {"code": 7, "message": None, "meta": {"param_name": 7}},
                {"message": "odd", "long_message": ["not text"], "meta": []},
                "no object",
            ],
            "clerk_trace_id": "trace_1",
        }
    )

    assert problem is not None
    assert problem.errors == (
        FieldError(code="form_param_missing", message="name is required", field="name"),
        FieldError(code="", message=""),
        FieldError(code="", message="odd"),
    )
    assert problem.clerk_trace_id == "trace_1"


@pytest.mark.parametrize("value", [None, [], {}, {"errors": {}}, {"error": "other"}, "text"])
def test_an_error_answer_in_another_form_is_not_clerks(value: object) -> None:
    assert read_problem(value) is None


def test_a_trace_id_that_is_not_text_is_ignored() -> None:
    problem = read_problem({"errors": [], "clerk_trace_id": 7})

    assert problem is not None
    assert problem.clerk_trace_id is None


def test_equal_scoped_machines_in_a_page_are_one_object() -> None:
    callee = {key: value for key, value in MACHINE.items() if key != "scoped_machines"}
    renamed = callee | {"name": "renamed"}
    data = [MACHINE | {"scoped_machines": [dict(each)]} for each in (callee, callee, renamed)]
    page = wire.read_machines({"data": data, "total_count": 3})
    first, second, third = (machine.scoped_machines[0] for machine in page)
    assert first is second
    assert (first.name, third.name) == ("caller", "renamed")


@pytest.mark.parametrize("wrong", [{"id": []}, {"id": None}, {"id": 1}, {"name": 1}])
def test_every_scoped_machine_of_a_page_is_checked(wrong: Any) -> None:
    broken = MACHINE | {"scoped_machines": [MACHINE, MACHINE | wrong]}
    with pytest.raises(BackendUnavailableError, match=f"a valid '{next(iter(wrong))}'"):
        wire.read_machines({"data": [broken], "total_count": 1})
