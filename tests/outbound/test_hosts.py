"""Where the token is sent: redirects, and the setting `hosts`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpcore
import httpx
import pytest
from outbound_calls import Callee, mints, outbound, settle
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from clerk_m2m import ConfigurationError
from harness import World, serve


@asynccontextmanager
async def two_origins() -> AsyncIterator[tuple[str, str, list[tuple[str, str | None]]]]:
    """Two services on real sockets; the first redirects to the other, or to itself."""
    seen: list[tuple[str, str | None]] = []

    async def answer(request: Request) -> Response:
        seen.append((request.url.path, request.headers.get("Authorization")))
        status = int(request.query_params.get("status", 200))
        return Response(status_code=status)

    async def redirect(request: Request) -> Response:
        seen.append((request.url.path, request.headers.get("Authorization")))
        return RedirectResponse(request.query_params["to"], status_code=303)

    methods = ["GET", "POST"]
    routes = [Route("/", answer, methods=methods), Route("/away", redirect, methods=methods)]
    app = Starlette(routes=routes)
    async with serve(app) as first, serve(app) as second:
        yield first, second, seen


async def test_a_redirect_to_another_origin_does_not_carry_the_token(world: World) -> None:
    async with (
        two_origins() as (first, second, seen),
        httpx.AsyncClient(auth=outbound(world), follow_redirects=True) as client,
    ):
        await client.get(f"{first}/away", params={"to": f"{second}/"})

    assert [path for path, _ in seen] == ["/away", "/"]
    assert seen[0][1] is not None
    assert seen[1][1] is None


async def test_a_redirect_within_the_origin_keeps_the_token(world: World) -> None:
    async with (
        two_origins() as (first, _, seen),
        httpx.AsyncClient(auth=outbound(world), follow_redirects=True) as client,
    ):
        await client.get(f"{first}/away", params={"to": f"{first}/"})

    assert seen[0][1] == seen[1][1] is not None


async def test_a_redirect_followed_by_the_caller_does_not_carry_the_token_to_another_origin(
    world: World,
) -> None:
    async with (
        two_origins() as (first, second, seen),
        httpx.AsyncClient(auth=outbound(world)) as client,
    ):
        away = await client.get(f"{first}/away", params={"to": f"{second}/"})
        assert away.next_request is not None
        await client.send(away.next_request)

    assert seen[0][1] is not None
    assert seen[1][1] is None


async def test_a_401_from_another_origin_after_a_redirect_causes_no_mint(world: World) -> None:
    async with (
        two_origins() as (first, second, seen),
        httpx.AsyncClient(auth=outbound(world), follow_redirects=True) as client,
    ):
        answer = await client.get(f"{first}/away", params={"to": f"{second}/?status=401"})

    assert answer.status_code == 401
    assert len(seen) == 2
    assert mints(world) == 1


async def test_a_hook_that_raises_on_another_origins_401_causes_no_mint(world: World) -> None:
    async def hook(response: httpx.Response) -> None:
        if response.status_code == 401:
            response.raise_for_status()

    async with (
        two_origins() as (first, second, _),
        httpx.AsyncClient(
            auth=outbound(world), follow_redirects=True, event_hooks={"response": [hook]}
        ) as client,
    ):
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            await client.get(f"{first}/away", params={"to": f"{second}/?status=401"})
        await settle()

    assert mints(world) == 1


async def test_a_call_that_was_redirected_is_not_repeated(world: World) -> None:
    async with (
        two_origins() as (first, _, seen),
        httpx.AsyncClient(auth=outbound(world), follow_redirects=True) as client,
    ):
        answer = await client.post(f"{first}/away", params={"to": f"{first}/?status=401"})

    assert answer.status_code == 401
    assert [path for path, _ in seen] == ["/away", "/"]


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        (["callee.test"], "https://callee.test/"),
        (["callee.test"], "https://callee.test:8443/"),
        (["CALLEE.test"], "https://callee.test/"),
        (["https://callee.test"], "https://callee.test/"),
        (["callee.test:443"], "https://callee.test/"),
        (["callee.test"], "wss://callee.test/"),
        (["http://callee.test"], "http://callee.test/"),
        (["http://callee.test"], "http://callee.test:8000/"),
        (["http://callee.test"], "https://callee.test/"),
        (["HTTP://callee.test:80"], "http://callee.test/"),
        (["http://callee.test"], "ws://callee.test/"),
        (["other.test", "[::1]:8000"], "http://[::1]:8000/"),
        (["localhost"], "http://localhost:8000/"),
        (["127.0.0.1:8000"], "https://127.0.0.1:8000/"),
        (["bücher.test"], "https://xn--bcher-kva.test/"),
    ],
)
async def test_the_token_is_sent_to_a_host_in_hosts(
    world: World, hosts: list[str], url: str
) -> None:
    callee = Callee()
    async with callee.client(outbound(world, hosts=hosts)) as client:
        await client.get(url)

    assert callee.credentials[0] is not None


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        (["callee.test"], "http://callee.test/"),
        (["callee.test"], "ws://callee.test/"),
        (["callee.test:80"], "http://callee.test/"),
        (["https://callee.test"], "http://callee.test/"),
        (["callee.test"], "https://other.test/"),
        (["http://callee.test"], "http://other.test/"),
        (["callee.test"], "https://callee.test.evil.test/"),
        (["callee.test"], "https://sub.callee.test/"),
        (["callee.test"], "https://callee.test./"),
        (["callee.test"], "https://callee.test@evil.test/"),
        (["callee.test:443"], "http://callee.test/"),
        (["callee.test:8000"], "https://callee.test:8001/"),
        (["http://callee.test:8000"], "http://callee.test:8001/"),
        (["localhost:8000"], "http://localhost:8001/"),
        (["api.localhost"], "http://api.localhost/"),
        (["callee.test"], "http://localhost/"),
    ],
)
async def test_a_call_to_a_host_that_is_not_in_hosts_is_not_sent(
    world: World, hosts: list[str], url: str
) -> None:
    callee = Callee()
    async with callee.client(outbound(world, hosts=hosts)) as client:
        with pytest.raises(ConfigurationError, match="hosts") as refused:
            await client.get(url)
        await client.get(url, auth=None)

    assert refused.value.code == "configuration_invalid"
    assert callee.credentials in ([None], ["Basic Y2FsbGVlLnRlc3Q6"])
    assert mints(world) == 0


@pytest.mark.parametrize(
    ("hosts", "url", "said"),
    [
        (["callee.test"], "http://callee.test/", 'https only.* "http://callee.test" to hosts'),
        (["callee.test"], "http://other.test/", 'Add "http://other.test:80" to hosts'),
        (["callee.test"], "https://other.test/", 'Add "other.test:443" to hosts'),
        (["callee.test"], "http://[::1]:8000/", r'Add "\[::1\]:8000" to hosts'),
    ],
)
async def test_the_error_says_what_to_add_to_hosts(
    world: World, hosts: list[str], url: str, said: str
) -> None:
    async with Callee().client(outbound(world, hosts=hosts)) as client:
        with pytest.raises(ConfigurationError, match=said) as refused:
            await client.get(url)

    assert refused.value.code == "configuration_invalid"


@pytest.mark.parametrize(
    ("hosts", "error"),
    [
        (["http://callee.test:80"], ConfigurationError),
        (["http://callee.test"], httpx.TooManyRedirects),
    ],
)
async def test_hosts_is_checked_when_httpx_follows_a_redirect_from_http_to_https(
    world: World, hosts: list[str], error: type[Exception]
) -> None:
    moved = b"HTTP/1.1 301 Moved\r\nLocation: https://callee.test/\r\nContent-Length: 0\r\n\r\n"
    transport = httpx.AsyncHTTPTransport()
    # Replaces the network: answers every connection with a redirect.
    backend = httpcore.AsyncMockBackend([moved] * 30)
    transport._pool = httpcore.AsyncConnectionPool(network_backend=backend)
    async with httpx.AsyncClient(
        transport=transport, auth=outbound(world, hosts=hosts), follow_redirects=True
    ) as client:
        with pytest.raises(error) as refused:
            await client.get("http://callee.test/")

    if error is ConfigurationError:
        assert str(refused.value).startswith(
            "hosts does not allow the token to callee.test, port 443."
        )


@pytest.mark.parametrize(
    ("hosts", "url"), [(["my_service"], "https://my_service/"), (["a.test."], "https://a.test./")]
)
async def test_unusual_names_that_can_match_are_allowed(
    world: World, hosts: list[str], url: str
) -> None:
    callee = Callee()
    async with callee.client(outbound(world, hosts=hosts)) as client:
        await client.get(url)

    assert callee.credentials[0] is not None
