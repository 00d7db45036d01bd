"""A client that disconnects while its credential is verified frees its place in the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send
from upstreams import eventually

from clerk_m2m import MachineAuthMiddleware, Verifier
from harness import World


class Connection:
    """A simulated ASGI connection: its messages, and what was read and sent."""

    def __init__(self, token: str, *headers: tuple[bytes, bytes], kind: str = "http") -> None:
        bearer = (b"authorization", f"Bearer {token}".encode())
        self.scope: Scope = {
            "type": kind,
            "method": "GET",
            "path": "/",
            "headers": [bearer, *headers],
            "query_string": b"",
        }
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.reads = 0
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        self.reads += 1
        return await self.messages.get()

    async def send(self, message: Message) -> None:
        self.sent.append(message)


class App:
    """Reads `reads` messages, then answers 200."""

    def __init__(self, reads: int = 1) -> None:
        self.reads = reads
        self.calls = 0
        self.received: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        for _ in range(self.reads):
            self.received.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Held:
    """Holds every call to Clerk until `let_go` is set."""

    def __init__(self, world: World) -> None:
        self.let_go = asyncio.Event()
        world.upstream.intercept = self._hold

    async def _hold(self, _request: httpx.Request) -> None:
        await self.let_go.wait()


EMPTY: Message = {"type": "http.request", "body": b"", "more_body": False}
GONE: Message = {"type": "http.disconnect"}


def call(app: App, verifier: Verifier, connection: Connection) -> asyncio.Task[None]:
    middleware = MachineAuthMiddleware(app, verifier=verifier)
    return asyncio.create_task(middleware(connection.scope, connection.receive, connection.send))


async def test_after_a_disconnect_nothing_is_answered_and_the_app_is_not_called(
    world: World,
) -> None:
    held, app, connection = Held(world), App(), Connection(world.token())
    request = call(app, world.verifier(), connection)
    connection.messages.put_nowait(EMPTY)
    connection.messages.put_nowait(GONE)

    await asyncio.wait_for(request, 5.0)
    assert (app.calls, connection.sent) == (0, [])
    held.let_go.set()


async def test_a_request_that_is_cancelled_as_its_client_disconnects_stays_cancelled(
    world: World,
) -> None:
    held, app, connection = Held(world), App(), Connection(world.token())
    request = call(app, world.verifier(), connection)
    connection.messages.put_nowait(EMPTY)
    await eventually(lambda: connection.reads == 2)
    connection.messages.put_nowait(GONE)
    loop = asyncio.get_running_loop()
    # After the message is read, and before it wakes the waiting request.
    loop.call_soon(lambda: loop.call_soon(request.cancel))

    await asyncio.wait({request}, timeout=5.0)
    assert request.cancelled()
    assert app.calls == 0
    held.let_go.set()


async def test_a_disconnected_client_frees_its_place_in_the_queue(
    world: World,
) -> None:
    held, app, verifier = Held(world), App(), world.verifier(world.settings(max_inflight=2))
    first = asyncio.create_task(verifier.verify(world.token()))
    await eventually(lambda: len(world.upstream.requests) == 1)
    connections = [Connection(world.token()) for _ in range(5)]
    requests = [call(app, verifier, each) for each in connections]
    for each in connections:
        each.messages.put_nowait(EMPTY)
        each.messages.put_nowait(GONE)
    await asyncio.wait_for(asyncio.gather(*requests), 5.0)
    held.let_go.set()

    await first
    await verifier.verify(world.token())
    assert len(world.upstream.requests) == 2


async def test_the_app_receives_messages_read_during_verification_in_order(world: World) -> None:
    held, app, connection = Held(world), App(reads=2), Connection(world.token())
    request = call(app, world.verifier(), connection)
    connection.messages.put_nowait(EMPTY)
    await eventually(lambda: connection.reads == 2)
    held.let_go.set()
    await eventually(lambda: app.received == [EMPTY])
    connection.messages.put_nowait(GONE)

    await asyncio.wait_for(request, 5.0)
    assert app.received == [EMPTY, GONE]
    assert [message["type"] for message in connection.sent] == [
        "http.response.start",
        "http.response.body",
    ]
    assert connection.reads == 2


async def test_the_rest_of_a_body_is_left_to_the_app(world: World) -> None:
    part: Message = {"type": "http.request", "body": b"a", "more_body": True}
    held, app, connection = Held(world), App(reads=2), Connection(world.token())
    request = call(app, world.verifier(), connection)
    connection.messages.put_nowait(part)
    connection.messages.put_nowait(EMPTY)
    await eventually(lambda: connection.reads == 1)
    held.let_go.set()

    await asyncio.wait_for(request, 5.0)
    assert app.received == [part, EMPTY]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"3")],
        [(b"transfer-encoding", b"chunked")],
        [(b"expect", b"100-continue")],
    ],
    ids=str,
)
async def test_nothing_is_read_when_the_request_has_a_body_or_expect(
    world: World, headers: Sequence[tuple[bytes, bytes]]
) -> None:
    held, app, connection = Held(world), App(), Connection(world.token(), *headers)
    request = call(app, world.verifier(), connection)
    await eventually(lambda: len(world.upstream.requests) == 1)
    # Ten times the delay after which the middleware watches for a disconnect.
    done, _ = await asyncio.wait({request}, timeout=0.5)
    assert (done, connection.reads) == (set(), 0)
    held.let_go.set()
    connection.messages.put_nowait(EMPTY)

    await asyncio.wait_for(request, 5.0)
    assert app.received == [EMPTY]


async def test_a_cancelled_request_is_not_mistaken_for_a_disconnect(
    world: World,
) -> None:
    held, app, connection = Held(world), App(), Connection(world.token())
    request = call(app, world.verifier(), connection)
    connection.messages.put_nowait(EMPTY)
    await eventually(lambda: connection.reads == 2)
    request.cancel()

    with pytest.raises(asyncio.CancelledError):
        await request
    held.let_go.set()
    await eventually(lambda: len(asyncio.all_tasks()) == 1)


async def test_a_receive_that_is_not_a_coroutine_function_works(world: World) -> None:
    held, app, connection = Held(world), App(), Connection(world.token())
    middleware = MachineAuthMiddleware(app, verifier=world.verifier())

    def receive() -> Any:
        return asyncio.ensure_future(connection.receive())

    request = asyncio.create_task(middleware(connection.scope, receive, connection.send))
    connection.messages.put_nowait(EMPTY)
    connection.messages.put_nowait(GONE)

    await asyncio.wait_for(request, 5.0)
    assert app.calls == 0
    held.let_go.set()


async def test_a_cached_credential_causes_no_read(world: World) -> None:
    app, verifier, token = App(reads=0), world.verifier(), world.token()
    await verifier.verify(token)
    connection = Connection(token)
    await call(app, verifier, connection)

    assert (app.calls, connection.reads) == (1, 0)
