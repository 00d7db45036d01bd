"""The tests of orders_service.py: the handlers alone, then with the middleware and the emulator.

    pip install 'clerk-m2m[cli,testing]' pytest-asyncio
    pytest test_example_service.py

The fixtures named clerk_… come with the package.
"""

from contextlib import aclosing

import httpx
import pytest
from fastapi import FastAPI
from orders_service import app, create_app
from starlette.types import ASGIApp

from clerk_m2m import VerificationUnavailableError, Verifier
from clerk_m2m.emulator import EmulatedMachine
from clerk_m2m.testing import (
    ClerkEmulator,
    ClerkEmulatorServer,
    MachineFactory,
    TokenFactory,
    api_key_identity,
    as_caller,
    bearer,
    machine_identity,
)

pytestmark = pytest.mark.asyncio


async def get(app: ASGIApp, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
        return await client.get(path, headers=headers)


# The handlers alone: the test sets the caller. No emulator, no key, no environment variable.


async def test_a_machine_gets_its_orders() -> None:
    billing = machine_identity()
    answer = await get(as_caller(app, billing), "/orders")
    assert answer.json() == {"orders_for": billing.machine_id}


async def test_an_api_key_is_not_a_machine() -> None:
    answer = await get(as_caller(app, api_key_identity()), "/orders")
    assert (answer.status_code, answer.json()["code"]) == (401, "token_type_not_accepted")


async def test_the_health_check_needs_no_caller() -> None:
    answer = await get(as_caller(app, None), "/healthz")
    assert answer.json() == {"status": "ok"}


async def test_an_unverifiable_credential_gets_503() -> None:
    answer = await get(as_caller(app, VerificationUnavailableError()), "/orders")
    assert (answer.status_code, answer.json()["code"]) == (503, "verification_unavailable")


# With the middleware: real tokens, verified by an emulated Clerk in this process.


@pytest.fixture
def orders(clerk_machine: MachineFactory) -> EmulatedMachine:
    return clerk_machine("orders")


@pytest.fixture
def service(clerk_emulator: ClerkEmulator, orders: EmulatedMachine) -> FastAPI:
    return create_app(clerk_emulator.verifier(orders))


async def test_a_machine_that_may_call_orders_is_verified_once(
    service: FastAPI,
    orders: EmulatedMachine,
    clerk_machine: MachineFactory,
    clerk_token: TokenFactory,
    clerk_emulator: ClerkEmulator,
) -> None:
    billing = clerk_machine("billing", may_call=[orders])
    token = clerk_token(billing)

    for _ in range(3):
        answer = await get(service, "/orders", bearer(token))
        assert answer.json() == {"orders_for": billing.id}

    clerk_emulator.assert_verifications(1)


async def test_a_machine_that_may_not_call_orders_is_refused(
    service: FastAPI, clerk_token: TokenFactory
) -> None:
    answer = await get(service, "/orders", bearer(clerk_token()))
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")


async def test_an_expired_token_is_refused(
    service: FastAPI,
    orders: EmulatedMachine,
    clerk_token: TokenFactory,
    clerk_emulator: ClerkEmulator,
) -> None:
    token = clerk_token(may_call=[orders], seconds_until_expiration=600)
    assert (await get(service, "/orders", bearer(token))).status_code == 200

    clerk_emulator.travel(601)

    answer = await get(service, "/orders", bearer(token))
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")


# The service as deployed: configured by environment variables; CLERK_API_URL is the emulator.


async def test_the_service_is_configured_by_its_environment(
    orders: EmulatedMachine,
    clerk_token: TokenFactory,
    clerk_emulator_server: ClerkEmulatorServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in clerk_emulator_server.environ(orders).items():
        monkeypatch.setenv(name, value)

    async with aclosing(Verifier()) as verifier:
        token = clerk_token(may_call=[orders])
        answer = await get(create_app(verifier), "/orders", bearer(token))

    assert answer.status_code == 200
