"""`ClerkClient` itself: its keys, who is told of a revocation, opening and closing."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from api_clients import UNKNOWN_KEY, answering, open_client

from clerk_m2m import BackendAPIError, ClerkClient, ConfigurationError, Secret
from clerk_m2m.backend_api import Revocation
from clerk_m2m.backend_api.resources import Machine, Page
from harness import USER_ID, World

# Keys


async def test_m2m_tokens_take_the_machines_key_where_both_are_given(
    world: World, clerk: ClerkClient
) -> None:
    await clerk.m2m_tokens.list(world.caller.id)

    key = world.upstream.requests[-1].headers["authorization"]
    assert key == f"Bearer {world.caller.secret_key}"


async def test_an_operation_without_its_key_says_which_to_give(world: World) -> None:
    async with (
        open_client(world, machine_secret_key=world.caller.secret_key) as machine,
        open_client(world, secret_key=world.emulator.secret_key) as instance,
        open_client(world) as none,
    ):
        with pytest.raises(ConfigurationError, match="give secret_key"):
            await machine.machines.list()
        with pytest.raises(ConfigurationError, match="give machine_secret_key"):
            await instance.m2m_tokens.create()
        with pytest.raises(ConfigurationError, match="give secret_key"):
            await none.m2m_tokens.verify("mt_1")
    assert not world.emulator.calls


@pytest.mark.parametrize("key", ["sk_canary_é", "sk_canary\n", "ak_canary"])
async def test_a_key_that_could_not_be_sent_is_refused_and_not_shown(
    world: World, key: str
) -> None:
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


# Revocations


async def test_whoever_listens_is_told_of_every_revocation_once_it_is_done(
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
        ({"status": 429}, False),
        ({"status": 404}, True),  # gone already, maybe by a call whose answer was lost
        ({"status": 504}, True),  # carried out, or not: nobody knows
        ({"kind": "malformed_json", "performed": True}, True),
    ],
)
async def test_a_revocation_is_told_of_unless_clerk_has_clearly_refused_it(
    world: World, clerk: ClerkClient, fault: dict[str, Any], told: bool
) -> None:
    heard: list[Revocation] = []
    clerk.on_revocation(heard.append)
    world.emulator.fail("revokeApiKey", **fault)

    with pytest.raises(BackendAPIError):
        await clerk.api_keys.revoke(UNKNOWN_KEY)

    assert heard == ([Revocation(token_id=UNKNOWN_KEY)] if told else [])


# Opening and closing


async def test_a_closed_client_opens_again_at_the_next_call(
    world: World, clerk: ClerkClient
) -> None:
    await clerk.aclose()
    await clerk.machines.list()
    await clerk.aclose()
    await clerk.aclose()

    assert (await clerk.machines.list()).total_count == 3


def test_one_client_serves_one_event_loop_after_the_other() -> None:
    clerk, asked = answering(*[httpx.Response(200, json={"keys": []}) for _ in range(3)])
    for _ in range(3):
        assert asyncio.run(clerk.jwks.get()) == {"keys": []}

    assert len(asked) == 3


# Secrets and pages


def test_a_secret_is_equal_by_its_text_and_wraps_once() -> None:
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
