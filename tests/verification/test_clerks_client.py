"""End to end with Clerk's own client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from clerk_backend_api import Clerk
from clerk_backend_api.models import TokenFormat

from clerk_m2m import Verifier
from harness import World, bearer, protected, serve


@contextmanager
def generated_client(address: str, key: str) -> Iterator[Clerk]:
    # Without `async_client`, the client makes an asynchronous one and never closes it.
    with (
        httpx.Client(timeout=10) as plain,
        Clerk(
            bearer_auth=key,
            server_url=f"{address}/v1",
            client=plain,
            async_client=httpx.AsyncClient(),
            retry_config=None,  # by default it retries a call that got a 500 for an hour
        ) as made,
    ):
        yield made


@dataclass(frozen=True, kw_only=True)
class Created:
    """The machines and tokens that Clerk's own client has created."""

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


async def test_tokens_minted_by_clerks_own_client_are_accepted_over_real_sockets(
    world: World,
) -> None:
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
