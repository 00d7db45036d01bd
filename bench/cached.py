"""The cost of a request with a credential that is cached."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    BaseUser,
    SimpleUser,
)
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bench.measure import Effort, Row, compared, overheads, seconds_each
from bench.upstream import Upstream
from clerk_m2m import (
    MachineAuthMiddleware,
    MachineIdentity,
    Settings,
    Verifier,
    require_machine,
)


def template(token: str, path: str = "/") -> dict[str, Any]:
    """Return the ASGI scope that uvicorn makes from a request of httpx."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [
            (b"host", b"127.0.0.1:8000"),
            (b"accept", b"*/*"),
            (b"accept-encoding", b"gzip, deflate"),
            (b"connection", b"keep-alive"),
            (b"user-agent", b"python-httpx/0.28.1"),
            (b"authorization", b"Bearer " + token.encode()),
        ],
    }


async def receive() -> Message:
    """Return an empty body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def discard(message: Message) -> None:
    """Discard an app's message; fail if it is not a success."""
    assert message.get("status", 200) == 200, message


def request(app: ASGIApp, scope: dict[str, Any]) -> Callable[[], Awaitable[None]]:
    """Return a function that sends a request to `app`, each time with a new scope."""

    def call() -> Awaitable[None]:
        return app({**scope, "state": {}}, receive, discard)

    return call


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """The smallest ASGI app: it answers at once."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


class DictBackend(AuthenticationBackend):
    """A bearer token that is looked up in a dict, with as few steps as starlette's types allow."""

    def __init__(self, known: dict[str, str]) -> None:
        self._known = known

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Return the user who has this token."""
        scheme, _, token = conn.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        user = self._known.get(token)
        if user is None:
            raise AuthenticationError("unknown token")
        return AuthCredentials(["authenticated"]), SimpleUser(user)


async def middleware(upstream: Upstream, effort: Effort) -> Row:
    """Measure an opaque token, with the middleware around the bare app."""
    pairs = await _added(upstream, effort, upstream.settings(), upstream.opaque_tokens[0])
    return _row("Cached opaque token: what the middleware adds to a request", pairs, aim=1.0)


async def with_live_graph(upstream: Upstream, effort: Effort) -> Row:
    """Measure the same, with the edge looked up in a live graph that is cached."""
    settings = upstream.settings(graph="live", secret_key=upstream.secret_key)
    pairs = await _added(upstream, effort, settings, upstream.opaque_tokens[0])
    return _row("The same with the live graph", pairs, aim=1.0)


async def jwt_with_graph(upstream: Upstream, effort: Effort) -> Row:
    """Measure a JWT that was verified a moment ago, with a static graph."""
    token = upstream.jwts[0]
    pairs = await _added(upstream, effort, upstream.jwt_settings(), token)
    title = f"The same for an M2M JWT of {len(token)} bytes, with a static graph"
    return _row(title, pairs, aim=1.2)


async def _added(
    upstream: Upstream, effort: Effort, settings: Settings, token: str
) -> list[tuple[float, float]]:
    """Return the seconds that each middleware adds to a request to the bare app."""
    verifier = Verifier(settings)
    apps: list[ASGIApp] = [
        bare,
        MachineAuthMiddleware(bare, verifier=verifier),
        _dict(upstream, token),
    ]
    times = effort.count(4000)
    sides = [partial(seconds_each, times, request(app, template(token))) for app in apps]
    pairs = await overheads(effort.rounds, *sides)
    await verifier.aclose()
    return pairs


def _dict(upstream: Upstream, token: str) -> ASGIApp:
    return AuthenticationMiddleware(bare, DictBackend({token: upstream.caller}))


def _row(title: str, pairs: list[tuple[float, float]], *, aim: float) -> Row:
    return Row(
        title=title,
        ours="`MachineAuthMiddleware`",
        against="starlette's `AuthenticationMiddleware` with a dict",
        pairs=pairs,
        aim=aim,
    )


async def control(upstream: Upstream, effort: Effort, when: str) -> Row:
    """Measure one request against itself: any difference is the machine's noise."""
    token = upstream.opaque_tokens[0]
    call = request(_dict(upstream, token), template(token))
    side = partial(seconds_each, effort.count(4000), call)
    return Row(
        title=f"Control, {when}: a request against itself",
        ours="starlette's `AuthenticationMiddleware` with a dict",
        against="the same",
        pairs=await compared(effort.rounds, side, side),
        is_control=True,
    )


def fastapi_apps(verifier: Verifier, known: dict[str, str]) -> tuple[FastAPI, FastAPI, FastAPI]:
    """Return three apps with the same route: open, behind this package, behind `HTTPBearer`."""
    plain, ours, other = FastAPI(), FastAPI(), FastAPI()
    ours.add_middleware(MachineAuthMiddleware, verifier=verifier)
    scheme = HTTPBearer()

    async def known_caller(
        credentials: Annotated[HTTPAuthorizationCredentials, Depends(scheme)],
    ) -> str:
        if credentials.credentials not in known:
            raise HTTPException(401)
        return known[credentials.credentials]

    @plain.get("/orders")
    async def open_orders() -> dict[str, str]:
        return {"caller": "anybody"}

    @ours.get("/orders")
    async def orders(
        caller: Annotated[MachineIdentity, Depends(require_machine())],
    ) -> dict[str, str]:
        return {"caller": caller.machine_id}

    @other.get("/orders")
    async def other_orders(caller: Annotated[str, Depends(known_caller)]) -> dict[str, str]:
        return {"caller": caller}

    return plain, ours, other


async def fastapi(upstream: Upstream, effort: Effort) -> Row:
    """Measure an opaque token, with a guard on a FastAPI route."""
    token, times = upstream.opaque_tokens[0], effort.count(400)
    verifier = Verifier(upstream.settings())
    apps = fastapi_apps(verifier, {token: upstream.caller})
    sides = [partial(seconds_each, times, request(app, template(token, "/orders"))) for app in apps]
    pairs = await overheads(3 * effort.rounds, *sides)
    await verifier.aclose()
    return Row(
        title="Cached opaque token in FastAPI: what middleware and guard add to a request",
        ours="`MachineAuthMiddleware` and `require_machine()`",
        against="a dependency with `HTTPBearer` and a dict",
        pairs=pairs,
        aim=0.7,
    )


async def jwt_again(upstream: Upstream, effort: Effort) -> Row:
    """Measure an M2M JWT that was verified a moment ago."""
    token = upstream.jwts[0]
    key = load_pem_public_key(upstream.public_key.encode())
    verifier = Verifier(upstream.jwt_settings())

    async def decode() -> None:
        jwt.decode(token, key, algorithms=["RS256"])  # type: ignore[arg-type]

    pairs = await compared(
        effort.rounds,
        partial(seconds_each, effort.count(4000), partial(verifier.verify, token)),
        partial(seconds_each, effort.count(200), decode),
    )
    await verifier.aclose()
    return Row(
        title="Cached M2M JWT",
        ours="`Verifier.verify`",
        against="`jwt.decode` on every request",
        pairs=pairs,
        aim=0.05,
    )
