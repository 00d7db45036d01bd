"""Each example runs as it stands, configured by the environment, against a served emulator."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.validate import validator

import httpx
import pytest
from example_modules import EXAMPLES, example
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


async def test_the_starlette_example_serves_anonymous_callers_and_guards_one_route(
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


async def test_the_django_example_answers_with_the_refusals_of_its_guards(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLERK_SECRET_KEY", instance.emulator.secret_key)
    monkeypatch.setenv("CLERK_M2M_ACCEPTS", "m2m_token,api_key")
    buyer = instance.emulator.add_api_key("buyer", subject=USER_ID, scopes=["orders:write"])
    reader = instance.emulator.add_api_key("reader", subject=USER_ID)
    # Django finds its URLs and its middleware by the name of a module.
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "django_service", raising=False)
    module = importlib.import_module("django_service")

    async with (
        serve(module.app, lifespan="off") as origin,
        httpx.AsyncClient(base_url=origin) as client,
    ):
        healthz = await client.get("/healthz")
        orders = await client.get("/orders", headers=bearer(instance.token()))
        bought = await client.post("/orders", headers=bearer(buyer.secret))
        refused = [
            await client.get("/orders"),
            await client.get("/orders", headers=bearer(buyer.secret)),
            await client.post("/orders", headers=bearer(instance.token())),
            await client.post("/orders", headers=bearer(reader.secret)),
        ]
    await module.app.verifier.aclose()

    assert healthz.json() == {"status": "ok"}
    assert orders.json() == {"orders_for": instance.caller.id}
    assert (bought.status_code, bought.json()) == (201, {"placed_by": USER_ID})
    assert [(each.status_code, each.json()["code"]) for each in refused] == [
        (401, "token_missing"),
        (401, "token_type_not_accepted"),
        (401, "token_type_not_accepted"),
        (403, "permission_denied"),
    ]
    assert refused[-1].headers["www-authenticate"].endswith('scope="orders:write"')


class QuietHandler(WSGIRequestHandler):
    """Does not write each request to stderr."""

    def log_message(self, format: str, *args: object) -> None: ...


class ThreadingServer(ThreadingMixIn, WSGIServer):
    """A thread for each connection, as WSGI servers have them."""

    daemon_threads = True


def test_the_wsgi_example_verifies_on_every_thread(instance: Instance) -> None:
    with (
        example("wsgi_service").open_app() as app,
        make_server("127.0.0.1", 0, validator(app), ThreadingServer, QuietHandler) as server,
    ):
        serving = threading.Thread(target=server.serve_forever, args=[0.01])
        serving.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as client:
                token = bearer(instance.token())
                with ThreadPoolExecutor(4) as threads:
                    answers = list(threads.map(lambda _: client.get("/", headers=token), range(8)))
                missing = client.get("/")
                doubled = client.get("/", headers=[*token.items(), *token.items()])
                instance.emulator.fail("verifyM2MToken", status=500)
                down = client.get("/", headers=bearer(instance.token()))
        finally:
            server.shutdown()
            serving.join()

    assert [answer.json() for answer in answers] == [{"orders_for": instance.caller.id}] * 8
    assert instance.emulator.calls["verifyM2MToken"] >= 2  # one for eight, and the outage
    assert [(each.status_code, each.json()["code"]) for each in (missing, doubled, down)] == [
        (401, "token_missing"),
        (400, "token_malformed"),
        (503, "verification_unavailable"),
    ]
    assert missing.headers["www-authenticate"] == "Bearer"
    assert int(down.headers["retry-after"]) >= 1


def test_the_wsgi_example_is_closed_when_its_process_ends(instance: Instance) -> None:
    script = (
        "import atexit; from wsgi_service import create_app\n"
        "atexit.register(print, 'closed')\n"  # called last
        "create_app()({}, lambda status, headers: print(status))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLES), *sys.path])},
    )

    assert ended.stdout.splitlines() == ["401 Unauthorized", "closed"]
