"""Three services in a chain, A -> B -> C: each calls the next with its own token.

    python examples/chain.py

Everything runs in this process with the embedded emulator, without a socket. C sees B as its
caller. C learns of A only if B puts A's id into the claims of B's own token.
"""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from clerk_m2m import MachineAuthMiddleware, MachineTokenAuth, Settings, Verifier
from clerk_m2m.emulator import EmulatedMachine, Emulator

CLERK = "http://clerk.test"


class Chain:
    """The three services and their clients. `stack` closes them."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.stack = stack
        self.emulator = Emulator()
        stack.callback(self.emulator.close)
        self.clerk = httpx.ASGITransport(app=self.emulator)
        self.c = self.emulator.add_machine("C")
        self.b = self.emulator.add_machine("B", may_call=[self.c])
        self.a = self.emulator.add_machine("A", may_call=[self.b])
        self.app_c = self.protect(self.c, Route("/whoami", whoami))
        self.to_c = self.client(self.app_c, self.b)
        self.to_c_for: dict[str, httpx.AsyncClient] = {}
        app_b = self.protect(self.b, Route("/relay", self.relay), Route("/for-me", self.relay_for))
        self.to_b = self.client(app_b, self.a)

    def protect(self, machine: EmulatedMachine, *routes: Route) -> Starlette:
        """Return a service that accepts only machines with an edge to `machine`."""
        settings = Settings(
            machine_id=machine.id, machine_secret_key=machine.secret_key, api_url=CLERK
        )
        verifier = Verifier(settings, transport=self.clerk)
        self.stack.push_async_callback(verifier.aclose)
        app = Starlette(routes=routes)
        app.add_middleware(MachineAuthMiddleware, verifier=verifier)
        return app

    def client(
        self, app: Starlette, caller: EmulatedMachine, claims: dict[str, Any] | None = None
    ) -> httpx.AsyncClient:
        """Return a client of `app` that calls as `caller`."""
        auth = MachineTokenAuth(
            caller.secret_key, claims=claims, api_url=CLERK, transport=self.clerk
        )
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://service.test", auth=auth
        )
        self.stack.push_async_callback(client.aclose)
        return client

    async def relay(self, request: Request) -> JSONResponse:
        """B calls C, without claims."""
        return JSONResponse((await self.to_c.get("/whoami")).json())

    async def relay_for(self, request: Request) -> JSONResponse:
        """B calls C and names its own caller in the claims: one token and one client per caller."""
        caller = request.state.machine.machine_id
        if caller not in self.to_c_for:
            claims = {"on_behalf_of": caller}
            self.to_c_for[caller] = self.client(self.app_c, self.b, claims)
        return JSONResponse((await self.to_c_for[caller].get("/whoami")).json())


async def whoami(request: Request) -> JSONResponse:
    """C returns what it knows of its caller. B chose the claims, and Clerk does not check them."""
    caller = request.state.machine
    return JSONResponse({"caller": caller.machine_id, "claims": dict(caller.claims)})


async def main() -> None:
    async with AsyncExitStack() as stack:
        chain = Chain(stack)
        print(f"A is {chain.a.id}")
        print(f"B is {chain.b.id}")
        print(f"C is {chain.c.id}")
        for path in ("/relay", "/for-me"):
            answer = await chain.to_b.get(path)
            print(f"A -> B{path} -> C: C sees {answer.json()}")
        direct = await chain.client(chain.app_c, chain.a).get("/whoami")
        print(f"A -> C: {direct.status_code} {direct.json()['code']}: there is no edge A -> C")
        minted = chain.emulator.calls["createM2MToken"]
        print(f"Clerk minted {minted} tokens: one for each of four clients, and one after the 401")


if __name__ == "__main__":
    asyncio.run(main())
