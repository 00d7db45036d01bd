"""Credentials as clients send them: none, two, expired, revoked, …; and how one is classified."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from clerk_m2m.credentials import parse
from clerk_m2m.errors import TokenInvalidError
from clerk_m2m.identity import TokenClass
from clerk_m2m.secret import Secret
from harness import USER_ID, World

UNKNOWN = "mt_" + "x" * 40
NOBODY = "mch_" + "z" * 27


Prepare = Callable[[World], Awaitable[str | None]]


async def no_credential(world: World) -> None:
    return None


async def two_tokens(world: World) -> str:
    return f"{world.token()} {world.token()}"


async def not_ascii(world: World) -> str:
    return "mt_\x7f" + "x" * 40


async def too_long(world: World) -> str:
    return "mt_" + "x" * 8192


async def api_key_not_accepted(world: World) -> str:
    return world.emulator.add_api_key("reports", subject=USER_ID).secret


async def session(world: World) -> str:
    return world.emulator.mint_session_jwt()


async def jwt_without_a_graph(world: World) -> str:
    return world.jwt()


async def unknown(world: World) -> str:
    return UNKNOWN


async def ill_formed(world: World) -> str:
    return "mt_short"


async def garbage(world: World) -> str:
    return "garbage"


async def expired(world: World) -> str:
    token = world.token(seconds_until_expiration=10)
    world.time.advance(20)
    return token


async def revoked(world: World) -> str:
    token = world.emulator.mint_m2m_token(world.caller)
    world.emulator.revoke_m2m_token(token.id)
    return token.token


async def flagged_revoked(world: World) -> str:
    world.emulator.fail("verifyM2MToken", kind="revoked")
    return world.token()


async def flagged_expired(world: World) -> str:
    world.emulator.fail("verifyM2MToken", kind="expired")
    return world.token()


async def stranger(world: World) -> str:
    return world.token(world.stranger)


async def edge_cut(world: World) -> str:
    token = world.token()
    world.emulator.cut(world.caller, world.callee)
    return token


async def strange_jwt(world: World) -> str:
    return world.jwt(world.stranger)


def classify(token: str) -> TokenClass | None:
    """The class of a credential, by its form alone."""
    try:
        return parse(Secret(token)).token_class
    except TokenInvalidError as refusal:
        return refusal.token_class
