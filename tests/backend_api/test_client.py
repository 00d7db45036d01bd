"""`ClerkClient`: every operation, typed in and out, and an error tree that says what to do."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import httpx
import pytest
import pytest_asyncio

from clerk_m2m import (
    AnswerTooLargeError,
    BackendAPIError,
    BackendUnavailableError,
    ClerkClient,
    ConfigurationError,
    ConflictError,
    InvalidRequestError,
    KeyRefusedError,
    NotFoundError,
    RateLimitedError,
    Secret,
)
from clerk_m2m.backend_api.client import Revocation
from clerk_m2m.backend_api.resources import CreatedM2MToken, Machine, Page
from harness import API_URL, USER_ID, World

UNKNOWN_MACHINE = "mch_" + "0" * 27
UNKNOWN_KEY = "ak_" + "0" * 32


def open_client(world: World, **given: Any) -> ClerkClient:
    return ClerkClient(api_url=API_URL, transport=world.upstream, **given)


@pytest_asyncio.fixture
async def clerk(world: World) -> AsyncIterator[ClerkClient]:
    """A client that holds the instance's key and the caller's."""
    async with open_client(
        world,
        secret_key=world.emulator.secret_key,
        machine_secret_key=world.caller.secret_key,
        timeout=5.0,
    ) as opened:
        yield opened


def answering(*answers: httpx.Response | Exception) -> tuple[ClerkClient, list[httpx.Request]]:
    """Make a client whose network gives these answers in turn, and what it was asked."""
    asked: list[httpx.Request] = []
    waiting = list(answers)

    async def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        given = waiting.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    client = ClerkClient(
        secret_key="sk_test_hidden",
        machine_secret_key="ak_hidden",
        api_url=API_URL,
        transport=httpx.MockTransport(answer),
        timeout=5.0,
    )
    return client, asked


def failing(status: int, **given: Any) -> httpx.Response:
    errors = [{"code": "odd", "message": "no"}]
    return httpx.Response(status, json={"errors": errors, "clerk_trace_id": "trace_1"}, **given)


# Machines and edges


async def test_a_machine_lives_from_creation_to_deletion(world: World, clerk: ClerkClient) -> None:
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


async def test_a_machine_secret_is_read_and_rotated_and_hides_itself(
    world: World, clerk: ClerkClient
) -> None:
    secret = await clerk.machines.get_secret_key(world.callee.id)
    rotated = await clerk.machines.rotate_secret_key(world.callee.id, previous_token_ttl=60)

    assert secret.reveal() == world.callee.secret_key
    assert rotated != secret
    assert secret.reveal() not in f"{secret!r} {secret}"


async def test_an_edge_is_added_and_cut(world: World, clerk: ClerkClient) -> None:
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


async def test_all_machines_are_walked_page_by_page(world: World, clerk: ClerkClient) -> None:
    names = [machine.name async for machine in clerk.machines.iter(page_size=2, order_by="+name")]
    found = [machine.name async for machine in clerk.machines.iter(query="call")]

    assert names == ["callee", "caller", "stranger"]
    assert sorted(found) == ["callee", "caller"]
    assert world.emulator.calls["ListMachines"] == 3


async def test_a_walk_takes_500_machines_with_many_edges_in_one_page(
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


async def test_a_walk_gives_up_where_one_item_alone_is_too_large(
    world: World, clerk: ClerkClient
) -> None:
    world.emulator.fail("ListMachines", body=b" " * (33 * 1024 * 1024))

    with pytest.raises(AnswerTooLargeError) as failed:
        _ = [machine async for machine in clerk.machines.iter()]

    assert failed.value.code == "answer_too_large"
    assert world.emulator.calls["ListMachines"] == 5  # 500, 125, 31, 7, 1 and no less
    assert isinstance(failed.value, BackendUnavailableError)


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
    assert isinstance(verified.claims, MappingProxyType)
    assert verified.claims == {"tenant": {"id": 7}}
    assert verified.last_used_at is not None
    assert verified.live
    assert (revoked.live, revoked.revocation_reason) == (False, "leaked")


async def test_a_token_may_live_forever_or_be_a_jwt(world: World, clerk: ClerkClient) -> None:
    endless = await clerk.m2m_tokens.create(seconds_until_expiration=None)
    jwt = await clerk.m2m_tokens.create(token_format="jwt", claims={"scopes": ["*"]})
    forever = world.emulator.mint_m2m_token(world.caller, seconds_until_expiration=math.inf)
    (kept,) = (token for token in await clerk.m2m_tokens.list(world.caller.id, limit=1))

    assert endless.expires_at == datetime.fromtimestamp(world.time.wall + 3600, UTC)
    assert jwt.token.reveal().count(".") == 2
    assert (kept.id, kept.expires_at) == (forever.id, None)


async def test_a_live_token_is_given_again_where_enough_of_its_life_is_left(
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


async def test_dead_tokens_are_walked_only_where_asked_for(
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
async def test_one_string_is_no_list_and_nothing_is_sent(
    world: World, clerk: ClerkClient, call: Callable[[ClerkClient], Awaitable[Any]], name: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be a list") as refused:
        await call(clerk)

    assert refused.value.code == "configuration_invalid"
    assert world.upstream.requests == []


async def test_an_api_key_lives_from_creation_to_deletion(clerk: ClerkClient) -> None:
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


async def test_an_update_of_an_api_key_changes_what_is_given_and_clears_with_none(
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
    assert (moved.subject, moved.claims, moved.expires_at) == (world.caller.id, {}, None)
    assert moved.name == "reports"


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


async def test_the_key_set_is_read_with_the_key_or_publicly_without_any(
    world: World, clerk: ClerkClient
) -> None:
    own = await clerk.jwks.get()
    public = await clerk.jwks.get_public(f"{API_URL}/v1/.well-known/jwks.json")

    assert own == public == world.emulator.jwks()
    assert "authorization" in world.upstream.requests[0].headers
    assert "authorization" not in world.upstream.requests[1].headers


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


@pytest.mark.parametrize("identifier", ["", "../machines", "mch_1?x", "mch_1/scopes", "mch 1", "."])
async def test_an_id_cannot_change_the_path(
    world: World, clerk: ClerkClient, identifier: str
) -> None:
    with pytest.raises(ValueError, match="letters, digits and underscores"):
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


# Errors


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, InvalidRequestError, "invalid_request"),
        (401, KeyRefusedError, "key_refused"),
        (403, KeyRefusedError, "key_refused"),
        (404, NotFoundError, "not_found"),
        (409, ConflictError, "conflict"),
        (422, InvalidRequestError, "invalid_request"),
        (429, RateLimitedError, "rate_limited"),
        (402, BackendUnavailableError, "backend_unavailable"),
        (418, BackendUnavailableError, "backend_unavailable"),
        (500, BackendUnavailableError, "backend_unavailable"),
    ],
)
async def test_a_status_becomes_the_error_of_its_meaning(
    status: int, kind: type[BackendAPIError], code: str
) -> None:
    clerk, _ = answering(failing(status))
    with pytest.raises(BackendAPIError) as failed:
        await clerk.m2m_tokens.create()

    error = failed.value
    assert type(error) is kind
    assert (error.code, error.status, error.clerk_trace_id) == (code, status, "trace_1")
    assert [each.code for each in error.errors] == ["odd"]
    assert str(error) == f"createM2MToken: Clerk answered {status}. no"


async def test_the_fields_at_fault_are_named(clerk: ClerkClient) -> None:
    with pytest.raises(InvalidRequestError) as failed:
        await clerk.machines.create("")

    assert failed.value.status == 422
    assert [each.field for each in failed.value.errors] == ["name"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
async def test_an_answer_that_is_not_clerks_decides_nothing(status: int) -> None:
    clerk, asked = answering(httpx.Response(status, text="<html>gateway</html>"))
    with pytest.raises(BackendUnavailableError, match="a gateway or proxy answered") as failed:
        await clerk.m2m_tokens.create()

    assert (failed.value.code, failed.value.status) == ("backend_unavailable", status)
    assert f"answered {status}, not in Clerk's form" in str(failed.value)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"), [({}, None), ({"Retry-After": "7"}, 7.0), ({"Retry-After": "0"}, 0.0)]
)
async def test_a_503_asks_for_a_wait_only_where_it_has_a_retry_after(
    headers: dict[str, str], seconds: float | None
) -> None:
    clerk, _ = answering(failing(503, headers=headers))
    with pytest.raises(BackendUnavailableError) as failed:
        await clerk.m2m_tokens.create()

    assert (failed.value.code, failed.value.retry_after) == ("backend_unavailable", seconds)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(httpx.Response(302, headers={"Location": "http://evil.test/"}), id="moved"),
        pytest.param(httpx.Response(301, headers={"Location": "http://["}), id="moved nowhere"),
        pytest.param(httpx.Response(304), id="not modified"),
        pytest.param(httpx.Response(200, text=""), id="empty"),
        pytest.param(httpx.Response(204), id="no content"),
        pytest.param(httpx.Response(200, text="<html>"), id="not JSON"),
        pytest.param(httpx.Response(200, content=b'"\xff"'), id="not UTF-8"),
        pytest.param(httpx.Response(200, text="null"), id="null"),
        pytest.param(httpx.Response(200, text="[" * 50_000), id="endless nesting"),
        pytest.param(httpx.Response(200, text="9" * 5000), id="endless number"),
        pytest.param(httpx.Response(200, json=[]), id="an array"),
        pytest.param(httpx.Response(200, json={}), id="an object of another shape"),
    ],
)
async def test_an_answer_that_makes_no_sense_is_no_answer(answer: httpx.Response) -> None:
    clerk, asked = answering(answer)
    with pytest.raises(BackendUnavailableError) as failed:
        await clerk.m2m_tokens.create()

    assert failed.value.code == "backend_unavailable"
    assert len(asked) == 1


async def test_a_compressed_answer_is_refused_unread() -> None:
    answer = httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=b"")
    clerk, _ = answering(answer)
    with pytest.raises(BackendUnavailableError, match="compressed") as failed:
        await clerk.m2m_tokens.create()

    assert failed.value.code == "backend_unavailable"


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1])
async def test_an_answer_is_read_up_to_64_kib_and_a_list_further(size: int) -> None:
    body = b"[" + b" " * (size - 2) + b"]"
    clerk, _ = answering(httpx.Response(200, content=body), httpx.Response(200, content=body))
    with pytest.raises(BackendUnavailableError) as one:
        await clerk.m2m_tokens.create()
    with pytest.raises(BackendUnavailableError) as several:
        await clerk.machines.list()

    too_large = size > 64 * 1024
    assert one.value.code == ("answer_too_large" if too_large else "backend_unavailable")
    assert several.value.code == "backend_unavailable"


async def test_no_error_text_repeats_a_secret_that_the_upstream_echoes() -> None:
    token = "mt_" + "hidden" * 7
    errors = [
        {"code": token, "message": "in the code"},
        {"code": "a", "message": f"unknown {token}"},
        {"code": "b", "message": "is wrong", "meta": {"param_name": f"x{token}"}},
        {"code": "c", "message": "for Bearer ak_hidden"},
        {"code": "d", "message": "harmless"},
    ]
    clerk, _ = answering(httpx.Response(400, json={"errors": errors}))
    with pytest.raises(InvalidRequestError) as failed:
        await clerk.m2m_tokens.verify(token)

    assert "hidden" not in f"{failed.value} {failed.value!r} {failed.value.errors}"
    assert [each.code for each in failed.value.errors] == [*["withheld"] * 4, "d"]


# Retries


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_read_is_repeated_once_after_a_gateways_error(status: int) -> None:
    clerk, asked = answering(failing(status), httpx.Response(200, json={"keys": []}))

    assert await clerk.jwks.get() == {"keys": []}
    assert len(asked) == 2


async def test_a_verification_is_repeated_once_and_no_more() -> None:
    clerk, asked = answering(failing(503), failing(503))
    with pytest.raises(BackendUnavailableError) as failed:
        await clerk.m2m_tokens.verify("mt_1")

    assert failed.value.status == 503
    assert len(asked) == 2


@pytest.mark.parametrize("answer", [failing(500), httpx.ReadTimeout(""), httpx.ReadError("")])
async def test_a_read_is_not_repeated_where_that_does_not_help(
    answer: httpx.Response | Exception,
) -> None:
    clerk, asked = answering(answer)
    with pytest.raises(BackendUnavailableError) as failed:
        await clerk.jwks.get()

    assert failed.value.code == "backend_unavailable"
    assert len(asked) == 1


Change = Callable[[ClerkClient], Awaitable[object]]


@pytest.mark.parametrize(
    "change",
    [
        lambda clerk: clerk.m2m_tokens.create(),
        lambda clerk: clerk.machines.create("orders"),
        lambda clerk: clerk.machines.delete(UNKNOWN_MACHINE),
        lambda clerk: clerk.machines.rotate_secret_key(UNKNOWN_MACHINE, previous_token_ttl=0),
        lambda clerk: clerk.api_keys.update(UNKNOWN_KEY, scopes=[]),
    ],
)
@pytest.mark.parametrize("answer", [failing(503), failing(429), httpx.ReadTimeout("")])
async def test_what_changes_something_is_never_sent_twice(
    change: Change, answer: httpx.Response | Exception
) -> None:
    clerk, asked = answering(answer)
    with pytest.raises(BackendAPIError):
        await change(clerk)

    assert len(asked) == 1


@pytest.mark.parametrize("error", [httpx.ConnectError(""), httpx.ConnectTimeout("")])
async def test_what_was_never_sent_may_be_sent_again(error: Exception) -> None:
    clerk, asked = answering(error, failing(404))
    with pytest.raises(NotFoundError):
        await clerk.machines.delete(UNKNOWN_MACHINE)

    assert len(asked) == 2


@pytest.mark.parametrize("retry_after", ["0", "Wed, 21 Oct 2015 07:28:00 GMT"])
async def test_a_client_waits_for_retry_after_where_that_fits_the_deadline(
    retry_after: str,
) -> None:
    clerk, asked = answering(
        failing(429, headers={"Retry-After": retry_after}),
        httpx.Response(200, json={"keys": []}),
    )

    assert await clerk.jwks.get() == {"keys": []}
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "6"}, 6.0),
        ({"Retry-After": "999999999"}, 999_999_999.0),
        ({"Retry-After": "-1"}, 1.0),
        ({"Retry-After": "soon"}, 1.0),
        ({"Retry-After": "1" * 5000}, 1.0),
        ({"Retry-After": "Mon, 1 Jan 2024 00:00:00 +" + "9" * 20}, 1.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00"}, 0.0),
        ({}, 1.0),
    ],
)
async def test_a_rate_limit_says_when_to_come_back(headers: dict[str, str], seconds: float) -> None:
    clerk, _ = answering(failing(429, headers=headers))
    with pytest.raises(RateLimitedError) as failed:
        await clerk.m2m_tokens.create()

    assert failed.value.retry_after == seconds


async def test_a_retry_after_past_the_deadline_is_not_waited_for() -> None:
    clerk, asked = answering(failing(429, headers={"Retry-After": "6"}))
    with pytest.raises(RateLimitedError) as failed:
        await clerk.jwks.get()

    assert failed.value.retry_after == 6.0
    assert len(asked) == 1


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
