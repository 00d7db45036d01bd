"""Two mounts, each behind a Clerk instance of its own; guards of a router and of a sub-app."""

from __future__ import annotations

from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from clerk_m2m import MachineAuthMiddleware, require_machine
from clerk_m2m.testing import ClerkEmulator
from harness import World, bearer, calling, protected


async def test_a_token_of_one_instance_is_unknown_at_the_mount_of_the_other(world: World) -> None:
    other = ClerkEmulator()
    callee = other.add_machine("callee")
    caller = other.add_machine("caller", may_call=[callee])
    verifier = other.verifier(callee)
    here, there = world.token(), other.mint_m2m_token(caller).token
    app = Starlette(
        routes=[
            Mount("/here", app=protected(world.verifier())),
            Mount("/there", app=protected(verifier)),
        ]
    )

    async with calling(app) as client:
        own = [
            await client.get("/here/", headers=bearer(here)),
            await client.get("/there/", headers=bearer(there)),
        ]
        crossed = [
            await client.get("/here/", headers=bearer(there)),
            await client.get("/there/", headers=bearer(here)),
        ]
    await verifier.aclose()
    other.close()

    assert [answer.json() for answer in own] == [
        {"subject": world.caller.id},
        {"subject": caller.id},
    ]
    assert [answer.json()["code"] for answer in crossed] == ["token_invalid"] * 2


async def test_the_guard_of_a_router_or_a_sub_app_applies_to_its_routes(
    world: World,
) -> None:
    world.emulator.allow(world.stranger, world.callee)
    guard = Depends(require_machine(world.caller.id))
    app, router, mounted = FastAPI(), APIRouter(), FastAPI(dependencies=[guard])

    async def route() -> str:
        return "in"

    for each in (router, mounted):
        each.get("/orders")(route)
    app.include_router(router, prefix="/router", dependencies=[guard])
    app.mount("/mounted", mounted)
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier())

    async with calling(app) as client:
        for path in ("/router/orders", "/mounted/orders"):
            let_in = await client.get(path, headers=bearer(world.token()))
            refused = await client.get(path, headers=bearer(world.token(world.stranger)))
            assert let_in.json() == "in"
            assert refused.json()["code"] == "permission_denied"
