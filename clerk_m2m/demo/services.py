"""The services of the demo: three FastAPI services, two more machines, and an emulated Clerk.

All machines and edges are created through the Backend API, as in a real instance.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import httpx
from fastapi import Depends, FastAPI, WebSocket
from httpx import USE_CLIENT_DEFAULT

from clerk_m2m import (
    ApiKeyIdentity,
    ClerkClient,
    MachineAuthMiddleware,
    MachineIdentity,
    Settings,
    TokenType,
    Verifier,
    require_api_key,
    require_machine,
)
from clerk_m2m.backend_api.resources import CreatedM2MToken, CreatedMachine
from clerk_m2m.demo.servers import ServedApp
from clerk_m2m.demo.workers import Worker, open_workers
from clerk_m2m.emulator import Emulator
from clerk_m2m.outbound.auth import MachineTokenAuth

# caller: callees. `stranger` is a machine of the same instance that may call nobody.
EDGES: Final[Mapping[str, tuple[str, ...]]] = {
    "stock": (),
    "orders": ("stock",),
    "shop": ("orders",),
    "reports": ("orders", "stock"),
    "stranger": (),
}
# Seconds. `stock` has short lifetimes, so that the demo waits less; the others have the defaults.
STOCK_CACHE_TTL: Final = 2.0
STOCK_GRAPH_TTL: Final = 1.0
# Seconds; long enough for a busy machine.
TIMEOUT: Final = 10.0
ANN_ID: Final = "user_" + "ann" * 9
PERMISSION: Final = "catalog:read"

Caller = Annotated[MachineIdentity, Depends(require_machine())]
Reader = Annotated[ApiKeyIdentity, Depends(require_api_key(scopes=[PERMISSION]))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running service and its verifier, for invalidations and counters."""

    verifier: Verifier
    served: ServedApp


@dataclass(slots=True, kw_only=True)
class Company:
    """All objects that the scenes use."""

    emulator: Emulator
    clerk: ClerkClient
    clerk_served: ServedApp
    machines: Mapping[str, CreatedMachine]
    services: dict[str, Service] = field(default_factory=dict)
    hops: int = 0  # the calls between services
    # Workers of `orders`, each in its own process.
    workers: list[Worker] = field(default_factory=list)

    async def mint(
        self,
        caller: str,
        *,
        token_format: Literal["opaque", "jwt"] = "opaque",
        seconds_until_expiration: float | None = None,
        claims: Mapping[str, Any] | None = None,
    ) -> CreatedM2MToken:
        """Mint a token with the caller's own key."""
        return await self.clerk.m2m_tokens.create(
            machine_secret_key=self.machines[caller].secret_key,
            token_format=token_format,
            seconds_until_expiration=seconds_until_expiration,
            claims=claims,
        )

    async def token(self, caller: str, *, token_format: Literal["opaque", "jwt"] = "opaque") -> str:
        """Mint a token and return the text to present."""
        return (await self.mint(caller, token_format=token_format)).token.reveal()

    async def api_key(self, *scopes: str) -> str:
        """Create an API key of the end user, with these permissions."""
        name = f"ann's key for {' '.join(scopes) or 'nothing'}"
        key = await self.clerk.api_keys.create(name, subject=ANN_ID, scopes=scopes)
        return key.secret.reveal()

    def with_names(self, text: str) -> str:
        """Replace machine ids in a text by names, for people to read."""
        for name, machine in self.machines.items():
            text = text.replace(machine.id, name)
        return text.replace(ANN_ID, "ann")

    def introduction(self) -> list[str]:
        """Return the lines that introduce the services and the edges."""
        lines = [
            "Three FastAPI services and an emulated Clerk, on real sockets of this machine.",
            "Cost is what Clerk bills for: verifications. Cached and offline verdicts are free.",
            "",
            f"{'clerk':<8} {self.clerk_served.origin:<22} the emulated Backend API",
        ]
        for name, callees in EDGES.items():
            where = self.services[name].served.origin if name in self.services else "(calls only)"
            may_call = ", ".join(callees) or "nobody"
            lines.append(f"{name:<8} {where:<22} may call {may_call}")
        return lines


@asynccontextmanager
async def open_company() -> AsyncIterator[Company]:
    """Start the emulator, create the machines, start the three services; stop all at the end."""
    emulator = Emulator()
    clerk_served = ServedApp(emulator, date_header=False)
    served: list[ServedApp] = [clerk_served]
    try:
        await clerk_served.start()
        async with ClerkClient(
            secret_key=emulator.secret_key, api_url=clerk_served.origin
        ) as clerk:
            company = Company(
                emulator=emulator,
                clerk=clerk,
                clerk_served=clerk_served,
                machines=await _register(clerk),
            )
            for name, (app, verifier) in _apps(company).items():
                service = Service(verifier=verifier, served=ServedApp(app))
                served.append(service.served)
                await service.served.start()
                company.services[name] = service
            async with open_workers(_settings_of_workers(company)) as company.workers:
                yield company
    finally:
        await asyncio.gather(*(each.stop() for each in served))
        emulator.close()


async def _register(clerk: ClerkClient) -> dict[str, CreatedMachine]:
    machines = {name: await clerk.machines.create(name) for name in EDGES}
    for caller, callees in EDGES.items():
        for callee in callees:
            await clerk.machines.create_scope(machines[caller].id, machines[callee].id)
    return machines


def _apps(company: Company) -> dict[str, tuple[FastAPI, Verifier]]:
    # `orders` and `shop` verify with their machine's key: Clerk refuses tokens without an edge to
    # them. `stock` has only the instance's key, so it checks the token's scopes itself.
    settings = {
        "orders": _settings(company, "orders"),
        "shop": _settings(company, "shop", accepts=(TokenType.M2M_TOKEN, TokenType.API_KEY)),
        "stock": Settings(
            machine_id=company.machines["stock"].id,
            secret_key=company.emulator.secret_key,
            api_url=company.clerk_served.origin,
            cache_ttl=STOCK_CACHE_TTL,
            graph_ttl=STOCK_GRAPH_TTL,
            timeout=TIMEOUT,
        ),
    }
    makers = {"orders": _orders, "shop": _shop, "stock": _stock}
    apps = {}
    for name, make in makers.items():
        app, verifier = make(company), Verifier(settings[name])
        app.add_middleware(MachineAuthMiddleware, verifier=verifier)
        apps[name] = (app, verifier)
    return apps


def _settings(
    company: Company, name: str, accepts: Iterable[TokenType] = (TokenType.M2M_TOKEN,)
) -> Settings:
    machine = company.machines[name]
    return Settings(
        machine_id=machine.id,
        machine_secret_key=machine.secret_key,
        secret_key=company.emulator.secret_key,
        api_url=company.clerk_served.origin,
        accepts=accepts,
        timeout=TIMEOUT,
    )


def _settings_of_workers(company: Company) -> dict[str, Any]:
    machine = company.machines["orders"]
    return {
        "machine_id": machine.id,
        "machine_secret_key": machine.secret_key.reveal(),
        "api_url": company.clerk_served.origin,
        "timeout": TIMEOUT,
    }


def _orders(company: Company) -> FastAPI:
    key, api_url = company.machines["orders"].secret_key, company.clerk_served.origin

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            MachineTokenAuth(key, api_url=api_url) as auth,
            httpx.AsyncClient(auth=auth) as app.state.http,
        ):
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def read(caller: Caller) -> dict[str, str]:
        return {"caller": caller.machine_id}

    @app.get("/stock")
    async def read_stock(caller: Caller) -> dict[str, Any]:
        return {"caller": caller.machine_id, "stock": await ask_stock(auth=USE_CLIENT_DEFAULT)}

    @app.get("/stock/named")
    async def read_stock_naming_the_caller(caller: Caller) -> dict[str, Any]:
        claims = {"called_by": caller.machine_id}
        async with MachineTokenAuth(key, api_url=api_url, claims=claims) as auth:
            return {"caller": caller.machine_id, "stock": await ask_stock(auth=auth)}

    async def ask_stock(auth: Any) -> Any:
        company.hops += 1
        answer = await app.state.http.get(company.services["stock"].served.origin, auth=auth)
        return answer.raise_for_status().json()

    @app.websocket("/events")
    async def events(websocket: WebSocket, caller: Caller) -> None:
        await websocket.accept()
        await websocket.send_json({"caller": caller.machine_id})
        await websocket.close()

    return app


def _stock(_company: Company) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def read(caller: Caller) -> dict[str, Any]:
        return {"caller": caller.machine_id, "claims": dict(caller.claims)}

    return app


def _shop(_company: Company) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def read(caller: Reader) -> dict[str, str]:
        return {"caller": caller.subject}

    return app
