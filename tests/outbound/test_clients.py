"""Each client that `MachineTokenAuth` supports, over sockets, and the token as text for others."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import trio
from outbound_calls import Callee, mints, outbound, settle
from outbound_clients import CLIENTS, get, raising_hook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from clerk_m2m import ConfigurationError, MachineTokenAuth, TokenUnavailableError
from harness import World, bearer, calling, protected, serve


def service(world: World) -> Starlette:
    """The callee, which verifies each token at Clerk and caches nothing."""
    return protected(world.verifier(world.settings(cache_ttl=0, negative_ttl=0)))


async def revoke_all(world: World) -> None:
    """Revoke the tokens of the caller."""
    async with world.emulator.client() as clerk:
        async for token in clerk.m2m_tokens.iter(world.caller.id):
            world.emulator.revoke_m2m_token(token.id)


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_revoked_token_is_replaced_and_the_call_repeated(world: World, client: str) -> None:
    auth = outbound(world)
    async with serve(service(world)) as origin:
        before = await get(client, auth, origin)
        await revoke_all(world)
        after = await get(client, auth, origin, times=3)

    assert (before, after) == ([200], [200, 200, 200])
    assert mints(world) == 2


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_response_hook_that_raises_does_not_hide_a_401(world: World, client: str) -> None:
    auth, hooks = outbound(world), {"response": [raising_hook(client)]}
    async with serve(service(world)) as origin:
        await auth.token()
        await revoke_all(world)
        statuses = await get(client, auth, origin, times=20, event_hooks=hooks)

    assert statuses == [401] + [200] * 19
    assert mints(world) == 2


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_passing_the_class_as_auth_raises_an_error_that_names_the_parentheses(library: Any) -> None:
    with (
        library.Client(auth=MachineTokenAuth) as client,
        pytest.raises(ConfigurationError, match=r"Write auth=MachineTokenAuth\(\)"),
    ):
        client.get("http://callee.test")


async def test_a_users_own_trace_function_receives_all_events_and_is_restored(world: World) -> None:
    auth, told = outbound(world), []

    async def trace(name: str, info: dict[str, Any]) -> None:
        told.append(name)

    async with serve(service(world)) as origin, httpx.AsyncClient(auth=auth) as client:
        request = client.build_request("GET", origin, extensions={"trace": trace})
        await client.send(request)
        after_first = list(told)
        await client.send(request)

    assert after_first[-1] == "http11.response_closed.complete"
    assert told.count("http11.receive_response_headers.complete") == 2
    assert request.extensions["trace"] is trace


async def test_forget_replaces_a_token_when_the_transport_reports_no_status(world: World) -> None:
    auth, callee = outbound(world), Callee()
    hooks = {"response": [raising_hook("httpx.AsyncClient")]}
    async with callee.client(auth, event_hooks=hooks) as client:
        await client.get("/")
        stale = callee.credentials[0]
        callee.decide = lambda request: 401 if request.headers["Authorization"] == stale else 200
        for _ in range(3):
            with pytest.raises(httpx.HTTPStatusError):
                await client.get("/")
        assert mints(world) == 1
        assert auth.forget()
        answer = await client.get("/")

    assert answer.status_code == 200
    assert mints(world) == 2


async def test_repeated_forget_mints_after_growing_pauses(world: World) -> None:
    auth, forgotten = outbound(world, seconds_until_expiration=86_400), 0
    assert not auth.forget()  # there is no token yet
    for _ in range(3600):
        await auth.token()
        forgotten += auth.forget()
        world.time.advance(1)

    # Pauses of 10, 20, 40, … 320 s, then of 600 s each.
    assert forgotten == 11
    assert mints(world) == 1 + 11


async def test_after_forget_clerk_is_not_allowed_to_return_the_same_token(world: World) -> None:
    auth = outbound(world, seconds_until_expiration=3600, min_remaining_ttl_seconds=60)
    first = await auth.token()
    auth.forget()

    assert await auth.token() != first


async def test_token_and_token_sync_return_the_shared_token_as_text(world: World) -> None:
    auth = outbound(world)
    async with calling(protected(world.verifier())) as client:
        tokens = [await auth.token(), await asyncio.to_thread(auth.token_sync), auth.token_sync()]
        answer = await client.get("/", headers=bearer(tokens[0]))

    assert answer.json() == {"subject": world.caller.id}
    assert len(set(tokens)) == 1
    assert mints(world) == 1


async def test_token_sync_accepts_a_key_in_each_form(world: World, tmp_path: Path) -> None:
    async def source() -> str:
        await asyncio.sleep(0)
        return world.caller.secret_key

    path = tmp_path / "key"
    path.write_text(world.caller.secret_key)
    for key in (source, lambda: world.caller.secret_key, path):
        auth = outbound(world, machine_secret_key=key)
        assert (await asyncio.to_thread(auth.token_sync)).startswith("mt_")

    assert mints(world) == 3


async def test_a_synchronous_caller_closes_without_an_event_loop(world: World) -> None:
    auth = outbound(world)
    first = await asyncio.to_thread(auth.token_sync)
    await asyncio.to_thread(auth.close)

    assert await auth.token() == first


def test_under_trio_the_error_says_how_to_get_the_token(
    clerk_emulator: Any, clerk_machine: Any
) -> None:
    auth = clerk_emulator.auth(clerk_machine())

    async def call() -> str:
        async with httpx.AsyncClient(auth=auth) as client:
            await client.get("http://127.0.0.1:9/")
        return ""

    async def token() -> str:
        return await trio.to_thread.run_sync(auth.token_sync)

    with pytest.raises(ConfigurationError, match="needs asyncio") as refused:
        trio.run(call)
    assert refused.value.code == "configuration_invalid"
    assert trio.run(token).startswith("mt_")


async def test_a_mint_does_not_see_context_variables_of_the_caller(world: World) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="none")
    seen: list[tuple[str, str]] = []

    def key() -> str:
        seen.append((variable.get(), threading.current_thread().name))
        return world.caller.secret_key

    variable.set("the caller's")
    await outbound(world, machine_secret_key=key).token()

    assert seen == [("none", "clerk_m2m background")]


# The extensions of a request


async def test_a_request_with_copied_extensions_is_sent_without_the_token_and_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    callee = Callee()
    async with callee.client(outbound(world)) as client:
        first = client.build_request("GET", "http://callee.test/")
        await client.send(first)
        for _ in range(3):
            await client.send(httpx.Request("GET", "https://b.test/", extensions=first.extensions))
        first.url = httpx.URL("http://c.test:81/x?secret=1")
        await client.send(first)

    assert callee.credentials[1:] == [None] * 4
    said = [record.getMessage() for record in caplog.records if record.name == "clerk_m2m"]
    assert [text.split(" was sent without")[0] for text in said] == [
        "A call to https://b.test",
        "A call to http://c.test:81",
    ]


# Log lines about rejected tokens


async def test_a_rejection_logs_one_warning_per_callee(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    callee = Callee(decide=lambda request: 401 if request.url.host == "a.test" else 403)
    async with callee.client(outbound(world)) as client:
        for _ in range(5):
            await client.get("https://user:password@a.test/secret")
            await client.get("http://b.test:8000/")
            await settle()

    records = [record for record in caplog.records if record.name == "clerk_m2m"]
    assert [(record.levelname, record.getMessage()) for record in records] == [
        (
            "WARNING",
            "https://a.test answered 401 to a call with this machine's token. It was replaced. "
            "Run `clerk-m2m explain` to learn why.",
        ),
        (
            "WARNING",
            "http://b.test:8000 answered 403 to a call with this machine's token. It was not "
            "replaced. Run `clerk-m2m explain` to learn why.",
        ),
    ]


async def test_the_timeout_of_a_mint_includes_reading_the_key(world: World) -> None:
    async def slow_key() -> str:
        await asyncio.sleep(0.45)
        return world.caller.secret_key

    world.emulator.fail("createM2MToken", kind="hang")
    auth = outbound(world, machine_secret_key=slow_key, timeout=0.5)
    started = asyncio.get_running_loop().time()
    with pytest.raises(TokenUnavailableError, match=r"timeout of 0\.5 s") as unavailable:
        await auth.token()
    took = asyncio.get_running_loop().time() - started
    world.emulator.clear_faults()

    assert unavailable.value.code == "token_unavailable"
    assert 0.5 <= took < 0.9  # if key and mint had 0.5 s each, it would take 0.95 s


def test_a_transport_of_the_wrong_type_is_rejected_at_construction() -> None:
    with pytest.raises(ConfigurationError, match="AsyncHTTPTransport") as refused:
        MachineTokenAuth("ak_" + "0" * 40, transport=httpx.HTTPTransport())  # type: ignore[arg-type]

    assert refused.value.code == "configuration_invalid"


async def test_a_redirect_followed_by_the_caller_keeps_the_token_within_its_origin(
    world: World,
) -> None:
    seen: list[str | None] = []

    async def answer(request: Request) -> Response:
        seen.append(request.headers.get("Authorization"))
        return Response(
            status_code=200 if request.url.path == "/" else 303, headers={"Location": "/"}
        )

    app = Starlette(routes=[Route("/", answer), Route("/away", answer)])
    async with serve(app) as origin, httpx.AsyncClient(auth=outbound(world)) as client:
        away = await client.get(f"{origin}/away")
        assert away.next_request is not None
        await client.send(away.next_request)

    assert seen[0] == seen[1] is not None
