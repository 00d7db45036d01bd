"""`ClerkClient`: its keys, listeners for revocations, opening and closing."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import trio
from api_clients import UNKNOWN_KEY, answering, open_client

from clerk_m2m import (
    BackendAPIError,
    BackendUnavailableError,
    ClerkClient,
    ConfigurationError,
    NotFoundError,
    Secret,
)
from clerk_m2m.backend_api import Revocation
from clerk_m2m.backend_api.resources import Machine, Page
from harness import API_URL, USER_ID, World

# Keys


async def test_with_both_keys_an_admin_lists_and_revokes_and_a_machine_mints_and_verifies(
    world: World, clerk: ClerkClient
) -> None:
    """The tokens are another machine's, which the machine's key could not list or revoke."""
    other = world.emulator.mint_m2m_token(world.stranger)
    minted = await clerk.m2m_tokens.create()
    with pytest.raises(NotFoundError):
        await clerk.m2m_tokens.verify(other.token)
    listed = await clerk.m2m_tokens.list(world.stranger.id)
    revoked = await clerk.m2m_tokens.revoke(other.id)

    keys = [request.headers["authorization"][7:] for request in world.upstream.requests]
    machine, instance = world.caller.secret_key, world.emulator.secret_key
    assert keys == [machine, machine, instance, instance]
    assert (minted.subject, listed.total_count, revoked.revoked) == (world.caller.id, 1, True)


async def test_with_its_own_key_alone_a_machine_lists_and_revokes_its_own(world: World) -> None:
    async with open_client(world, machine_secret_key=world.caller.secret_key) as machine:
        minted = await machine.m2m_tokens.create()
        assert (await machine.m2m_tokens.list(world.caller.id)).total_count == 1
        assert (await machine.m2m_tokens.revoke(minted.id)).revoked


async def test_an_operation_without_its_key_names_the_missing_setting(world: World) -> None:
    async with (
        open_client(world, machine_secret_key=world.caller.secret_key) as machine,
        open_client(world, secret_key=world.emulator.secret_key) as instance,
        open_client(world) as none,
    ):
        with pytest.raises(ConfigurationError, match="set secret_key"):
            await machine.machines.list()
        with pytest.raises(ConfigurationError, match="set machine_secret_key"):
            await instance.m2m_tokens.create()
        with pytest.raises(ConfigurationError, match="set secret_key"):
            await none.m2m_tokens.verify("mt_1")
    assert not world.emulator.calls


@pytest.mark.parametrize("key", ["sk_canary_é", "ak_canary"])
async def test_an_invalid_key_is_rejected_and_not_quoted(world: World, key: str) -> None:
    with pytest.raises(ConfigurationError, match="secret_key") as refused:
        open_client(world, secret_key=key)
    assert "canary" not in repr(refused.value)

    async with open_client(world) as client:
        with pytest.raises(ConfigurationError, match="machine_secret_key") as refused:
            await client.m2m_tokens.create(machine_secret_key=f"{key}é")
        assert "canary" not in repr(refused.value)
    assert not world.upstream.requests


async def test_every_call_names_the_version_of_the_api_and_asks_for_plain_json(
    world: World, clerk: ClerkClient
) -> None:
    await clerk.machines.list()

    headers = world.upstream.requests[0].headers
    assert headers["clerk-api-version"] == "2026-05-12"
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"] == "clerk-m2m"


@pytest.mark.parametrize(
    "identifier", ["", "../machines", "mch_1?x", "mch_1/scopes", "mch 1", ".", "é", None]
)
async def test_an_id_cannot_change_the_path(
    world: World, clerk: ClerkClient, identifier: Any
) -> None:
    with pytest.raises(ConfigurationError, match="letters, digits and underscores"):
        await clerk.machines.get(identifier)

    assert not world.upstream.requests


@pytest.mark.parametrize(
    "given",
    [
        {"timeout": float("nan")},
        {"timeout": 0},
        {"timeout": "5"},
        {"max_inflight": 0},
        {"retries": -1},
        {"retries": True},
        {"api_url": "https://clerk.test/v2"},
        pytest.param({"transport": httpx.HTTPTransport()}, id="a synchronous transport"),
    ],
    ids=str,
)
async def test_invalid_settings_are_rejected_at_construction(given: Any) -> None:
    (name,) = given
    with pytest.raises(ConfigurationError, match=name):
        ClerkClient(secret_key="sk_test_hidden", **given)


def endless() -> dict[str, object]:
    """Claims that contain themselves."""
    claims: dict[str, object] = {}
    claims["claims"] = claims
    return claims


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda clerk: clerk.api_keys.create("n", subject=USER_ID, claims={"n": float("nan")}),
            "createApiKey: .* JSON: Out of range float",
        ),
        (
            lambda clerk: clerk.api_keys.create("n", subject=USER_ID, claims={"n": {1, 2}}),
            "createApiKey: .* JSON: Object of type set",
        ),
        (lambda clerk: clerk.machines.create("hidden\ud800"), "CreateMachine: .* JSON"),
        (lambda clerk: clerk.machines.list(query="\ud800"), "ListMachines: query"),
        (lambda clerk: clerk.m2m_tokens.verify("hidden\ud800"), "verifyM2MToken: token"),
        (lambda clerk: clerk.m2m_tokens.verify(b"hidden"), "verifyM2MToken: token must be text"),
        (lambda clerk: clerk.m2m_tokens.verify(None), "verifyM2MToken: token must be text"),
        (lambda clerk: clerk.m2m_tokens.create(claims=endless()), "createM2MToken: .* Circular"),
        (lambda clerk: clerk.machines.list(limit="10"), "ListMachines: limit"),
        (lambda clerk: anext(clerk.machines.iter(page_size=None)), "ListMachines: limit"),
        (lambda clerk: clerk.machines.create("orders", scoped_machines=None), "scoped_machines"),
        (lambda clerk: clerk.jwks.get_public("http://keys.test:port"), "GetJWKS: the address"),
        (lambda clerk: clerk.jwks.get_public("https://["), "GetJWKS: the argument"),
        (lambda clerk: clerk.jwks.get_public(5), "GetJWKS: the argument"),
    ],
)
async def test_an_argument_that_cannot_be_sent_raises_an_error_that_names_the_operation(
    world: World,
    clerk: ClerkClient,
    call: Callable[[Any], Awaitable[object]],
    said: str,
) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        await call(clerk)

    assert "hidden" not in repr(refused.value)
    assert not world.upstream.requests


@pytest.mark.parametrize("end", ["/v1", "/v1/", "/"])
async def test_v1_at_the_end_of_api_url_is_removed(world: World, end: str) -> None:
    async with ClerkClient(
        secret_key=world.emulator.secret_key, api_url=f"{API_URL}{end}", transport=world.upstream
    ) as clerk:
        await clerk.machines.list()

    assert world.upstream.requests[0].url.path == "/v1/machines"


# Options of a call


async def test_a_client_with_other_options_shares_keys_slots_and_listeners(world: World) -> None:
    told: list[Revocation] = []
    world.emulator.fail("ListMachines", delay=0.2)
    async with open_client(
        world, secret_key=world.emulator.secret_key, max_inflight=1, timeout=5.0
    ) as clerk:
        hurried = clerk.with_options(timeout=0.05)
        hurried.on_revocation(told.append)
        other = asyncio.create_task(clerk.machines.list())
        await asyncio.sleep(0)
        with pytest.raises(BackendUnavailableError, match=r"not sent.*timeout of 0\.05 s"):
            await hurried.machines.get(world.caller.id)
        assert (await other).total_count == 3
        await clerk.machines.delete(world.stranger.id)

    assert told == [Revocation(machine_id=world.stranger.id)]
    assert world.emulator.calls == {"ListMachines": 1, "DeleteMachine": 1}


async def test_with_options_changes_only_the_given_options_and_not_the_first_client(
    world: World, clerk: ClerkClient
) -> None:
    world.emulator.fail("ListMachines", status=503)
    asked = []
    for each in (clerk.with_options(retries=0).with_options(timeout=2.0), clerk):
        with pytest.raises(BackendUnavailableError):
            await each.machines.list()
        asked.append(world.emulator.calls["ListMachines"])

    assert asked == [1, 1 + 3]
    bounds = world.upstream.requests[0].extensions["timeout"]
    assert 1.0 < bounds["read"] <= 2.0
    with pytest.raises(ConfigurationError, match="retries"):
        clerk.with_options(retries=-1)
    with pytest.raises(ConfigurationError, match="timeout"):
        clerk.with_options(timeout=float("inf"))


async def test_waiting_for_the_key_counts_against_the_timeout(world: World) -> None:
    async def fetch() -> str:
        await asyncio.sleep(0.2)
        return world.emulator.secret_key

    world.emulator.fail("ListMachines", kind="hang")
    async with open_client(world, secret_key=fetch, timeout=0.3) as clerk:
        begun = time.monotonic()
        with pytest.raises(BackendUnavailableError, match=r"within the timeout of 0\.3 s"):
            await clerk.machines.list()
        took = time.monotonic() - begun
        world.emulator.clear_faults()

    assert 0.3 <= took < 0.45
    assert world.emulator.calls == {"ListMachines": 1}


# Revocations


async def test_listeners_are_notified_after_every_revocation(
    world: World, clerk: ClerkClient
) -> None:
    told: list[Revocation] = []
    clerk.on_revocation(told.append)
    token = await clerk.m2m_tokens.create()
    key = await clerk.api_keys.create("reports", subject=USER_ID)
    await clerk.api_keys.update(key.id, scopes=[])
    await clerk.api_keys.revoke(key.id)
    await clerk.api_keys.delete(key.id)
    await clerk.m2m_tokens.revoke(token.id)
    await clerk.machines.delete_scope(world.caller.id, world.callee.id)
    await clerk.machines.delete(world.stranger.id)

    assert told == [
        *[Revocation(token_id=key.id)] * 3,
        Revocation(token_id=token.id),
        Revocation(caller=world.caller.id),
        Revocation(machine_id=world.stranger.id),
    ]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"status": 400}, False),
        ({"status": 401}, False),
        ({"status": 409}, False),
        ({"status": 429, "retry_after": 60}, False),
        ({"status": 404}, True),  # deleted already, perhaps by a call whose answer was lost
        ({"status": 504}, True),  # the call may have been carried out
        ({"kind": "malformed_json", "performed": True}, True),
    ],
)
async def test_listeners_are_notified_unless_clerk_clearly_rejected_the_call(
    world: World, clerk: ClerkClient, fault: dict[str, Any], told: bool
) -> None:
    heard: list[Revocation] = []
    clerk.on_revocation(heard.append)
    world.emulator.fail("revokeApiKey", **fault)

    with pytest.raises(BackendAPIError):
        await clerk.api_keys.revoke(UNKNOWN_KEY)

    assert heard == ([Revocation(token_id=UNKNOWN_KEY)] if told else [])


async def test_a_listener_that_raises_changes_no_result_and_skips_no_other_listener(
    world: World, clerk: ClerkClient, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Revocation] = []

    def failing_listener(revocation: Revocation) -> None:
        raise ZeroDivisionError("sk_test_canary")

    clerk.on_revocation(failing_listener)
    clerk.on_revocation(told.append)
    token = await clerk.m2m_tokens.create()
    with caplog.at_level("ERROR", "clerk_m2m"):
        revoked = await clerk.m2m_tokens.revoke(token.id)

    assert revoked.revoked
    assert told == [Revocation(token_id=token.id)]
    assert "on_revocation failed (ZeroDivisionError)" in caplog.text
    assert "canary" not in caplog.text


async def test_a_listener_can_be_removed(world: World, clerk: ClerkClient) -> None:
    told: list[Revocation] = []
    kept, remove = clerk.on_revocation(told.append), clerk.on_revocation(told.append)
    remove()
    remove()
    await clerk.machines.delete(world.stranger.id)
    kept()
    await clerk.machines.delete(world.callee.id)

    assert told == [Revocation(machine_id=world.stranger.id)]


async def test_a_coroutine_function_as_listener_is_rejected(clerk: ClerkClient) -> None:
    async def forget(revocation: Revocation) -> None:
        """Never called."""

    given: list[Any] = [forget, functools.partial(forget), None]
    for listener in given:
        with pytest.raises(ConfigurationError, match="on_revocation needs a") as refused:
            clerk.on_revocation(listener)
        assert refused.value.code == "configuration_invalid"


# Opening and closing


async def test_a_closed_client_opens_again_at_the_next_call(
    world: World, clerk: ClerkClient
) -> None:
    await clerk.aclose()
    await clerk.machines.list()
    await clerk.aclose()
    await clerk.aclose()

    assert (await clerk.machines.list()).total_count == 3


def test_one_client_works_in_several_event_loops_in_turn() -> None:
    clerk, asked = answering(*[httpx.Response(200, json={"keys": []}) for _ in range(3)])
    for _ in range(3):
        assert asyncio.run(clerk.jwks.get()) == {"keys": []}

    assert len(asked) == 3


async def test_aclose_does_not_close_a_users_transport(world: World) -> None:
    closed = []

    class Own(httpx.ASGITransport):
        async def aclose(self) -> None:
            closed.append(self)

    own = Own(app=world.emulator)
    key = world.emulator.secret_key
    async with ClerkClient(secret_key=key, api_url=API_URL, transport=own) as clerk:
        await clerk.machines.list()

    assert not closed


# Secrets and pages


def test_secrets_are_equal_by_text_and_wrapping_twice_changes_nothing() -> None:
    secret = Secret(Secret("ak_hidden"))

    assert secret == Secret("ak_hidden")
    assert secret != Secret("ak_other")
    assert secret != "ak_hidden"
    assert len({secret, Secret("ak_hidden")}) == 1
    assert (bool(secret), bool(Secret(""))) == (True, False)
    assert (repr(secret), str(secret)) == ("Secret('…')", "…")


def test_a_page_has_a_length_and_is_iterable() -> None:
    page: Page[Machine] = Page(items=(), total_count=7)

    assert (len(page), list(page)) == (0, [])


def test_under_trio_the_error_says_what_to_do(world: World) -> None:
    async def call() -> None:
        async with ClerkClient(
            secret_key=world.emulator.secret_key, api_url=API_URL, transport=world.upstream
        ) as clerk:
            await clerk.machines.list()

    with pytest.raises(ConfigurationError, match="SyncClerkClient in a thread"):
        trio.run(call)
