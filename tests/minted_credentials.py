"""A credential of each kind, as the rows of the scope policy name them."""

from __future__ import annotations

from collections.abc import Callable

from harness import USER_ID, World

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


NO_ACCESS = "scope_denied: edge_missing"
