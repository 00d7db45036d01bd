"""Odd requests through real servers."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import protected_app
import pytest
import pytest_asyncio
from odd_requests import FIELDS, GOOD, NO_FILES, TARGETS
from raw_http import Reply, exchange, get

from harness import serve


@asynccontextmanager
async def _uvicorn(http: str) -> AsyncIterator[int]:
    async with serve(protected_app.build(), http=http) as origin:
        yield int(origin.rpartition(":")[2])


@asynccontextmanager
async def _hypercorn() -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.detach()}"]  # hypercorn closes it
    config.errorlog = None
    stop = asyncio.Event()
    app: Any = protected_app.build()
    task = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))
    try:
        yield port  # it listens already: early connections wait
    finally:
        stop.set()
        await task


@asynccontextmanager
async def _granian() -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    here = Path(__file__).parents[1]
    command = ["-m", "granian", "--interface", "asgi", "--http", "1", "--no-ws", "--no-log"]
    # granian's worker sometimes hangs when it is asked to stop (seen with 2.5 to 2.7).
    command += ["--workers-kill-timeout", "5", "--factory", "protected_app:build"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--host", "127.0.0.1", "--port", str(port),
        cwd=here, env=os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"},
    )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            await _listening(process, port)
        yield port
    finally:
        process.terminate()
        await process.wait()


async def _listening(process: asyncio.subprocess.Process, port: int) -> None:
    while True:
        assert process.returncode is None, "the server ended before it listened"
        try:
            reply = await exchange(port, get(protected_app.OPEN_PATH.encode(), []))
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)  # another process: only its port can be polled
            continue
        assert reply.status == 200
        return


SERVERS = {
    "uvicorn-h11": lambda: _uvicorn("h11"),
    "uvicorn-httptools": lambda: _uvicorn("httptools"),
    "hypercorn": _hypercorn,
    "granian": _granian,
}


@dataclass(frozen=True)
class Service:
    """A running server, and a good token for it."""

    server: str
    port: int
    token: bytes
    caller: str

    async def call(self, values: list[bytes], target: bytes = b"/") -> Reply:
        """Send a request with these Authorization fields."""
        fields = [(b"Authorization", value.replace(GOOD, self.token)) for value in values]
        return await exchange(self.port, get(target, fields))


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=SERVERS)
async def service(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """Each server in turn."""
    async with SERVERS[request.param]() as port:
        given = (await exchange(port, get(b"/open", []))).json
        yield Service(request.param, port, given["token"].encode(), given["caller"])


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("values", "may_count"), [pytest.param(v, m, id=s) for s, v, m in FIELDS])
async def test_an_odd_credential_is_accepted_only_if_it_is_the_one_good_token(
    service: Service, values: list[bytes], may_count: bool
) -> None:
    reply = await service.call(values)

    if may_count and reply.status == 200:
        assert reply.json["subject"] == service.caller
    else:
        assert reply.status in (400, 401, 431, None)
        assert reply.json.get("code", "token_malformed") in ("token_malformed", "token_missing")
    assert (await service.call([b"Bearer <good>"])).json["subject"] == service.caller


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("value", [b"Bearer <good>  ", b"Bearer <good>\t", b"  Bearer <good>"])
async def test_every_server_accepts_a_token_with_spaces_around_it(
    service: Service, value: bytes
) -> None:
    reply = await service.call([value])

    assert (reply.status, reply.json["subject"]) == (200, service.caller)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("target", [pytest.param(t, id=s) for s, t in TARGETS])
async def test_without_a_credential_only_the_excluded_path_is_served(
    service: Service, target: bytes
) -> None:
    reply = await service.call([], target)

    if reply.status == 200:
        assert reply.json["route"] == "open"
    else:
        assert reply.status in (400, 401, 404, 405, None)


@pytest.mark.asyncio(loop_scope="module")
async def test_without_a_credential_only_paths_below_an_excluded_prefix_are_served(
    service: Service,
) -> None:
    opened = [await service.call([], target) for target in (b"/files/a.js", b"/files/a/%C3%A9.js")]
    closed = [await service.call([], target) for target in NO_FILES]

    assert [reply.json for reply in opened] == [{"route": "file", "subject": None}] * 2
    for target, reply in zip(NO_FILES, closed, strict=True):
        assert reply.status in (400, 401, 404, None), target


@pytest.mark.asyncio(loop_scope="module")
async def test_two_thousand_other_header_fields_do_not_change_the_decision(
    service: Service,
) -> None:
    others = [(b"X-%d" % number, b"x") for number in range(2000)]
    good = (b"Authorization", b"Bearer " + service.token)
    bad = (b"Authorization", b"Bearer mt_" + b"x" * 40)

    with_good = await exchange(service.port, get(b"/", [*others, good]))
    with_bad = await exchange(service.port, get(b"/", [bad, *others]))
    with_both = await exchange(service.port, get(b"/", [good, *others, bad]))

    assert with_good.status in (200, 400, 431, None)
    assert with_bad.status in (400, 401, 431, None)
    assert with_both.status in (400, 431, None)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_header_whose_name_resembles_authorization_is_ignored(service: Service) -> None:
    for name in (b"Authorization ", b"authorization_", b"Proxy-Authorization", b"X-Authorization"):
        reply = await exchange(service.port, get(b"/", [(name, b"Bearer " + service.token)]))
        assert reply.status in (400, 401, None), name


@pytest.mark.asyncio(loop_scope="module")
async def test_concurrent_callers_are_not_mixed_up(service: Service) -> None:
    replies = await asyncio.gather(
        *(service.call([b"Bearer <good>"] if number % 2 else []) for number in range(40))
    )

    for number, reply in enumerate(replies):
        if number % 2:
            assert reply.json["subject"] == service.caller
        else:
            assert (reply.status, reply.json["code"]) == (401, "token_missing")
