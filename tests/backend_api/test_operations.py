"""Every operation, with typed arguments and results."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from api_clients import UNKNOWN_KEY, UNKNOWN_MACHINE, open_client

from clerk_m2m import (
    AnswerTooLargeError,
    BackendUnavailableError,
    ClerkClient,
    ConfigurationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    Secret,
)
from clerk_m2m.backend_api import CreatedM2MToken, CreatedMachine, Revocation
from harness import API_URL, USER_ID, World

# Machines and edges


async def test_a_machine_is_created_read_updated_and_deleted(
    world: World, clerk: ClerkClient
) -> None:
    created = await clerk.machines.create(
        "orders", scoped_machines=[world.callee.id], default_token_ttl=600
    )
    read = await clerk.machines.get(created.id)
    renamed = await clerk.machines.update(created.id, name="sales")
    longer = await clerk.machines.update(created.id, default_token_ttl=60)
    await clerk.machines.delete(created.id)

    assert isinstance(created.secret_key, Secret)
    assert [callee.id for callee in read.scoped_machines] == [world.callee.id]
    assert (read.name, read.default_token_ttl) == ("orders", 600)
    assert read.instance_id == world.emulator.instance_id
    assert (renamed.name, renamed.default_token_ttl) == ("sales", 600)
    assert (longer.name, longer.default_token_ttl) == ("sales", 60)
    with pytest.raises(NotFoundError) as missing:
        await clerk.machines.get(created.id)
    assert (missing.value.code, missing.value.status) == ("not_found", 404)


async def test_instants_are_aware_datetimes(world: World, clerk: ClerkClient) -> None:
    machine = await clerk.machines.get(world.caller.id)

    assert machine.created_at == datetime.fromtimestamp(world.time.wall, UTC)
    assert machine.updated_at == machine.created_at


async def test_a_machine_secret_is_read_and_rotated_and_hidden(
    world: World, clerk: ClerkClient
) -> None:
    secret = await clerk.machines.get_secret_key(world.callee.id)
    rotated = await clerk.machines.rotate_secret_key(world.callee.id, previous_token_ttl=60)

    assert secret.reveal() == world.callee.secret_key
    assert rotated != secret
    assert secret.reveal() not in f"{secret!r} {secret}"


async def test_an_edge_is_added_and_removed(world: World, clerk: ClerkClient) -> None:
    added = await clerk.machines.create_scope(world.stranger.id, world.callee.id)
    cut = await clerk.machines.delete_scope(world.stranger.id, world.callee.id)

    assert (added.caller, added.callee) == (world.stranger.id, world.callee.id)
    assert added.created_at is not None
    assert cut.created_at is None
    with pytest.raises(NotFoundError) as missing:
        await clerk.machines.delete_scope(world.stranger.id, world.callee.id)
    assert missing.value.code == "not_found"


async def test_an_edge_that_exists_is_a_conflict(world: World, clerk: ClerkClient) -> None:
    with pytest.raises(ConflictError) as conflict:
        await clerk.machines.create_scope(world.caller.id, world.callee.id)

    assert (conflict.value.code, conflict.value.status) == ("conflict", 409)
    assert [each.code for each in conflict.value.errors] == ["duplicate_record"]
    assert conflict.value.clerk_trace_id


async def test_machines_are_listed_by_page_query_and_order(clerk: ClerkClient) -> None:
    page = await clerk.machines.list(limit=2, offset=1, order_by="+name")
    found = await clerk.machines.list(query="strang")

    assert [machine.name for machine in page] == ["caller", "stranger"]
    assert (len(page), page.total_count) == (2, 3)
    assert [machine.name for machine in found] == ["stranger"]


async def test_iter_reads_all_machines_page_by_page(world: World, clerk: ClerkClient) -> None:
    names = [machine.name async for machine in clerk.machines.iter(page_size=2, order_by="+name")]
    found = [machine.name async for machine in clerk.machines.iter(query="call")]

    assert names == ["callee", "caller", "stranger"]
    assert sorted(found) == ["callee", "caller"]
    assert (
        world.emulator.calls["ListMachines"] == 3
    )  # two pages, then one page that held everything


async def test_iter_reads_500_machines_with_many_edges_in_one_page(
    world: World, clerk: ClerkClient
) -> None:
    for number in range(20):
        world.emulator.add_machine(f"machine {number:02} " + "x" * 230)
    callees = [machine.id async for machine in clerk.machines.iter()]
    for number in range(8):
        world.emulator.add_machine(f"hub {number}", may_call=callees)
    for number in range(100):
        world.emulator.add_machine(f"leaf {number:03}", may_call=callees)
    world.upstream.requests.clear()

    walked = [machine.name async for machine in clerk.machines.iter(order_by="+name")]

    limits = [int(request.url.params["limit"]) for request in world.upstream.requests]
    assert limits == [500]
    assert walked == sorted(walked)
    assert len(walked) == 23 + 108


async def test_iter_raises_if_a_single_item_is_too_large(world: World, clerk: ClerkClient) -> None:
    world.emulator.fail("ListMachines", body=b" " * (33 * 1024 * 1024))

    with pytest.raises(AnswerTooLargeError) as failed:
        _ = [machine async for machine in clerk.machines.iter()]

    assert failed.value.code == "answer_too_large"
    assert world.emulator.calls["ListMachines"] == 5  # page sizes 500, 125, 31, 7 and 1
    assert isinstance(failed.value, BackendUnavailableError)


async def test_find_or_create_matches_the_whole_name(world: World, clerk: ClerkClient) -> None:
    world.emulator.add_machine("orders-eu")  # its name contains the other name
    created, is_new = await clerk.machines.find_or_create(
        "orders", scoped_machines=[world.callee.id], default_token_ttl=60
    )
    found, is_new_too = await clerk.machines.find_or_create("orders", default_token_ttl=7)

    assert (is_new, is_new_too) == (True, False)
    assert isinstance(created, CreatedMachine)
    assert not isinstance(found, CreatedMachine)
    assert (found.id, found.default_token_ttl) == (created.id, 60)
    assert [callee.id for callee in found.scoped_machines] == [world.callee.id]


async def test_find_or_create_raises_if_two_machines_have_the_name(
    world: World, clerk: ClerkClient
) -> None:
    first, second = world.emulator.add_machine("orders"), world.emulator.add_machine("orders")

    with pytest.raises(ConflictError) as conflict:
        await clerk.machines.find_or_create("orders")

    assert conflict.value.code == "conflict"
    assert f"'orders': {first.id}, {second.id}." in str(conflict.value)
    assert not world.emulator.calls["CreateMachine"]


# M2M tokens


async def test_a_token_is_minted_verified_listed_and_revoked(
    world: World, clerk: ClerkClient
) -> None:
    minted = await clerk.m2m_tokens.create(
        seconds_until_expiration=60, claims={"tenant": {"id": 7}}
    )
    listed = await clerk.m2m_tokens.list(world.caller.id)
    async with open_client(world, machine_secret_key=world.callee.secret_key) as callee:
        verified = await callee.m2m_tokens.verify(minted.token)
    revoked = await clerk.m2m_tokens.revoke(minted.id, revocation_reason="leaked")

    assert isinstance(minted, CreatedM2MToken)
    assert (minted.subject, minted.scopes) == (world.caller.id, (world.callee.id,))
    assert minted.expires_at == datetime.fromtimestamp(world.time.wall + 60, UTC)
    assert minted.token.reveal() not in repr(minted)
    assert [token.id for token in listed] == [verified.id] == [minted.id]
    assert verified.claims == {"tenant": {"id": 7}}
    assert verified.last_used_at is not None
    assert verified.live
    assert (revoked.live, revoked.revocation_reason) == (False, "leaked")


async def test_a_token_may_have_no_expiry_or_be_a_jwt(world: World, clerk: ClerkClient) -> None:
    endless = await clerk.m2m_tokens.create(seconds_until_expiration=None)
    jwt = await clerk.m2m_tokens.create(token_format="jwt", claims={"scopes": ["*"]})
    forever = world.emulator.mint_m2m_token(world.caller, seconds_until_expiration=math.inf)
    (kept,) = (token for token in await clerk.m2m_tokens.list(world.caller.id, limit=1))

    assert endless.expires_at == datetime.fromtimestamp(world.time.wall + 3600, UTC)
    assert jwt.token.reveal().count(".") == 2
    assert (kept.id, kept.expires_at) == (forever.id, None)


async def test_min_remaining_ttl_seconds_reuses_a_token_with_enough_life_left(
    clerk: ClerkClient,
) -> None:
    first = await clerk.m2m_tokens.create(seconds_until_expiration=600)
    again = await clerk.m2m_tokens.create(
        seconds_until_expiration=600, min_remaining_ttl_seconds=300
    )

    assert again.id == first.id


async def test_a_token_is_minted_with_the_key_of_another_machine(
    world: World, clerk: ClerkClient
) -> None:
    minted = await clerk.m2m_tokens.create(machine_secret_key=world.stranger.secret_key)

    assert minted.subject == world.stranger.id


async def test_iter_skips_revoked_and_expired_tokens_unless_requested(
    world: World, clerk: ClerkClient
) -> None:
    revoked = world.emulator.mint_m2m_token(world.caller)
    world.emulator.revoke_m2m_token(revoked.id)
    short = world.emulator.mint_m2m_token(world.caller, seconds_until_expiration=1)
    world.time.advance(2)
    live = world.emulator.mint_m2m_token(world.caller)
    subject = world.caller.id

    async def ids(**given: Any) -> set[str]:
        return {token.id async for token in clerk.m2m_tokens.iter(subject, page_size=1, **given)}

    assert await ids() == {live.id}
    assert await ids(revoked=True) == {live.id, revoked.id}
    assert await ids(revoked=True, expired=True) == {live.id, revoked.id, short.id}


# API keys, OAuth tokens, key sets


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda c: c.api_keys.create("reports", subject=USER_ID, scopes="read"), "scopes"),
        (lambda c: c.api_keys.update(UNKNOWN_KEY, scopes="read"), "scopes"),
        (lambda c: c.api_keys.update(UNKNOWN_KEY, scopes=b"read"), "scopes"),
        (lambda c: c.machines.create("orders", scoped_machines=UNKNOWN_MACHINE), "scoped_machines"),
    ],
)
async def test_one_string_instead_of_a_list_is_rejected(
    world: World, clerk: ClerkClient, call: Callable[[ClerkClient], Awaitable[Any]], name: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be a list") as refused:
        await call(clerk)

    assert refused.value.code == "configuration_invalid"
    assert world.upstream.requests == []


async def test_an_api_key_is_created_read_revoked_and_deleted(clerk: ClerkClient) -> None:
    created = await clerk.api_keys.create(
        "reports",
        subject=USER_ID,
        scopes=["read"],
        claims={"tier": 1},
        description="for reports",
        created_by=USER_ID,
        seconds_until_expiration=60,
    )
    verified = await clerk.api_keys.verify(created.secret)
    secret = await clerk.api_keys.get_secret(created.id)
    revoked = await clerk.api_keys.revoke(created.id, revocation_reason="leaked")
    read = await clerk.api_keys.get(created.id)
    await clerk.api_keys.delete(created.id)

    assert secret == created.secret
    assert secret.reveal() not in repr(created)
    assert (verified.name, verified.subject, verified.scopes) == ("reports", USER_ID, ("read",))
    assert (verified.description, verified.created_by) == ("for reports", USER_ID)
    assert verified.claims == {"tier": 1}
    assert verified.live
    assert not read.live
    assert read.revocation_reason == revoked.revocation_reason == "leaked"
    with pytest.raises(NotFoundError) as missing:
        await clerk.api_keys.get(created.id)
    assert missing.value.code == "not_found"


async def test_updating_an_api_key_changes_given_values_and_clears_with_none(
    world: World, clerk: ClerkClient
) -> None:
    key = await clerk.api_keys.create(
        "reports", subject=USER_ID, scopes=["read"], claims={"a": 1}, description="old"
    )
    await clerk.api_keys.update(key.id, scopes=("write",), claims={"b": 2})
    kept = await clerk.api_keys.update(key.id, description=None, seconds_until_expiration=60)
    moved = await clerk.api_keys.update(
        key.id, claims=None, subject=world.caller.id, seconds_until_expiration=None
    )

    assert (kept.scopes, kept.claims, kept.description) == (("write",), {"b": 2}, None)
    assert kept.expires_at is not None
    assert (moved.subject, moved.claims, moved.expires_at) == (world.caller.id, None, None)
    assert moved.name == "reports"


@pytest.mark.parametrize(
    "claims", [{"a": [1, {"b": None}]}, {}, [1, "x"], "text", 0, 0.5, False, None], ids=repr
)
async def test_claims_of_an_api_key_are_any_json_and_can_be_written_back(
    world: World, clerk: ClerkClient, claims: Any
) -> None:
    created = await clerk.api_keys.create("reports", subject=USER_ID, claims=claims)
    read = await clerk.api_keys.get(created.id)
    written = await clerk.api_keys.update(read.id, claims=read.claims)

    bodies = [json.loads(request.content or "{}") for request in world.upstream.requests]
    assert bodies[0]["claims"] == bodies[-1]["claims"] == claims
    assert (type(read.claims), read.claims, written.claims) == (type(claims), claims, claims)


async def test_the_claims_of_an_identity_can_be_sent_again(
    world: World, clerk: ClerkClient
) -> None:
    """The claims are read-only, at every depth."""
    claims = {"tenant": {"ids": [1, {"a": 2}]}}
    key = world.emulator.add_api_key("reports", subject=USER_ID, claims=claims)
    identity = await world.verifier(world.live_settings()).verify(key.secret)

    copied = await clerk.api_keys.create("copy", subject=USER_ID, claims=identity.claims)
    minted = await clerk.m2m_tokens.create(claims=identity.claims)

    assert copied.claims == minted.claims == claims


async def test_api_keys_are_listed_by_type(
    clerk: ClerkClient,
) -> None:
    plain = await clerk.api_keys.create("plain reports", subject=USER_ID)
    typed = await clerk.api_keys.create("nightly reports", subject=USER_ID, type="nightly")
    other = await clerk.api_keys.create("other", subject=USER_ID, type="nightly")

    async def walked(**given: Any) -> list[str]:
        return [key.id async for key in clerk.api_keys.iter(USER_ID, page_size=1, **given)]

    assert (plain.type, typed.type) == ("api_key", "nightly")
    assert (await clerk.api_keys.get(typed.id)).type == "nightly"
    assert [key.id for key in await clerk.api_keys.list(USER_ID)] == [plain.id]
    assert [key.id for key in await clerk.api_keys.list(USER_ID, type="nightly")] == [
        other.id,
        typed.id,
    ]
    assert await walked() == [plain.id]
    assert await walked(type="nightly") == [other.id, typed.id]
    assert await walked(type="nightly", query="report") == [typed.id]


async def test_api_keys_are_listed_and_walked(world: World, clerk: ClerkClient) -> None:
    made = [await clerk.api_keys.create(f"key {n}", subject=USER_ID) for n in range(3)]
    world.emulator.revoke_api_key(made[0].id)

    page = await clerk.api_keys.list(USER_ID, limit=1, offset=1, query="key")
    walked = [key.id async for key in clerk.api_keys.iter(USER_ID, page_size=2)]
    every = [
        key.id async for key in clerk.api_keys.iter(USER_ID, include_invalid=True, page_size=2)
    ]

    assert [key.id for key in page] == [made[1].id]
    assert page.total_count == 2
    assert walked == [made[2].id, made[1].id]
    assert every == [made[2].id, made[1].id, made[0].id]


async def test_an_oauth_token_is_verified(world: World, clerk: ClerkClient) -> None:
    token = world.emulator.add_oauth_token(
        subject=USER_ID, scopes=["profile"], client_id="client_1"
    )
    verified = await clerk.oauth_access_tokens.verify(token.token)
    world.emulator.fail("verifyOAuthAccessToken", kind="inactive")
    inactive = await clerk.oauth_access_tokens.verify(Secret(token.token))

    assert verified is not None
    assert (verified.id, verified.client_id, verified.scopes) == (
        token.id,
        "client_1",
        ("profile",),
    )
    assert inactive is None


async def test_an_oauth_token_is_revoked_by_its_text(world: World, clerk: ClerkClient) -> None:
    told: list[Revocation] = []
    clerk.on_revocation(told.append)
    token = world.emulator.add_oauth_token(subject=USER_ID, client_id="client_shop").token
    jwt = world.emulator.add_oauth_token(
        subject=USER_ID, client_id="client_shop", token_format="jwt"
    ).token

    await clerk.oauth_access_tokens.revoke(token, oauth_application_id="oauthapp_shop")
    with pytest.raises(InvalidRequestError) as refused:
        await clerk.oauth_access_tokens.revoke(jwt, oauth_application_id="oauthapp_shop")
    with pytest.raises(NotFoundError) as missing:
        await clerk.oauth_access_tokens.verify(token)

    assert refused.value.code == "invalid_request"
    assert missing.value.code == "not_found"
    assert told == [Revocation(token=Secret(token))]
    assert token not in repr(told)


@pytest.mark.parametrize(
    ("url", "allow_http", "refused"),
    [
        ("http://example.test/.well-known/jwks.json", False, True),
        ("ftp://example.test/jwks.json", False, True),
        ("http://127.0.0.1:9/jwks.json", False, False),
        ("http://example.test/jwks.json", True, False),
    ],
)
async def test_a_public_key_set_is_read_over_https(
    url: str, allow_http: bool, refused: bool
) -> None:
    """Over plain http an attacker on the network could replace its keys and forge tokens."""
    async with ClerkClient(api_url=API_URL, allow_http=allow_http, timeout=0.2) as clerk:
        with pytest.raises(ConfigurationError if refused else BackendUnavailableError) as failed:
            await clerk.jwks.get_public(url)

    assert failed.value.code == ("configuration_invalid" if refused else "backend_unavailable")


async def test_the_key_set_is_read_with_the_key_or_publicly_without_any(
    world: World, clerk: ClerkClient
) -> None:
    own = await clerk.jwks.get()
    public = await clerk.jwks.get_public(f"{API_URL}/v1/.well-known/jwks.json")

    assert own == public == world.emulator.jwks()
    assert "authorization" in world.upstream.requests[0].headers
    assert "authorization" not in world.upstream.requests[1].headers
