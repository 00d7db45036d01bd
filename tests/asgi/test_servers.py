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

import door_app
import hypercorn.asyncio
import hypercorn.config
import pytest
import pytest_asyncio
from odd_requests import FIELDS, GOOD, NO_FILES, TARGETS
from raw_http import Reply, exchange, get

from harness import serve


@asynccontextmanager
async def _uvicorn(http: str) -> AsyncIterator[int]:
    async with serve(door_app.build(), http=http) as origin:
        yield int(origin.rpartition(":")[2])


@asynccontextmanager
async def _hypercorn() -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.detach()}"]  # hypercorn closes it
    config.errorlog = None
    stop = asyncio.Event()
    app: Any = door_app.build()
    task = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))
    try:
        yield port  # it listens already: what comes early waits
    finally:
        stop.set()
        await task


@asynccontextmanager
async def _granian() -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    here = Path(__file__).parents[1]
    command = ["-m", "granian", "--interface", "asgi", "--http", "1", "--no-ws", "--no-log"]
    # granian's worker hangs now and then when it is told to stop (seen with 2.5 to 2.7).
    command += ["--workers-kill-timeout", "5", "--factory", "door_app:build"]
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
            reply = await exchange(port, get(door_app.OPEN_PATH.encode(), []))
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)  # another process: there is nothing to wait on but its port
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
class Door:
    """A server that runs, and a good token for it."""

    server: str
    port: int
    token: bytes
    caller: str

    async def knock(self, values: list[bytes], target: bytes = b"/") -> Reply:
        """Ask with these Authorization fields."""
        fields = [(b"Authorization", value.replace(GOOD, self.token)) for value in values]
        return await exchange(self.port, get(target, fields))


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=SERVERS)
async def door(request: pytest.FixtureRequest) -> AsyncIterator[Door]:
    """Each server in turn."""
    async with SERVERS[request.param]() as port:
        given = (await exchange(port, get(b"/open", []))).json
        yield Door(request.param, port, given["token"].encode(), given["caller"])


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("values", "may_count"), [pytest.param(v, m, id=s) for s, v, m in FIELDS])
async def test_a_server_lets_no_odd_credential_in(
    door: Door, values: list[bytes], may_count: bool
) -> None:
    reply = await door.knock(values)

    if may_count and reply.status == 200:
        assert reply.json["subject"] == door.caller
    else:
        assert reply.status in (400, 401, 431, None)
        assert reply.json.get("code", "token_malformed") in ("token_malformed", "token_missing")
    assert (await door.knock([b"Bearer <good>"])).json["subject"] == door.caller


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("value", [b"Bearer <good>  ", b"Bearer <good>\t", b"  Bearer <good>"])
async def test_every_server_answers_a_token_with_spaces_around_it(door: Door, value: bytes) -> None:
    reply = await door.knock([value])

    assert (reply.status, reply.json["subject"]) == (200, door.caller)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("target", [pytest.param(t, id=s) for s, t in TARGETS])
async def test_a_server_opens_nothing_but_the_excluded_path(door: Door, target: bytes) -> None:
    reply = await door.knock([], target)

    if reply.status == 200:
        assert reply.json["route"] == "open"
    else:
        assert reply.status in (400, 401, 404, 405, None)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_server_opens_what_is_below_a_prefix_and_no_other_spelling(door: Door) -> None:
    opened = [await door.knock([], target) for target in (b"/files/a.js", b"/files/a/%C3%A9.js")]
    closed = [await door.knock([], target) for target in NO_FILES]

    assert [reply.json for reply in opened] == [{"route": "file", "subject": None}] * 2
    for target, reply in zip(NO_FILES, closed, strict=True):
        assert reply.status in (400, 401, 404, None), target


@pytest.mark.asyncio(loop_scope="module")
async def test_two_thousand_other_fields_change_nothing(door: Door) -> None:
    others = [(b"X-%d" % number, b"x") for number in range(2000)]
    good = (b"Authorization", b"Bearer " + door.token)
    bad = (b"Authorization", b"Bearer mt_" + b"x" * 40)

    with_good = await exchange(door.port, get(b"/", [*others, good]))
    with_bad = await exchange(door.port, get(b"/", [bad, *others]))
    with_both = await exchange(door.port, get(b"/", [good, *others, bad]))

    assert with_good.status in (200, 400, 431, None)
    assert with_bad.status in (400, 401, 431, None)
    assert with_both.status in (400, 431, None)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_name_that_only_looks_like_authorization_is_none(door: Door) -> None:
    for name in (b"Authorization ", b"authorization_", b"Proxy-Authorization", b"X-Authorization"):
        reply = await exchange(door.port, get(b"/", [(name, b"Bearer " + door.token)]))
        assert reply.status in (400, 401, None), name


@pytest.mark.asyncio(loop_scope="module")
async def test_concurrent_callers_are_not_mixed_up(door: Door) -> None:
    replies = await asyncio.gather(
        *(door.knock([b"Bearer <good>"] if number % 2 else []) for number in range(40))
    )

    for number, reply in enumerate(replies):
        if number % 2:
            assert reply.json["subject"] == door.caller
        else:
            assert (reply.status, reply.json["code"]) == (401, "token_missing")
