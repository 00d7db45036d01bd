"""The scope policy, row by row: who may call, with a graph and without one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from minted_credentials import (
    NO_ACCESS,
    ORG_ID,
    Mint,
    allowed_after_minting,
    jwt,
    jwt_that_grants_itself_the_scope,
    jwt_unscoped,
    key_of_machine,
    key_of_org,
    key_of_stranger,
    key_of_user,
    oauth_jwt,
    oauth_opaque,
    opaque,
    opaque_unscoped,
    scoped_but_cut,
)
from outcomes import outcome

from clerk_m2m import (
    ApiKeyIdentity,
    Identity,
    MachineIdentity,
    OAuthIdentity,
    Reason,
    RefusalError,
    ScopeDeniedError,
)
from clerk_m2m.verification.policy import decide
from harness import USER_ID, World


@pytest.mark.parametrize(
    ("mint", "expected"),
    [
        (opaque, "allowed"),
        (
            opaque_unscoped,
            "token_invalid",
        ),  # Clerk answers the same for unscoped and unknown tokens
        (scoped_but_cut, "allowed"),  # the token keeps what it was minted with
        (allowed_after_minting, "token_invalid"),
        (jwt, "token_type_not_accepted"),
        (jwt_that_grants_itself_the_scope, "token_type_not_accepted"),
        (key_of_machine, "token_type_not_accepted"),
        (oauth_opaque, "token_type_not_accepted"),
    ],
)
async def test_without_a_graph_the_scopes_that_clerk_attests_decide(
    world: World, mint: Mint, expected: str
) -> None:
    assert await outcome(world.verifier(), mint(world)) == expected


async def test_the_refusal_of_a_jwt_without_a_graph_says_that_jwts_need_one(world: World) -> None:
    with pytest.raises(RefusalError, match="no scope graph, and JWTs need one") as refused:
        await world.verifier().verify(world.jwt())

    assert (refused.value.status, refused.value.code) == (401, "token_type_not_accepted")


async def test_the_refusal_of_a_jwt_without_a_key_set_says_so(world: World) -> None:
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
        (scoped_but_cut, "allowed"),  # this graph still has the edge
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
async def test_a_scoped_token_without_an_edge_in_our_own_graph_is_refused(
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


async def test_a_cached_token_is_refused_after_its_edge_is_removed_from_the_file(
    world: World, tmp_path: Path
) -> None:
    path = write_graph(tmp_path, {world.caller.id: [world.callee.id]})
    verifier, token = world.verifier(world.settings(graph=path, graph_ttl=1)), world.token()
    assert await outcome(verifier, token) == "allowed"

    write_graph(tmp_path, {world.caller.id: []})
    world.time.advance(1)
    assert await outcome(verifier, token) == NO_ACCESS
    assert world.emulator.calls["verifyM2MToken"] == 1


async def test_a_cached_token_is_refused_after_its_edge_is_removed_from_the_live_graph(
    world: World,
) -> None:
    verifier, token = world.verifier(world.live_settings(graph_ttl=1)), world.token()
    assert await outcome(verifier, token) == "allowed"

    world.emulator.cut(world.caller, world.callee)
    world.time.advance(1.1)
    assert await outcome(verifier, token) == NO_ACCESS
    assert world.emulator.calls["verifyM2MToken"] == 1


async def test_a_graph_file_unreadable_for_longer_than_graph_max_stale_is_503(
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


async def test_a_live_graph_that_cannot_be_read_is_503(world: World) -> None:
    world.emulator.fail("GetMachine", status=500)
    verifier = world.verifier(world.live_settings())

    assert await outcome(verifier, world.token()) == "verification_unavailable"
    assert await outcome(verifier, key_of_user(world)) == "allowed"  # users have no edges


@pytest.mark.parametrize("token_format", ["opaque", "jwt"])
async def test_the_refusal_names_the_missing_edge(world: World, token_format: Any) -> None:
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
def test_decide_follows_the_table_of_the_scope_policy(
    identity: Identity, no_graph: Reason, edge: Reason, no_edge: Reason
) -> None:
    assert decide(identity, CALLEE, None) is no_graph
    assert decide(identity, CALLEE, True) is edge
    assert decide(identity, CALLEE, False) is no_edge
