"""Each example runs as it stands, configured by the environment, against a served emulator."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from example_modules import example
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from harness import USER_ID, Instance, bearer, serve


@asynccontextmanager
async def served(name: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an example that is served on a real socket."""
    async with (
        serve(example(name).app) as origin,
        httpx.AsyncClient(base_url=origin) as client,
    ):
        yield client


async def test_the_fastapi_example_tells_machines_and_api_keys_apart(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLERK_SECRET_KEY", instance.emulator.secret_key)
    monkeypatch.setenv("CLERK_M2M_ACCEPTS", "m2m_token,api_key")
    buyer = instance.emulator.add_api_key("buyer", subject=USER_ID, scopes=["orders:write"])
    reader = instance.emulator.add_api_key("reader", subject=USER_ID)

    async with served("fastapi_service") as client:
        healthz = await client.get("/healthz")
        orders = await client.get("/orders", headers=bearer(instance.token()))
        bought = await client.post("/orders", headers=bearer(buyer.secret))
        lacking = await client.post("/orders", headers=bearer(reader.secret))
        document = (await client.get("/openapi.json")).json()

    assert healthz.status_code == 200
    assert orders.json() == {"orders_for": instance.caller.id}
    assert bought.json() == {"placed_by": USER_ID}
    assert lacking.json()["code"] == "permission_denied"
    assert {"401", "403", "503"} <= document["paths"]["/orders"]["get"]["responses"].keys()


async def test_the_starlette_example_greets_strangers_and_guards_its_stock(
    instance: Instance,
) -> None:
    async with served("starlette_service") as client:
        stranger = await client.get("/")
        caller = await client.get("/", headers=bearer(instance.token()))
        refused = await client.get("/stock")
        stock = await client.get("/stock", headers=bearer(instance.token()))

    assert stranger.text == "Hello, stranger."
    assert caller.text == f"Hello, {instance.caller.id}."
    assert refused.json()["code"] == "token_missing"
    assert stock.json() == {"stock_for": instance.caller.id}


async def test_the_websocket_example_refuses_before_it_accepts(instance: Instance) -> None:
    async with served("websocket_service") as client:
        address = str(client.base_url).replace("http", "ws").rstrip("/") + "/prices"
        async with connect(address, additional_headers=bearer(instance.token())) as socket:
            prices = json.loads(await socket.recv())
        with pytest.raises(InvalidStatus) as refused:
            await connect(address)

    assert prices == {"prices_for": instance.caller.id}
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body)["code"] == "token_missing"
