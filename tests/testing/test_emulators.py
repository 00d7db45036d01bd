"""The pytest plugin: its emulator, in process and on a port, and its factories."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from clerk_m2m import (
    ClerkClient,
    ScopeDeniedError,
    Settings,
    TokenInvalidError,
    VerificationUnavailableError,
)
from clerk_m2m.testing import (
    ClerkEmulator,
    ClerkEmulatorServer,
    MachineFactory,
    TokenFactory,
    bearer,
    served,
)
from clerk_m2m.testing.emulators import serve

# The emulator in process


async def test_a_token_from_the_factory_is_accepted(
    clerk_emulator: ClerkEmulator, clerk_machine: MachineFactory, clerk_token: TokenFactory
) -> None:
    orders = clerk_machine("orders")
    billing = clerk_machine("billing", may_call=[orders])
    identity = await clerk_emulator.verifier(orders).verify(clerk_token(billing).token)
    assert identity.subject == billing.id


async def test_a_token_of_a_machine_that_may_not_call_is_refused(
    clerk_emulator: ClerkEmulator, clerk_machine: MachineFactory, clerk_token: TokenFactory
) -> None:
    verifier = clerk_emulator.verifier(clerk_machine())
    with pytest.raises(TokenInvalidError) as refused:
        await verifier.verify(clerk_token().token)
    assert refused.value.code == "token_invalid"


async def test_the_token_factory_adds_the_edges_in_may_call(
    clerk_emulator: ClerkEmulator, clerk_machine: MachineFactory, clerk_token: TokenFactory
) -> None:
    orders, stock, billing = clerk_machine(), clerk_machine(), clerk_machine()
    token = clerk_token(billing, may_call=[orders, stock], claims={"job": "nightly"})
    identity = await clerk_emulator.verifier(stock).verify(token.token)
    assert identity.subject == billing.id
    assert identity.scopes == {orders.id, stock.id}
    assert identity.claims == {"job": "nightly"}


async def test_settings_of_a_service_have_no_instance_key_unless_requested(
    clerk_emulator: ClerkEmulator, clerk_machine: MachineFactory, clerk_token: TokenFactory
) -> None:
    orders = clerk_machine()
    assert clerk_emulator.settings(orders).secret_key is None

    verifier = clerk_emulator.verifier(orders, secret_key=clerk_emulator.secret_key)
    jwt = clerk_token(may_call=[orders], token_format="jwt")
    assert (await verifier.verify(jwt.token)).token_id == jwt.id
    with pytest.raises(ScopeDeniedError) as denied:
        await verifier.verify(clerk_token(token_format="jwt").token)
    assert denied.value.code == "scope_denied"


async def test_travel_moves_the_clock_of_verifiers(
    clerk_emulator: ClerkEmulator, clerk_machine: MachineFactory, clerk_token: TokenFactory
) -> None:
    orders = clerk_machine()
    verifier = clerk_emulator.verifier(orders, cache_ttl=60)
    token = clerk_token(may_call=[orders], seconds_until_expiration=600).token

    await verifier.verify(token)
    clerk_emulator.assert_verifications(1)
    clerk_emulator.travel(61)
    await verifier.verify(token)
    clerk_emulator.assert_verifications(2)
    clerk_emulator.travel(540)
    with pytest.raises(TokenInvalidError) as refused:
        await verifier.verify(token)
    assert refused.value.code == "token_invalid"


async def test_a_dropped_connection_raises_the_error_of_httpx(
    clerk_emulator: ClerkEmulator, clerk_machine: MachineFactory, clerk_token: TokenFactory
) -> None:
    clerk_emulator.fail("*", kind="drop")
    async with httpx.AsyncClient(
        transport=clerk_emulator.transport, base_url="https://clerk.test"
    ) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/v1/machines")

    verifier = clerk_emulator.verifier(clerk_machine())
    with pytest.raises(VerificationUnavailableError) as refused:
        await verifier.verify(clerk_token().token)
    assert refused.value.code == "verification_unavailable"


async def test_the_client_has_the_keys_of_the_instance_and_of_a_machine(
    clerk_emulator: ClerkEmulator, clerk_machine: MachineFactory
) -> None:
    billing = clerk_machine("billing")
    async with clerk_emulator.client(billing) as clerk:
        page = await clerk.machines.list()
        minted = await clerk.m2m_tokens.create()
    assert [each.id for each in page] == [billing.id]
    assert minted.subject == billing.id


@pytest.mark.parametrize("clerk_emulator_options", [{"seed": {"machines": {"orders": {}}}}])
async def test_clerk_emulator_options_are_used(
    clerk_emulator: ClerkEmulator,
) -> None:
    async with clerk_emulator.client() as clerk:
        assert [each.name for each in await clerk.machines.list()] == ["orders"]


def test_bearer_builds_the_header_for_tokens_and_keys(
    clerk_emulator: ClerkEmulator, clerk_token: TokenFactory
) -> None:
    token = clerk_token()
    key = clerk_emulator.add_api_key("ci", subject="user_" + "u" * 27)
    assert bearer(token) == bearer(token.token) == {"Authorization": f"Bearer {token.token}"}
    assert bearer(key) == {"Authorization": f"Bearer {key.secret}"}


# Counted calls


async def test_assert_verifications_lists_the_calls_on_failure(
    clerk_emulator: ClerkEmulator, clerk_machine: MachineFactory, clerk_token: TokenFactory
) -> None:
    orders = clerk_machine()
    async with clerk_emulator.client() as clerk:
        await clerk.machines.list()
    await clerk_emulator.verifier(orders).verify(clerk_token(may_call=[orders]).token)

    with pytest.raises(AssertionError) as failed:
        clerk_emulator.assert_verifications(0)

    assert str(failed.value) == (
        "Expected 0 verifications at Clerk, saw 1. All calls: ListMachines x1, verifyM2MToken x1."
    )


async def test_assert_calls_counts_by_operation_until_calls_are_cleared(
    clerk_emulator: ClerkEmulator,
) -> None:
    async with clerk_emulator.client() as clerk:
        await clerk.machines.list()
    clerk_emulator.assert_calls(ListMachines=1, GetMachine=0)
    with pytest.raises(AssertionError, match="ListMachines: expected 2, saw 1"):
        clerk_emulator.assert_calls(ListMachines=2)

    clerk_emulator.calls.clear()
    clerk_emulator.assert_calls(ListMachines=0)
    clerk_emulator.assert_verifications(0)


def test_assert_calls_rejects_an_unknown_operation(
    clerk_emulator: ClerkEmulator,
) -> None:
    with pytest.raises(ValueError, match="no such operation: verifyM2mToken"):
        clerk_emulator.assert_calls(verifyM2mToken=0)


# The emulator on a port


def test_a_synchronous_client_reaches_the_same_emulator_on_a_port(
    clerk_emulator: ClerkEmulator,
    clerk_emulator_server: ClerkEmulatorServer,
    clerk_machine: MachineFactory,
    clerk_token: TokenFactory,
) -> None:
    orders = clerk_machine("orders")
    with httpx.Client(base_url=clerk_emulator_server.url, headers=bearer(orders.secret_key)) as api:
        token = clerk_token(may_call=[orders])
        answer = api.post("/m2m_tokens/verify", json={"token": token.token})
    assert answer.json()["id"] == token.id
    clerk_emulator.assert_verifications(1)


def test_keys_of_the_developers_shell_do_not_reach_a_service_under_test(
    clerk_emulator_server: ClerkEmulatorServer, clerk_machine: MachineFactory
) -> None:
    orders = clerk_machine("orders")
    shell = {
        "CLERK_SECRET_KEY": "sk_live_real",
        "CLERK_MACHINE_ID": "mch_" + "r" * 27,
        "CLERK_MACHINE_SECRET_KEY": "ak_real",
        "CLERK_JWT_KEY": "real",
        "CLERK_API_URL": "https://api.clerk.com",
    }
    found = Settings.from_env(shell | clerk_emulator_server.environ(orders))
    assert found == clerk_emulator_server.settings(orders)
    assert found.secret_key is None


def test_the_environment_has_the_instance_key_if_requested(
    clerk_emulator_server: ClerkEmulatorServer, clerk_machine: MachineFactory
) -> None:
    server, orders = clerk_emulator_server, clerk_machine("orders")
    key = server.emulator.secret_key
    assert server.environ()["CLERK_SECRET_KEY"] == key
    assert server.environ()["CLERK_MACHINE_SECRET_KEY"] == ""
    assert server.environ(orders, instance_key=True)["CLERK_SECRET_KEY"] == key
    assert server.environ(orders)["CLERK_SECRET_KEY"] == ""


def test_the_server_sends_one_date_header_with_the_emulators_time(
    clerk_emulator_server: ClerkEmulatorServer,
) -> None:
    emulator = clerk_emulator_server.emulator
    emulator.travel(86_400)

    before = emulator.now()
    answer = httpx.get(f"{clerk_emulator_server.url}/v1/jwks", headers=bearer(emulator.secret_key))

    (date,) = answer.headers.get_list("date")
    assert int(before) <= parsedate_to_datetime(date).timestamp() <= emulator.now()


def test_the_server_changes_nothing_in_the_environment(request: pytest.FixtureRequest) -> None:
    def environment() -> dict[str, str]:
        return {name: os.environ[name] for name in os.environ if name.startswith("CLERK_")}

    before = environment()
    request.getfixturevalue("clerk_emulator_server")
    assert environment() == before


def test_the_server_stops_while_a_call_hangs(clerk_emulator: ClerkEmulator) -> None:
    with serve(clerk_emulator) as server:
        clerk_emulator.fail("ListMachines", kind="hang")
        ended: list[Exception] = []

        def call() -> None:
            try:
                httpx.get(f"{server.url}/v1/machines", timeout=30)
            except httpx.HTTPError as exc:
                ended.append(exc)

        hanging = threading.Thread(target=call)
        hanging.start()
        while not clerk_emulator.calls["ListMachines"]:
            hanging.join(0.005)
    hanging.join(10)

    assert [type(exc) for exc in ended] == [httpx.RemoteProtocolError]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/v1/machines")


# Frozen time, received requests, and closing


async def test_frozen_time_moves_only_by_travel(
    clerk_emulator: ClerkEmulator, clerk_machine: MachineFactory, clerk_token: TokenFactory
) -> None:
    clerk_emulator.travel(100)
    clerk_emulator.freeze()
    frozen = clerk_emulator.now()
    clerk_emulator.freeze()
    clerk_emulator.travel(60)

    assert clerk_emulator.now() == frozen + 60
    orders = clerk_machine()
    token = clerk_token(may_call=[orders], seconds_until_expiration=600)
    identity = await clerk_emulator.verifier(orders).verify(token.token)
    assert identity.expires_at == int((frozen + 660) * 1000) / 1000
    assert clerk_emulator.now() == clerk_emulator.clock.wall() == frozen + 60


async def test_requests_holds_the_requests_to_the_emulator(
    clerk_emulator: ClerkEmulator, clerk_machine: MachineFactory
) -> None:
    billing = clerk_machine("billing")
    await clerk_emulator.client(billing).m2m_tokens.create(claims={"job": "nightly"})

    (request,) = clerk_emulator.requests
    assert (request.method, request.path) == ("POST", "/v1/m2m_tokens")
    assert json.loads(request.body)["claims"] == {"job": "nightly"}
    assert "nightly" not in repr(request)


async def test_verifier_accepts_either_a_machine_or_settings(
    clerk_emulator: ClerkEmulator, clerk_machine: MachineFactory, clerk_token: TokenFactory
) -> None:
    orders = clerk_machine()
    settings = clerk_emulator.settings(orders, cache_ttl=7)
    verifier = clerk_emulator.verifier(settings=settings)

    assert verifier.settings is settings
    assert (await verifier.verify(clerk_token(may_call=[orders]).token)).token_id
    for wrong in ({}, {"machine": orders, "settings": settings}, {"settings": settings, "x": 1}):
        with pytest.raises(TypeError, match="needs a machine"):
            clerk_emulator.verifier(**wrong)  # type: ignore[arg-type]  # the wrong type is intended


async def test_aclose_closes_every_verifier_and_client(
    clerk_emulator: ClerkEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[ClerkClient] = []
    close = ClerkClient.aclose

    async def watched(client: ClerkClient) -> None:
        await close(client)
        closed.append(client)

    monkeypatch.setattr(ClerkClient, "aclose", watched)
    client = clerk_emulator.client()
    await client.machines.list()
    await clerk_emulator.aclose()
    await clerk_emulator.aclose()

    assert closed == [client]


def test_served_runs_an_app_with_its_lifespan() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        events.append("start")
        yield
        events.append("stop")

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    with served(Starlette(routes=[Route("/", hello)], lifespan=lifespan)) as url:
        assert httpx.get(url).text == "hello"
    assert events == ["start", "stop"]


def test_an_app_that_does_not_start_fails_the_test() -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        raise ValueError("no database")
        yield

    with pytest.raises(RuntimeError, match="did not start"), served(Starlette(lifespan=lifespan)):
        pass
