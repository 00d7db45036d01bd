"""The content of an identity, which no handler can change for the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from outcomes import outcome

from clerk_m2m import ApiKeyIdentity, MachineIdentity, OAuthIdentity, Verifier
from harness import USER_ID, World


async def test_the_identity_of_an_opaque_token_has_what_clerk_attests(world: World) -> None:
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


async def test_the_identity_of_a_jwt_has_claims_and_no_scopes(world: World) -> None:
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


async def test_the_identity_of_an_api_key_has_its_holder_and_permissions(world: World) -> None:
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
async def test_the_identity_of_an_oauth_token_has_its_user_and_client(
    world: World, token_format: Any
) -> None:
    token = world.emulator.add_oauth_token(
        subject=USER_ID, scopes=["email", "profile"], token_format=token_format
    )
    identity = await world.verifier(world.live_settings()).verify(token.token)

    assert isinstance(identity, OAuthIdentity)
    assert (identity.user_id, identity.client_id) == (USER_ID, "client_emulator")
    assert identity.token_id == token.id
    assert identity.scopes == {"email", "profile"}
    assert identity.expires_at == world.time.wall + 86_400


@pytest.mark.parametrize(
    ("claims", "read"), [(None, {}), ("acme", {"claims": "acme"}), ([[1]], {"claims": ((1,),)})]
)
async def test_claims_that_are_not_an_object_are_kept_under_the_name_claims(
    world: World, claims: Any, read: dict[str, Any]
) -> None:
    key = world.emulator.add_api_key("reports", subject=USER_ID, claims=claims)

    identity = await world.verifier(world.live_settings()).verify(key.secret)

    assert identity.claims == read


@pytest.mark.parametrize("token_format", ["opaque", "jwt"])
async def test_a_handler_cannot_change_the_identity_for_the_next_request(
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
async def test_a_token_with_deeply_nested_claims_is_accepted(
    world: World, token_format: Any
) -> None:
    claims: Any = {}
    for _ in range(55):
        claims = {"a": [claims]}
    verifier = world.verifier(world.live_settings())

    assert await outcome(verifier, world.token(token_format=token_format, claims=claims)) == (
        "allowed"
    )


async def test_claims_nested_as_deep_as_a_header_can_hold_are_accepted_or_503(world: World) -> None:
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
