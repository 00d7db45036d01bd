"""Generated requests (schemathesis): every answer of the emulator conforms to the contract."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.core.failures import FailureGroup

from clerk_m2m.emulator import Emulator

CONTRACT = Path(__file__).parent / "contract" / "backend-api.openapi.yml"
SUBJECT = "mch_" + "s" * 27
CALLEE = "mch_" + "c" * 27
USER = "user_" + "u" * 27

# The contract's schemas cannot say that a machine must exist, which orders are known, or which
# instants a date can hold. So a request that is valid by the schema may be refused, with a status
# that the operation lists.
EXCUSED = [schemathesis.checks.positive_data_acceptance]


def contract() -> dict[str, Any]:
    """The contract, with 401 added where it does not list it. Authentication has its own tests."""
    document: dict[str, Any] = deepcopy(schemathesis.openapi.from_path(CONTRACT).raw_schema)
    del document["security"]
    del document["components"]["securitySchemes"]
    unauthorized = {"$ref": "#/components/responses/AuthenticationInvalid"}
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].setdefault("401", unauthorized)
    return document


def populated() -> Emulator:
    emulator = Emulator()
    callee = emulator.add_machine("billing", id=CALLEE)
    emulator.add_machine("orders", id=SUBJECT, may_call=[callee])
    emulator.mint_m2m_token(SUBJECT, claims={"tenant": "acme"})
    emulator.add_api_key("reporting", subject=SUBJECT, scopes=["read"])
    return emulator


EMULATOR = populated()
INSTANCE = schemathesis.openapi.from_dict(contract())
MACHINE = schemathesis.openapi.from_dict(contract()).include(path_regex="^/m2m_tokens")
INSTANCE.app = MACHINE.app = EMULATOR

# Each run takes other examples; `make soak` takes 500.
QUICK = settings(max_examples=25, suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=500)


def conform(case: Any, key: str) -> None:
    # About half of the ids name machines that exist. The seed restores a deleted one.
    path = case.path_parameters
    for name, known in (("machine_id", SUBJECT), ("other_machine_id", CALLEE)):
        if name in path and len(str(path[name])) % 2:
            path[name] = known
    case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, excluded_checks=EXCUSED)
    EMULATOR.seed({"machines": {"billing": {"id": CALLEE}, "orders": {"id": SUBJECT}}})


def instance_key(case: Any) -> None:
    conform(case, EMULATOR.secret_key)


def machine_key(case: Any) -> None:
    conform(case, EMULATOR.machine(SUBJECT).secret_key)


@INSTANCE.parametrize()
@QUICK
def test_every_answer_to_the_instance_key_conforms_to_the_contract(case: Any) -> None:
    instance_key(case)


@MACHINE.parametrize()
@QUICK
def test_every_answer_to_a_machine_key_conforms_to_the_contract(case: Any) -> None:
    machine_key(case)


@pytest.mark.soak
@INSTANCE.parametrize()
@LONG
def test_500_requests_per_operation_with_the_instance_key(case: Any) -> None:
    instance_key(case)


@pytest.mark.soak
@MACHINE.parametrize()
@LONG
def test_500_requests_per_operation_with_a_machine_key(case: Any) -> None:
    machine_key(case)


VERIFY_OAUTH = INSTANCE["/oauth_applications/access_tokens/verify"]["post"]


def verify_oauth_token(emulator: Emulator, **given: Any) -> None:
    """Verify an access token and check the answer against the contract."""
    token = emulator.add_oauth_token(subject=USER, scopes=["read"], **given)
    VERIFY_OAUTH.Case(
        body={"access_token": token.token}, media_type="application/json"
    ).call_and_validate(
        app=emulator,
        headers={"Authorization": f"Bearer {emulator.secret_key}"},
        checks=[schemathesis.checks.response_schema_conformance],
    )


@pytest.mark.parametrize("oauth_instants", ["seconds", "milliseconds"])
def test_the_answer_for_an_access_token_conforms_to_the_contract(oauth_instants: Any) -> None:
    emulator = Emulator(oauth_instants=oauth_instants)
    verify_oauth_token(emulator)
    emulator.close()


REVOKE_OAUTH = INSTANCE["/oauth_applications/{oauth_application_id}/revoke_token"]["post"]


@pytest.mark.parametrize(
    ("given", "application", "status"),
    [
        ({}, "oauthapp_shop", 204),
        ({}, "oauthapp_other", 404),
        ({"token_format": "jwt"}, "oauthapp_shop", 400),
    ],
)
def test_only_its_own_application_revokes_an_opaque_access_token(
    given: dict[str, Any], application: str, status: int
) -> None:
    emulator = Emulator()
    token = emulator.add_oauth_token(subject=USER, client_id="client_shop", **given)
    headers = {"Authorization": f"Bearer {emulator.secret_key}"}

    answer = REVOKE_OAUTH.Case(
        path_parameters={"oauth_application_id": application},
        body={"token": token.token},
        media_type="application/json",
    ).call_and_validate(app=emulator, headers=headers, excluded_checks=EXCUSED)
    verified = VERIFY_OAUTH.Case(
        body={"access_token": token.token}, media_type="application/json"
    ).call(app=emulator, headers=headers)

    assert answer.status_code == status
    assert (answer.content == b"") is (status == 204)
    assert verified.status_code == (404 if status == 204 else 200)
    emulator.close()


@pytest.mark.parametrize("given", [{"audience": "https://a.test"}, {"actor": {"sub": "client_1"}}])
def test_an_answer_with_aud_or_act_does_not_conform_to_the_contract(given: dict[str, Any]) -> None:
    """The contract's schema is closed, so only a token made with `aud` or `act` has them."""
    emulator = Emulator()
    with pytest.raises(FailureGroup):
        verify_oauth_token(emulator, **given)
    emulator.close()


def test_the_emulator_has_every_operation_of_the_contract() -> None:
    document = contract()
    ids = {
        operation["operationId"]
        for operations in document["paths"].values()
        for operation in operations.values()
    }
    assert len(ids) == 24
    for operation_id in ids:
        EMULATOR.fail(operation_id, status=500)
    assert EMULATOR.clear_faults() == len(ids)
