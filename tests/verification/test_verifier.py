"""The main job: from a token to an identity, or to the refusal that it deserves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from clerk_backend_api import Clerk
from clerk_backend_api.models import TokenFormat

from clerk_m2m import (
    ApiKeyIdentity,
    ClerkClient,
    Identity,
    MachineIdentity,
    OAuthIdentity,
    Reason,
    RefusalError,
    ScopeDeniedError,
    TokenInvalidError,
    VerificationUnavailableError,
    Verifier,
)
from clerk_m2m.verification.policy import decide
from harness import API_URL, USER_ID, World, bearer, calling, protected, serve


async def test_a_permitted_caller_is_known_by_its_machine(world: World) -> None:
    identity = await world.verifier().verify(world.token())

    assert isinstance(identity, MachineIdentity)
    assert identity.machine_id == world.caller.id


async def test_a_cached_verdict_costs_no_call(world: World) -> None:
    verifier, token = world.verifier(), world.token()

    for _ in range(5):
        await verifier.verify(token)

    assert world.emulator.calls["verifyM2MToken"] == 1
    assert verifier.stats.hits == 4


async def test_two_hundred_concurrent_requests_with_one_new_token_pay_once(world: World) -> None:
    verifier, token = world.verifier(), world.token()
    async with calling(protected(verifier)) as client:
        answers = await asyncio.gather(
            *(client.get("/", headers=bearer(token)) for _ in range(200))
        )

    assert {answer.status_code for answer in answers} == {200}
    assert world.emulator.calls["verifyM2MToken"] == 1


async def test_an_unknown_token_is_invalid(world: World) -> None:
    with pytest.raises(TokenInvalidError) as refused:
        await world.verifier().verify("mt_" + "x" * 40)

    assert refused.value.code == "token_invalid"


async def test_the_middleware_works_over_real_sockets(world: World) -> None:
    async with (
        serve(protected(world.verifier())) as origin,
        httpx.AsyncClient(base_url=origin) as client,
    ):
        answer = await client.get("/", headers=bearer(world.token()))

    assert answer.json() == {"subject": world.caller.id}


# The scope policy, row by row (design: scope policy)

ORG_ID = "org_" + "o" * 27
Mint = Callable[[World], str]


def opaque(world: World) -> str:
    return world.token()


def opaque_unscoped(world: World) -> str:
    return world.token(world.stranger)


def scoped_but_cut(world: World) -> str:
    token = world.token()
    world.emulator.cut(world.caller, world.callee)
    return token


def allowed_after_minting(world: World) -> str:
    token = world.token(world.stranger)
    world.emulator.allow(world.stranger, world.callee)
    return token


def jwt(world: World) -> str:
    return world.jwt()


def jwt_unscoped(world: World) -> str:
    return world.jwt(world.stranger)


def jwt_that_grants_itself_the_scope(world: World) -> str:
    claims = {"aud": [world.callee.id], "scopes": [world.callee.id], "scope": world.callee.id}
    return world.jwt(world.stranger, claims=claims)


def key_of(world: World, subject: str) -> str:
    return world.emulator.add_api_key("key", subject=subject, scopes=["read"]).secret


def key_of_machine(world: World) -> str:
    return key_of(world, world.caller.id)


def key_of_stranger(world: World) -> str:
    return key_of(world, world.stranger.id)


def key_of_user(world: World) -> str:
    return key_of(world, USER_ID)


def key_of_org(world: World) -> str:
    return key_of(world, ORG_ID)


def oauth_opaque(world: World) -> str:
    return world.emulator.add_oauth_token(subject=USER_ID, scopes=["profile"]).token


def oauth_jwt(world: World) -> str:
    return world.emulator.add_oauth_token(
        subject=USER_ID, scopes=["profile"], token_format="jwt"
    ).token


async def outcome(verifier: Verifier, token: str) -> str:
    """Give the code of the refusal, with the reason of a scope decision, or "allowed"."""
    try:
        await verifier.verify(token)
    except ScopeDeniedError as refused:
        return f"{refused.code}: {refused.decision.reason}"
    except RefusalError as refused:
        return refused.code
    return "allowed"


NO_ACCESS = "scope_denied: edge_missing"


@pytest.mark.parametrize(
    ("mint", "expected"),
    [
        (opaque, "allowed"),
        (opaque_unscoped, "token_invalid"),  # the server cannot tell unscoped from unknown
        (scoped_but_cut, "allowed"),  # the token keeps what it was minted with
        (allowed_after_minting, "token_invalid"),
        (jwt, "token_type_not_accepted"),
        (jwt_that_grants_itself_the_scope, "token_type_not_accepted"),
        (key_of_machine, "token_type_not_accepted"),
        (oauth_opaque, "token_type_not_accepted"),
    ],
)
async def test_without_a_graph_the_scopes_that_the_server_attests_decide(
    world: World, mint: Mint, expected: str
) -> None:
    assert await outcome(world.verifier(), mint(world)) == expected


async def test_a_jwt_without_a_graph_is_told_that_jwts_need_one(world: World) -> None:
    with pytest.raises(RefusalError, match="no scope graph, and JWTs need one") as refused:
        await world.verifier().verify(world.jwt())

    assert (refused.value.status, refused.value.code) == (401, "token_type_not_accepted")


async def test_a_jwt_without_a_key_set_is_told_that_none_is_there(world: World) -> None:
    verifier = world.verifier(world.settings(graph={world.caller.id: [world.callee.id]}))

    with pytest.raises(RefusalError, match="no key set to verify JWTs with") as refused:
        await verifier.verify(world.jwt())

    assert (refused.value.status, refused.value.code) == (401, "token_type_not_accepted")


@pytest.mark.parametrize(
    ("mint", "expected"),
    [
        (opaque, "allowed"),
        (opaque_unscoped, "scope_denied: token_scope_missing"),
        (scoped_but_cut, NO_ACCESS),
        (allowed_after_minting, "scope_denied: token_scope_missing"),
        (jwt, "allowed"),
        (jwt_unscoped, NO_ACCESS),
        (jwt_that_grants_itself_the_scope, NO_ACCESS),
        (key_of_machine, "allowed"),
        (key_of_stranger, NO_ACCESS),
        (key_of_user, "allowed"),
        (key_of_org, "allowed"),
        (oauth_opaque, "allowed"),
        (oauth_jwt, "allowed"),
    ],
)
async def test_with_the_live_graph_and_the_instance_key_both_scopes_and_edges_decide(
    world: World, mint: Mint, expected: str
) -> None:
    verifier = world.verifier(world.live_settings(machine_secret_key=None))

    assert await outcome(verifier, mint(world)) == expected


@pytest.mark.parametrize("kind", ["mapping", "file"])
@pytest.mark.parametrize(
    ("mint", "expected"),
    [
        (opaque, "allowed"),
        (opaque_unscoped, "token_invalid"),
        (scoped_but_cut, "allowed"),  # the edge is in this graph, which nobody told
        (jwt, "allowed"),
        (jwt_unscoped, NO_ACCESS),
        (jwt_that_grants_itself_the_scope, NO_ACCESS),
    ],
)
async def test_a_graph_of_our_own_decides_without_any_instance_key(
    world: World, tmp_path: Path, kind: str, mint: Mint, expected: str
) -> None:
    edges: Mapping[str, list[str]] = {world.caller.id: [world.callee.id]}
    given: Any = edges if kind == "mapping" else write_graph(tmp_path, edges)
    settings = world.settings(graph=given, jwt_key=world.emulator.public_key_pem())

    assert await outcome(world.verifier(settings), mint(world)) == expected
    assert world.emulator.calls["GetMachine"] == 0


@pytest.mark.parametrize("mint", [opaque, jwt])
async def test_an_edge_that_a_graph_of_our_own_lacks_shuts_out_a_scoped_token(
    world: World, mint: Mint
) -> None:
    settings = world.settings(graph={}, jwt_key=world.emulator.public_key_pem())

    assert await outcome(world.verifier(settings), mint(world)) == NO_ACCESS


def write_graph(folder: Path, edges: Mapping[str, list[str]]) -> Path:
    text = "".join(
        f'[machines.m{number}]\nid = "{caller}"\nmay_call = {callees}\n'
        for number, (caller, callees) in enumerate(edges.items())
    )
    return write_long_ago(folder / "graph.toml", text)


def write_long_ago(path: Path, text: str) -> Path:
    path.write_text(text)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


async def test_an_edge_cut_in_the_file_bites_for_tokens_already_cached(
    world: World, tmp_path: Path
) -> None:
    path = write_graph(tmp_path, {world.caller.id: [world.callee.id]})
    verifier, token = world.verifier(world.settings(graph=path, graph_ttl=1)), world.token()
    assert await outcome(verifier, token) == "allowed"

    write_graph(tmp_path, {world.caller.id: []})
    world.time.advance(1)
    assert await outcome(verifier, token) == NO_ACCESS
    assert world.emulator.calls["verifyM2MToken"] == 1


async def test_an_edge_cut_in_the_live_graph_bites_for_tokens_already_cached(
    world: World,
) -> None:
    verifier, token = world.verifier(world.live_settings(graph_ttl=1)), world.token()
    assert await outcome(verifier, token) == "allowed"

    world.emulator.cut(world.caller, world.callee)
    world.time.advance(1.1)
    assert await outcome(verifier, token) == NO_ACCESS
    assert world.emulator.calls["verifyM2MToken"] == 1


async def test_a_file_that_is_unreadable_for_too_long_lets_nobody_in(
    world: World, tmp_path: Path
) -> None:
    path = write_graph(tmp_path, {world.caller.id: [world.callee.id]})
    settings = world.settings(graph=path, graph_ttl=1, graph_max_stale=5)
    verifier, token = world.verifier(settings), world.token()
    assert await outcome(verifier, token) == "allowed"

    write_long_ago(path, "[machines")
    world.time.advance(3)
    assert await outcome(verifier, token) == "allowed"
    world.time.advance(4)
    assert await outcome(verifier, token) == "verification_unavailable"


async def test_a_live_graph_that_cannot_be_read_lets_nobody_in(world: World) -> None:
    world.emulator.fail("GetMachine", status=500)
    verifier = world.verifier(world.live_settings())

    assert await outcome(verifier, world.token()) == "verification_unavailable"
    assert await outcome(verifier, key_of_user(world)) == "allowed"  # no graph speaks of users


@pytest.mark.parametrize("token_format", ["opaque", "jwt"])
async def test_a_refused_caller_is_told_which_edge_is_missing(
    world: World, token_format: Any
) -> None:
    settings = world.live_settings(machine_secret_key=None)
    token = world.token(world.stranger, token_format=token_format)
    with pytest.raises(ScopeDeniedError) as refused:
        await world.verifier(settings).verify(token)

    assert refused.value.decision.missing_edge == (world.stranger.id, world.callee.id)
    assert refused.value.detail == str(refused.value.decision)


CALLER, CALLEE = "mch_" + "a" * 27, "mch_" + "c" * 27


def machine(token_format: Any, *scopes: str) -> MachineIdentity:
    return MachineIdentity(
        token_id="mt_1",
        token_format=token_format,
        subject=CALLER,
        scopes=frozenset(scopes),
        claims={"aud": [CALLEE], "scopes": [CALLEE]},
    )


def api_key(subject: str) -> ApiKeyIdentity:
    return ApiKeyIdentity(token_id="ak_1", name="key", subject=subject, scopes=frozenset({CALLEE}))


OAUTH = OAuthIdentity(
    token_id="oat_1", client_id="client_1", subject=USER_ID, scopes=frozenset({CALLEE})
)


@pytest.mark.parametrize(
    ("identity", "no_graph", "edge", "no_edge"),
    [
        (machine("opaque", CALLEE), Reason.ALLOWED, Reason.ALLOWED, Reason.EDGE_MISSING),
        (machine("opaque", CALLER), *[Reason.TOKEN_SCOPE_MISSING] * 3),
        (machine("opaque"), *[Reason.TOKEN_SCOPE_MISSING] * 3),
        (machine("jwt"), Reason.NO_GRAPH, Reason.ALLOWED, Reason.EDGE_MISSING),
        (machine("jwt", CALLEE), Reason.NO_GRAPH, Reason.ALLOWED, Reason.EDGE_MISSING),
        (api_key(CALLER), Reason.NO_GRAPH, Reason.ALLOWED, Reason.EDGE_MISSING),
        (api_key(USER_ID), *[Reason.ALLOWED] * 3),
        (api_key(ORG_ID), *[Reason.ALLOWED] * 3),
        (OAUTH, *[Reason.ALLOWED] * 3),
    ],
)
def test_the_policy_is_the_table_of_the_design(
    identity: Identity, no_graph: Reason, edge: Reason, no_edge: Reason
) -> None:
    assert decide(identity, CALLEE, None) is no_graph
    assert decide(identity, CALLEE, True) is edge
    assert decide(identity, CALLEE, False) is no_edge


# What an identity holds


async def test_an_opaque_token_gives_what_the_server_attests(world: World) -> None:
    token = world.emulator.mint_m2m_token(
        world.caller, claims={"tenant": "acme"}, seconds_until_expiration=60
    )
    identity = await world.verifier().verify(token.token)

    assert identity == MachineIdentity(
        token_id=token.id,
        token_format="opaque",
        subject=world.caller.id,
        scopes=frozenset({world.callee.id}),
        claims={"tenant": "acme"},
        expires_at=world.time.wall + 60,
    )


async def test_a_jwt_gives_claims_and_no_scopes(world: World) -> None:
    token = world.emulator.mint_m2m_token(
        world.caller,
        token_format="jwt",
        claims={"scopes": [world.callee.id], "roles": ["admin"]},
        seconds_until_expiration=60,
    )
    identity = await world.verifier(world.live_settings()).verify(token.token)

    assert identity == MachineIdentity(
        token_id=token.id,
        token_format="jwt",
        subject=world.caller.id,
        claims={"scopes": (world.callee.id,), "roles": ("admin",)},
        expires_at=world.time.wall + 60,
    )


async def test_an_api_key_gives_its_holder_and_permissions(world: World) -> None:
    key = world.emulator.add_api_key("reports", subject=USER_ID, scopes=["read"], claims={"a": 1})
    identity = await world.verifier(world.live_settings()).verify(key.secret)

    assert identity == ApiKeyIdentity(
        token_id=key.id,
        name="reports",
        subject=USER_ID,
        scopes=frozenset({"read"}),
        claims={"a": 1},
    )


@pytest.mark.parametrize("token_format", ["opaque", "jwt"])
async def test_an_oauth_token_gives_its_user_and_client(world: World, token_format: Any) -> None:
    token = world.emulator.add_oauth_token(
        subject=USER_ID, scopes=["email", "profile"], token_format=token_format
    )
    identity = await world.verifier(world.live_settings()).verify(token.token)

    assert isinstance(identity, OAuthIdentity)
    assert (identity.user_id, identity.client_id) == (USER_ID, "client_emulator")
    assert identity.token_id == token.id
    assert identity.scopes == {"email", "profile"}
    assert identity.expires_at == world.time.wall + 86_400


@pytest.mark.parametrize("token_format", ["opaque", "jwt"])
async def test_what_one_handler_does_to_an_identity_is_not_seen_by_the_next(
    world: World, token_format: Any
) -> None:
    verifier = world.verifier(world.live_settings())
    token = world.token(token_format=token_format, claims={"roles": [{"name": "reader"}]})
    first = await verifier.verify(token)
    claims: Any = first.claims
    changes: list[Callable[[], object]] = [
        lambda: setattr(first, "subject", world.stranger.id),
        lambda: setattr(first, "scopes", frozenset({world.stranger.id})),
        lambda: claims.__setitem__("roles", "admin"),
        lambda: claims["roles"].append("admin"),
        lambda: claims["roles"][0].update(name="admin"),
    ]
    for change in changes:
        with pytest.raises((AttributeError, TypeError)):
            change()
    second = await verifier.verify(token)

    assert second.subject == world.caller.id
    assert second.claims == {"roles": ({"name": "reader"},)}


@pytest.mark.parametrize("token_format", ["opaque", "jwt"])
async def test_claims_that_nest_deeply_are_read_and_harm_nobody(
    world: World, token_format: Any
) -> None:
    claims: Any = {}
    for _ in range(55):
        claims = {"a": [claims]}
    verifier = world.verifier(world.live_settings())

    assert await outcome(verifier, world.token(token_format=token_format, claims=claims)) == (
        "allowed"
    )


async def test_claims_nested_as_deep_as_a_header_can_hold_never_crash(world: World) -> None:
    verifier = world.verifier(world.live_settings())
    text = "0"
    for depth in range(1, 900):
        text = f"[{text}]"
        if depth % 50 == 0:
            answer = await verify_answer(world, verifier, text)
            assert answer in ("allowed", "verification_unavailable")


async def verify_answer(world: World, verifier: Verifier, claims: str) -> str:
    """Verify a token whose answer of Clerk's has these claims."""
    token = world.token()

    async def answer(request: httpx.Request) -> httpx.Response | None:
        if not request.url.path.endswith("/verify"):
            return None
        whole = await httpx.ASGITransport(app=world.emulator).handle_async_request(request)
        text = (await whole.aread()).decode()
        return httpx.Response(200, text=text.replace('"claims":null', f'"claims":{claims}'))

    world.upstream.intercept = answer
    return await outcome(verifier, token)


# From end to end with Clerk's own client


@contextmanager
def generated_client(address: str, key: str) -> Iterator[Clerk]:
    # It makes an asynchronous client of its own and leaves that open unless it is given one.
    with (
        httpx.Client(timeout=10) as plain,
        Clerk(
            bearer_auth=key,
            server_url=f"{address}/v1",
            client=plain,
            async_client=httpx.AsyncClient(),
            retry_config=None,  # its default repeats a call that got a 500 for an hour
        ) as made,
    ):
        yield made


@dataclass(frozen=True, kw_only=True)
class Created:
    """What Clerk's own client has created."""

    callee_id: str
    callee_key: str
    caller_id: str
    token: str
    jwt: str
    token_of_stranger: str


def create_with_clerks_client(address: str, secret_key: str) -> Created:
    with generated_client(address, secret_key) as instance:
        callee = instance.machines.create(request={"name": "stock"})
        caller = instance.machines.create(
            request={"name": "orders", "scoped_machines": [callee.id]}
        )
        stranger = instance.machines.create(request={"name": "stranger"})
    with generated_client(address, caller.secret_key) as own:
        token, jwt = own.m2m.create_token(), own.m2m.create_token(token_format=TokenFormat.JWT)
    with generated_client(address, stranger.secret_key) as own:
        token_of_stranger = own.m2m.create_token()
    return Created(
        callee_id=callee.id,
        callee_key=callee.secret_key,
        caller_id=caller.id,
        token=str(token.token),
        jwt=str(jwt.token),
        token_of_stranger=str(token_of_stranger.token),
    )


async def test_what_clerks_own_client_creates_is_accepted_over_real_sockets(world: World) -> None:
    async with serve(world.emulator) as address:
        created = await asyncio.to_thread(
            create_with_clerks_client, address, world.emulator.secret_key
        )
        settings = world.live_settings(
            machine_id=created.callee_id, machine_secret_key=created.callee_key, api_url=address
        )
        app = protected(Verifier(settings, clock=world.time.clock))
        async with serve(app) as origin, httpx.AsyncClient(base_url=origin) as client:
            opaque, jwt, stranger = [
                await client.get("/", headers=bearer(token))
                for token in (created.token, created.jwt, created.token_of_stranger)
            ]

    assert opaque.json() == jwt.json() == {"subject": created.caller_id}
    assert (stranger.status_code, stranger.json()["code"]) == (401, "token_invalid")


# What the operator does


async def test_invalidate_takes_exactly_one_thing(world: World) -> None:
    verifier = world.verifier()
    for given in ({}, {"token": "mt_1", "token_id": "mt_1"}, {"token_id": "a", "machine_id": "b"}):
        with pytest.raises(TypeError, match="exactly one of"):
            verifier.invalidate(**given)


async def test_a_verifier_that_watches_a_client_forgets_what_it_revokes(world: World) -> None:
    verifier = world.verifier(world.live_settings())
    token = world.emulator.mint_m2m_token(world.caller)
    assert await outcome(verifier, token.token) == "allowed"
    async with ClerkClient(
        secret_key=world.emulator.secret_key, api_url=API_URL, transport=world.upstream
    ) as clerk:
        verifier.watch(clerk)
        await clerk.machines.delete_scope(world.caller.id, world.callee.id)
        assert await outcome(verifier, token.token) == NO_ACCESS
        await clerk.machines.create_scope(world.caller.id, world.callee.id)
        await clerk.m2m_tokens.revoke(token.id)
        assert await outcome(verifier, token.token) == "token_invalid"


async def test_what_could_not_be_found_out_is_asked_again(world: World) -> None:
    verifier, token = world.verifier(), world.token()
    world.emulator.fail("verifyM2MToken", status=500, times=1)
    with pytest.raises(VerificationUnavailableError) as refused:
        await verifier.verify(token)

    assert refused.value.code == "verification_unavailable"
    assert await outcome(verifier, token) == "allowed"
