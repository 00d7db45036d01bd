"""ASGI in, identity or refusal out: every row of the answers, every mode, both protocols."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
import websockets
from fastapi import Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clerk_m2m import (
    ApiKeyIdentity,
    ConfigurationError,
    MachineAuthMiddleware,
    MachineIdentity,
    MiddlewareMissingError,
    RefusalError,
    VerificationUnavailableError,
    Verifier,
    require_api_key,
    require_machine,
)
from clerk_m2m.asgi.refusals import answer
from clerk_m2m.emulator import Emulator
from harness import (
    USER_ID,
    Upstream,
    World,
    bearer,
    calling,
    protected,
    serve,
    whoami,
)

UNKNOWN = "mt_" + "x" * 40
NOBODY = "mch_" + "z" * 27


def headers_of(token: str | None) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in bearer(token).items()]


def http_scope(path: str = "/", token: str | None = None, **given: Any) -> Scope:
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers_of(token),
        **given,
    }


def websocket_scope(token: str | None = None, *, denial: bool = False, **given: Any) -> Scope:
    extensions: dict[str, Any] = {"websocket.http.response": {}} if denial else {}
    return {
        "type": "websocket",
        "path": "/ws",
        "query_string": b"",
        "headers": headers_of(token),
        "extensions": extensions,
        **given,
    }


async def play(app: ASGIApp, scope: Scope, *incoming: Message) -> list[Message]:
    """Drive an app by hand; gives what it sent."""
    waiting, sent = list(incoming), list[Message]()

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def ask(app: ASGIApp, scope: Scope) -> tuple[int, dict[str, Any]]:
    """Give the status and the JSON body of the answer to a hand-made HTTP scope."""
    start, *rest = await play(app, scope, {"type": "http.request", "body": b""})
    return start["status"], json.loads(b"".join(message["body"] for message in rest))


async def code_of(app: ASGIApp, token: str | None, path: str = "/") -> str | None:
    async with calling(app) as client:
        answer = await client.get(path, headers=bearer(token))
    code: str | None = answer.json().get("code")
    return code


# The answers


def check_answer(
    answer: httpx.Response,
    status: int,
    code: str,
    challenge: str | None,
    retry_after: str | None = None,
) -> None:
    """Check an answer in every part that a client can see."""
    title = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 503: "Service Unavailable"}
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code)
    assert answer.headers.get("www-authenticate") == challenge
    assert answer.headers.get("retry-after") == retry_after
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert body == {
        "title": title[status],
        "status": status,
        "code": code,
        "detail": body["detail"],
    }
    assert body["detail"].endswith(".")


Prepare = Callable[[World], Awaitable[str | None]]


async def no_credential(world: World) -> None:
    return None


async def two_tokens(world: World) -> str:
    return f"{world.token()} {world.token()}"


async def not_ascii(world: World) -> str:
    return "mt_\x7f" + "x" * 40


async def too_long(world: World) -> str:
    return "mt_" + "x" * 8192


async def api_key_not_accepted(world: World) -> str:
    return world.emulator.add_api_key("reports", subject=USER_ID).secret


async def session(world: World) -> str:
    return world.emulator.mint_session_jwt()


async def jwt_without_a_graph(world: World) -> str:
    return world.jwt()


async def unknown(world: World) -> str:
    return UNKNOWN


async def ill_formed(world: World) -> str:
    return "mt_short"


async def garbage(world: World) -> str:
    return "garbage"


async def expired(world: World) -> str:
    token = world.token(seconds_until_expiration=10)
    world.time.advance(20)
    return token


async def revoked(world: World) -> str:
    token = world.emulator.mint_m2m_token(world.caller)
    world.emulator.revoke_m2m_token(token.id)
    return token.token


async def flagged_revoked(world: World) -> str:
    world.emulator.fail("verifyM2MToken", kind="revoked")
    return world.token()


async def flagged_expired(world: World) -> str:
    world.emulator.fail("verifyM2MToken", kind="expired")
    return world.token()


async def stranger(world: World) -> str:
    return world.token(world.stranger)


INVALID = 'Bearer error="invalid_token"'


@pytest.mark.parametrize(
    ("prepare", "status", "code", "challenge"),
    [
        (no_credential, 401, "token_missing", "Bearer"),
        (two_tokens, 400, "token_malformed", 'Bearer error="invalid_request"'),
        (not_ascii, 400, "token_malformed", 'Bearer error="invalid_request"'),
        (too_long, 400, "token_malformed", 'Bearer error="invalid_request"'),
        (api_key_not_accepted, 401, "token_type_not_accepted", INVALID),
        (session, 401, "token_type_not_accepted", INVALID),
        (jwt_without_a_graph, 401, "token_type_not_accepted", INVALID),
        (unknown, 401, "token_invalid", INVALID),
        (ill_formed, 401, "token_invalid", INVALID),
        (garbage, 401, "token_invalid", INVALID),
        (expired, 401, "token_invalid", INVALID),
        (revoked, 401, "token_invalid", INVALID),
        (flagged_revoked, 401, "token_invalid", INVALID),
        (flagged_expired, 401, "token_invalid", INVALID),
        (stranger, 401, "token_invalid", INVALID),
    ],
)
async def test_a_refused_credential_is_answered_by_the_table(
    world: World, prepare: Prepare, status: int, code: str, challenge: str
) -> None:
    token = await prepare(world)
    async with calling(protected(world.verifier())) as client:
        answer = await client.get("/", headers=bearer(token))

    check_answer(answer, status, code, challenge)
    assert token is None or token not in answer.text


async def test_two_authorization_headers_are_answered_with_400(world: World) -> None:
    token = world.token()
    async with calling(protected(world.verifier())) as client:
        answer = await client.get("/", headers=[("Authorization", f"Bearer {token}")] * 2)

    check_answer(answer, 400, "token_malformed", 'Bearer error="invalid_request"')


async def edge_cut(world: World) -> str:
    token = world.token()
    world.emulator.cut(world.caller, world.callee)
    return token


async def strange_jwt(world: World) -> str:
    return world.jwt(world.stranger)


@pytest.mark.parametrize("prepare", [edge_cut, strange_jwt])
async def test_a_missing_edge_is_answered_with_403(world: World, prepare: Prepare) -> None:
    async with calling(protected(world.verifier(world.live_settings()))) as client:
        answer = await client.get("/", headers=bearer(await prepare(world)))

    check_answer(answer, 403, "scope_denied", 'Bearer error="insufficient_scope"')


async def test_a_token_minted_without_the_scope_is_answered_with_403_under_the_instance_key(
    world: World,
) -> None:
    token = world.token(world.stranger)
    world.emulator.allow(world.stranger, world.callee)
    settings = world.live_settings(machine_secret_key=None)
    async with calling(protected(world.verifier(settings))) as client:
        answer = await client.get("/", headers=bearer(token))

    check_answer(answer, 403, "scope_denied", 'Bearer error="insufficient_scope"')
    assert "mint a new token" in answer.json()["detail"]


async def test_an_inactive_oauth_token_is_answered_with_401(world: World) -> None:
    world.emulator.fail("verifyOAuthAccessToken", kind="inactive")
    token = world.emulator.add_oauth_token(subject=USER_ID).token
    async with calling(protected(world.verifier(world.live_settings()))) as client:
        answer = await client.get("/", headers=bearer(token))

    check_answer(answer, 401, "token_invalid", INVALID)


@pytest.mark.parametrize(
    ("fault", "code", "retry_after"),
    [
        ({"status": 500}, "verification_unavailable", "1"),
        ({"status": 503, "retry_after": 7}, "verification_unavailable", "7"),
        ({"status": 429, "retry_after": 5}, "verification_unavailable", "5"),
        ({"status": 429, "retry_after": 86_400}, "verification_unavailable", "30"),
        ({"status": 302}, "verification_unavailable", "1"),
        ({"kind": "drop"}, "verification_unavailable", "1"),
        ({"kind": "malformed_json"}, "verification_unavailable", "1"),
        ({"kind": "wrong_shape"}, "verification_unavailable", "1"),
        ({"kind": "html"}, "verification_unavailable", "1"),
        ({"kind": "oversize"}, "verification_unavailable", "1"),
        ({"status": 401}, "verifier_misconfigured", "1"),
        ({"status": 403}, "verifier_misconfigured", "1"),
    ],
)
async def test_what_could_not_be_found_out_is_answered_with_503_and_no_challenge(
    world: World, fault: dict[str, Any], code: str, retry_after: str
) -> None:
    world.emulator.fail("verifyM2MToken", **fault)
    token = world.token()
    async with calling(protected(world.verifier())) as client:
        answer = await client.get("/", headers=bearer(token))

    check_answer(answer, 503, code, None, retry_after)


@pytest.mark.parametrize(("seconds", "said"), [(0.0, "1"), (0.3, "1"), (1.2, "2"), (30.0, "30")])
def test_retry_after_is_whole_seconds_and_never_too_soon(seconds: float, said: str) -> None:
    refusal = VerificationUnavailableError(retry_after=seconds)

    assert answer(refusal).headers["retry-after"] == said


async def test_clerk_silent_past_the_deadline_is_answered_with_503(world: World) -> None:
    async def never(request: httpx.Request) -> httpx.Response | None:
        await asyncio.Event().wait()
        return None

    world.upstream.intercept = never
    app = protected(world.verifier(world.settings(timeout=0.05)))
    async with calling(app) as client:
        answer = await client.get("/", headers=bearer(world.token()))

    check_answer(answer, 503, "verification_unavailable", None, "1")


# Modes


@pytest.mark.parametrize("authorization", [None, "Basic dXNlcjpwYXNz", "Digest a=b"])
async def test_where_nothing_is_required_a_request_without_our_credential_passes_as_nobody(
    world: World, authorization: str | None
) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    async with calling(protected(world.verifier(), required=False)) as client:
        answer = await client.get("/", headers=headers)

    assert answer.json() == {"subject": None}


@pytest.mark.parametrize("prepare", [session, garbage])
async def test_where_nothing_is_required_a_credential_that_is_no_machines_passes_as_nobody(
    world: World, prepare: Prepare
) -> None:
    async with calling(protected(world.verifier(), required=False)) as client:
        answer = await client.get("/", headers=bearer(await prepare(world)))

    assert answer.json() == {"subject": None}
    assert not world.emulator.calls


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (two_tokens, "token_malformed"),
        (ill_formed, "token_invalid"),
        (unknown, "token_invalid"),
        (revoked, "token_invalid"),
        (api_key_not_accepted, "token_type_not_accepted"),
        (jwt_without_a_graph, "token_type_not_accepted"),
    ],
)
async def test_where_nothing_is_required_an_invalid_machine_credential_is_refused_all_the_same(
    world: World, prepare: Prepare, code: str
) -> None:
    token = await prepare(world)

    assert await code_of(protected(world.verifier(), required=False), token) == code


async def test_where_nothing_is_required_an_outage_lets_nobody_in(world: World) -> None:
    world.emulator.fail("verifyM2MToken", status=500)
    app = protected(world.verifier(), required=False)

    assert await code_of(app, world.token()) == "verification_unavailable"


async def test_where_nothing_is_required_a_machine_is_known(world: World) -> None:
    async with calling(protected(world.verifier(), required=False)) as client:
        answer = await client.get("/", headers=bearer(world.token()))

    assert answer.json() == {"subject": world.caller.id}


async def test_an_api_key_in_base64_is_verified(world: World) -> None:
    secret = "ak_" + "a" * 20 + "/+" + "b" * 20 + "="
    world.emulator.add_api_key("reports", subject=USER_ID, secret=secret)
    verifier = world.verifier(world.live_settings(api_key_header="X-API-Key"))

    async with calling(protected(verifier)) as client:
        as_bearer = await client.get("/", headers=bearer(secret))
        as_api_key = await client.get("/", headers={"X-API-Key": f"{secret} "})

    assert as_bearer.json() == as_api_key.json() == {"subject": USER_ID}
    assert verifier.stats.paid == 1


async def test_the_api_key_header_is_read_where_one_is_named(world: World) -> None:
    settings = world.live_settings(api_key_header="X-API-Key")
    key = world.emulator.add_api_key("reports", subject=USER_ID)
    async with calling(protected(world.verifier(settings))) as client:
        known = await client.get("/", headers={"X-API-Key": key.secret})
        both = await client.get("/", headers={"X-API-Key": key.secret, **bearer(key.secret)})

    assert known.json() == {"subject": USER_ID}
    assert both.json()["code"] == "token_malformed"


# Excluded paths


async def test_an_excluded_path_is_open_and_costs_nothing(world: World) -> None:
    app = protected(world.verifier(), exclude=["/healthz"])
    async with calling(app) as client:
        answers = [
            await client.get("/healthz"),
            await client.get("/healthz?verbose=1", headers=bearer(UNKNOWN)),
            await client.get("/healthz", headers=bearer("two tokens")),
        ]

    assert [answer.json() for answer in answers] == [{"subject": None}] * 3
    assert not world.emulator.calls


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//healthz",
        "/healthz/",
        "/HEALTHZ",
        "/x/../healthz",
        "/./healthz",
        "/healthz/x",
        "/healthz;x",
        "/healthz\x00",
        "/healthz%2f",
        "healthz",
        "",
    ],
)
async def test_an_excluded_path_is_compared_whole_and_nothing_like_it_is_open(
    world: World, path: str
) -> None:
    app = protected(world.verifier(), exclude=["/healthz"])
    status, body = await ask(app, http_scope(path))

    assert (status, body["code"]) == (401, "token_missing")


async def test_an_excluded_path_under_a_root_path_is_the_whole_path(world: World) -> None:
    within = http_scope("/api/healthz", root_path="/api")

    closed = await ask(protected(world.verifier(), exclude=["/healthz"]), dict(within))
    opened = await ask(protected(world.verifier(), exclude=["/api/healthz"]), dict(within))

    assert (closed[0], closed[1]["code"]) == (401, "token_missing")
    assert opened == (200, {"subject": None})


@pytest.mark.parametrize("exclude", ["/healthz", ["healthz"], [""], ["/ok", "*"]])
async def test_an_exclusion_that_could_never_match_is_refused_at_construction(
    world: World, exclude: Any
) -> None:
    with pytest.raises(ConfigurationError, match=r"^exclude") as refused:
        MachineAuthMiddleware(Starlette(), verifier=world.verifier(), exclude=exclude)

    assert refused.value.code == "configuration_invalid"


async def test_settings_and_a_verifier_are_not_given_both(world: World) -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        MachineAuthMiddleware(Starlette(), world.settings(), verifier=world.verifier())


async def test_settings_alone_make_a_verifier(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = MachineAuthMiddleware(
        Starlette(), world.settings(api_url="https://clerk.test", cache_ttl=7)
    )
    monkeypatch.setenv("CLERK_MACHINE_ID", world.callee.id)
    monkeypatch.setenv("CLERK_MACHINE_SECRET_KEY", world.callee.secret_key)
    read = MachineAuthMiddleware(Starlette())

    assert given.verifier.settings.cache_ttl == 7
    assert read.verifier.settings.machine_id == world.callee.id


# What reaches the app


async def test_the_identity_is_in_the_state_of_the_scope_beside_what_is_there(
    world: World,
) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["state"])

    middleware = MachineAuthMiddleware(app, verifier=world.verifier())
    await play(middleware, http_scope(token=world.token(), state={"pool": 7}))
    await play(middleware, http_scope(token=world.token()))

    assert [state["machine"].subject for state in seen] == [world.caller.id] * 2
    assert seen[0]["pool"] == 7


async def test_the_messages_of_the_app_pass_through_untouched(world: World) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = await receive()
        await send({"type": "http.response.start", "status": 299, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": request["body"]})

    sent = await play(
        MachineAuthMiddleware(app, verifier=world.verifier()),
        http_scope(token=world.token()),
        {"type": "http.request", "body": b"echo"},
    )

    assert sent == [
        {"type": "http.response.start", "status": 299, "headers": [(b"x", b"y")]},
        {"type": "http.response.body", "body": b"echo"},
    ]


async def test_an_error_of_the_app_is_left_alone(world: World) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("the app's own")

    with pytest.raises(KeyError, match="the app's own"):
        await play(
            MachineAuthMiddleware(app, verifier=world.verifier()), http_scope(token=world.token())
        )


# Guards behind the middleware


async def machine_route(
    caller: Annotated[MachineIdentity, Depends(require_machine())],
) -> dict[str, str]:
    return {"caller": caller.machine_id}


async def reports_route(
    key: Annotated[ApiKeyIdentity, Depends(require_api_key(scopes=["read", "write"]))],
) -> dict[str, str | None]:
    return {"user": key.user_id}


async def check_in_handler(request: Request) -> JSONResponse:
    identity = require_machine(NOBODY).check(request)
    return JSONResponse({"caller": identity.machine_id})


async def broken(request: Request) -> Response:
    raise KeyError("the app's own")


async def machine_socket(
    websocket: WebSocket, caller: Annotated[MachineIdentity, Depends(require_machine())]
) -> None:
    await websocket.accept()
    await websocket.send_text(caller.machine_id)
    await websocket.close()


def fastapi_service() -> FastAPI:
    app = FastAPI()
    app.add_api_route("/machine", machine_route)
    app.add_api_route("/reports", reports_route)
    app.add_route("/handler", check_in_handler)
    app.add_route("/broken", broken)
    app.add_api_websocket_route("/ws", machine_socket)
    return app


def added(verifier: Verifier, **given: Any) -> ASGIApp:
    app = fastapi_service()
    app.add_middleware(MachineAuthMiddleware, verifier=verifier, **given)
    return app


def wrapped(verifier: Verifier, **given: Any) -> ASGIApp:
    return MachineAuthMiddleware(fastapi_service(), verifier=verifier, **given)


def mounted(verifier: Verifier, **given: Any) -> ASGIApp:
    app = Starlette(routes=[Mount("/", app=fastapi_service())])
    app.add_middleware(MachineAuthMiddleware, verifier=verifier, **given)
    return app


in_every_place = pytest.mark.parametrize("placed", [added, wrapped, mounted])
Placed = Callable[..., ASGIApp]


@in_every_place
async def test_a_guard_gives_a_handler_its_caller(world: World, placed: Placed) -> None:
    async with calling(placed(world.verifier())) as client:
        answer = await client.get("/machine", headers=bearer(world.token()))

    assert answer.json() == {"caller": world.caller.id}


@in_every_place
async def test_a_guard_in_a_handler_refuses_by_the_table(world: World, placed: Placed) -> None:
    key = world.emulator.add_api_key("reports", subject=USER_ID, scopes=["read"])
    app = placed(world.verifier(world.live_settings()), required=False)
    async with calling(app) as client:
        other = await client.get("/handler", headers=bearer(world.token()))
        lacking = await client.get("/reports", headers=bearer(key.secret))
        other_type = await client.get("/machine", headers=bearer(key.secret))
        nobody = await client.get("/machine")
        browser = await client.get("/machine", headers=bearer(await session(world)))

    denied = 'Bearer error="insufficient_scope"'
    check_answer(other, 403, "permission_denied", denied)
    check_answer(lacking, 403, "permission_denied", denied + ', scope="read write"')
    check_answer(other_type, 401, "token_type_not_accepted", INVALID)
    check_answer(nobody, 401, "token_missing", "Bearer")
    check_answer(browser, 401, "token_type_not_accepted", INVALID)


@pytest.mark.parametrize("path", ["/machine", "/reports"])
async def test_a_guard_without_the_middleware_fails_loudly(path: str) -> None:
    async with calling(fastapi_service()) as client:
        with pytest.raises(MiddlewareMissingError) as failed:
            await client.get(path)

    assert failed.value.code == "middleware_missing"


async def refuse_midway(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"begun"
        require_machine(NOBODY).check(request)

    return StreamingResponse(body())


async def test_a_refusal_after_the_response_has_begun_sends_no_second_response(
    world: World,
) -> None:
    app = Starlette(routes=[Route("/", refuse_midway)])
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier())
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {}

    with pytest.raises(RefusalError) as refused:
        await app(http_scope(token=world.token()), receive, send)

    assert refused.value.code == "permission_denied"
    assert [each["type"] for each in sent] == ["http.response.start", "http.response.body"]


@in_every_place
async def test_an_error_of_the_app_keeps_its_500(world: World, placed: Placed) -> None:
    transport = httpx.ASGITransport(app=placed(world.verifier()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
        answer = await client.get("/broken", headers=bearer(world.token()))

    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


async def test_a_500_of_the_app_is_passed_on_whole_and_piece_by_piece(world: World) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        if scope["path"] == "/streamed":
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            seen.append(len(sent))
        await send({"type": "http.response.body", "body": b"b"})

    sent: list[Message] = []
    seen: list[int] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    middleware = MachineAuthMiddleware(app, verifier=world.verifier())
    for path in ("/", "/streamed"):
        await middleware(http_scope(path, world.token()), receive, send)

    assert [message.get("body") for message in sent] == [None, b"b", None, b"a", b"b"]
    assert seen == [4]  # what is streamed is not held back


# on_error


async def test_on_error_may_give_another_answer(world: World) -> None:
    def in_plain_text(connection: HTTPConnection, refusal: RefusalError) -> Response:
        return PlainTextResponse(f"{connection.url.path} {refusal.code}", refusal.status)

    async with calling(protected(world.verifier(), on_error=in_plain_text)) as client:
        answer = await client.get("/orders")

    assert (answer.status_code, answer.text) == (401, "/orders token_missing")


async def test_on_error_may_only_watch(world: World) -> None:
    seen: list[str] = []

    def watch(connection: HTTPConnection, refusal: RefusalError) -> None:
        seen.append(refusal.code)

    async with calling(protected(world.verifier(), on_error=watch)) as client:
        answer = await client.get("/")
        await client.get("/", headers=bearer(world.token()))

    check_answer(answer, 401, "token_missing", "Bearer")
    assert seen == ["token_missing"]


# WebSockets


async def hello(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(websocket.state.machine.subject)
    await websocket.close()


async def guard_before_accept(websocket: WebSocket) -> None:
    require_api_key().check(websocket)


async def guard_after_accept(websocket: WebSocket) -> None:
    await websocket.accept()
    require_api_key().check(websocket)


def socket_app(endpoint: Any, verifier: Verifier, **given: Any) -> MachineAuthMiddleware:
    app = Starlette(routes=[WebSocketRoute("/ws", endpoint)])
    return MachineAuthMiddleware(app, verifier=verifier, **given)


CONNECT: Message = {"type": "websocket.connect"}
CLOSE: Message = {"type": "websocket.close", "code": 1008}


async def test_a_websocket_is_opened_for_a_permitted_caller(world: World) -> None:
    app = socket_app(hello, world.verifier())
    sent = await play(app, websocket_scope(world.token()), CONNECT)

    assert [message["type"] for message in sent] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert sent[1]["text"] == world.caller.id


@pytest.mark.parametrize("token", [None, UNKNOWN, "two tokens"])
async def test_a_websocket_is_closed_with_1008_before_accept_where_the_server_cannot_deny(
    world: World, token: str | None
) -> None:
    app = socket_app(hello, world.verifier())

    assert await play(app, websocket_scope(token), CONNECT) == [CLOSE]
    scope = websocket_scope(token)
    del scope["extensions"]
    assert await play(app, scope, CONNECT) == [CLOSE]


async def test_a_websocket_is_denied_with_the_answer_of_the_table_where_the_server_can(
    world: World,
) -> None:
    app = socket_app(hello, world.verifier())
    start, body = await play(app, websocket_scope(UNKNOWN, denial=True), CONNECT)

    assert start["type"] == "websocket.http.response.start"
    assert start["status"] == 401
    assert (b"www-authenticate", INVALID.encode()) in start["headers"]
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert body["type"] == "websocket.http.response.body"
    assert json.loads(body["body"])["code"] == "token_invalid"


async def test_a_websocket_is_denied_with_the_answer_of_on_error(world: World) -> None:
    def teapot(connection: HTTPConnection, refusal: RefusalError) -> Response:
        return JSONResponse({"code": refusal.code}, 418)

    app = socket_app(hello, world.verifier(), on_error=teapot)
    start, body = await play(app, websocket_scope(denial=True), CONNECT)

    assert (start["status"], json.loads(body["body"])) == (418, {"code": "token_missing"})


@pytest.mark.parametrize("denial", [False, True])
async def test_a_guard_on_a_websocket_refuses_before_accept(world: World, denial: bool) -> None:
    app = socket_app(guard_before_accept, world.verifier())
    sent = await play(app, websocket_scope(world.token(), denial=denial), CONNECT)

    if denial:
        assert json.loads(sent[1]["body"])["code"] == "token_type_not_accepted"
    else:
        assert sent == [CLOSE]


@pytest.mark.parametrize("denial", [False, True])
async def test_a_guard_after_accept_closes_the_websocket(world: World, denial: bool) -> None:
    app = socket_app(guard_after_accept, world.verifier())
    sent = await play(app, websocket_scope(world.token(), denial=denial), CONNECT)

    assert sent[0]["type"] == "websocket.accept"
    assert sent[1:] == [CLOSE]


@in_every_place
async def test_a_guard_is_a_dependency_of_a_fastapi_websocket(world: World, placed: Placed) -> None:
    app = placed(world.verifier(), required=False)
    permitted = await play(app, websocket_scope(world.token()), CONNECT)
    refused = await play(app, websocket_scope(), CONNECT)

    assert permitted[1]["text"] == world.caller.id
    assert refused == [CLOSE]


async def test_websockets_are_opened_and_denied_over_real_sockets(world: World) -> None:
    async with serve(socket_app(hello, world.verifier())) as origin:
        address = origin.replace("http", "ws") + "/ws"
        async with websockets.connect(
            address, additional_headers=bearer(world.token()), proxy=None
        ) as opened:
            assert await opened.recv() == world.caller.id
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(address, proxy=None)

    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body or b"")["code"] == "token_missing"


# Lifespan


class WatchedUpstream(Upstream):
    """Notes when the package closes its network."""

    def __init__(self, emulator: Emulator, events: list[str]) -> None:
        super().__init__(emulator)
        self._events = events

    async def aclose(self) -> None:
        self._events.append("closed")


@asynccontextmanager
async def noisy_lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
    yield {"pool": "open"}


async def run_lifespan(
    app: ASGIApp, events: list[str], between: Callable[[], Awaitable[None]]
) -> None:
    """Start an app, do something, shut it down; what it sends goes among the events."""
    incoming = ["lifespan.startup", "lifespan.shutdown"]

    async def receive() -> Message:
        if len(incoming) == 1:
            await between()
        return {"type": incoming.pop(0)}

    async def send(message: Message) -> None:
        events.append(message["type"])

    await app({"type": "lifespan", "app": app, "state": {}}, receive, send)


async def test_the_network_is_opened_at_the_first_call_and_closed_before_shutdown_completes(
    world: World,
) -> None:
    events: list[str] = []
    verifier = Verifier(world.settings(), transport=WatchedUpstream(world.emulator, events))
    app = Starlette(routes=[Route("/", whoami)], lifespan=noisy_lifespan)
    app.add_middleware(MachineAuthMiddleware, verifier=verifier)

    async def one_request() -> None:
        async with calling(app) as client:
            events.append((await client.get("/", headers=bearer(UNKNOWN))).json()["code"])

    await run_lifespan(app, events, one_request)

    assert events == [
        "lifespan.startup.complete",
        "token_invalid",
        "closed",
        "lifespan.shutdown.complete",
    ]


async def test_a_service_that_nobody_called_has_nothing_to_close(world: World) -> None:
    events: list[str] = []
    verifier = Verifier(world.settings(), transport=WatchedUpstream(world.emulator, events))
    app = protected(verifier)

    async def nothing() -> None:
        return None

    await run_lifespan(app, events, nothing)

    assert events == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_the_network_is_closed_where_the_shutdown_of_the_app_fails(world: World) -> None:
    @asynccontextmanager
    async def failing(app: Starlette) -> AsyncIterator[None]:
        yield
        raise OSError("the app's own")

    events: list[str] = []
    verifier = Verifier(world.settings(), transport=WatchedUpstream(world.emulator, events))
    app = Starlette(lifespan=failing)
    app.add_middleware(MachineAuthMiddleware, verifier=verifier)

    async def one_call() -> None:
        with pytest.raises(RefusalError) as refused:
            await verifier.verify(UNKNOWN)
        assert refused.value.code == "token_invalid"

    with pytest.raises(OSError, match="the app's own"):
        await run_lifespan(app, events, one_call)

    assert events == ["lifespan.startup.complete", "closed", "lifespan.shutdown.failed"]


async def test_a_server_that_shuts_down_closes_the_network(world: World) -> None:
    events: list[str] = []
    verifier = Verifier(world.settings(), transport=WatchedUpstream(world.emulator, events))
    async with (
        serve(protected(verifier), lifespan="on") as origin,
        httpx.AsyncClient(base_url=origin) as client,
    ):
        answer = await client.get("/", headers=bearer(UNKNOWN))
        assert events == []

    assert answer.json()["code"] == "token_invalid"
    assert events == ["closed"]


# Logs


async def test_a_refusal_is_logged_in_one_line_without_the_credential(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="clerk_m2m")
    app = protected(world.verifier())
    await ask(app, http_scope("/a\r\nFAKE line", UNKNOWN))
    await play(app, websocket_scope(UNKNOWN), CONNECT)

    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        (
            "INFO",
            r"Refused GET '/a\r\nFAKE line' with 401 token_invalid: Clerk does not know the "
            "credential, or it may not be used here.",
        ),
        (
            "INFO",
            "Refused WEBSOCKET '/ws' with 401 token_invalid: Clerk does not know the "
            "credential, or it may not be used here.",
        ),
    ]


async def test_an_outage_is_logged_as_a_warning_with_what_clerk_said_but_no_secret(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="clerk_m2m")
    token = world.token()
    said = {"errors": [{"code": "odd", "message": f"cannot digest {token}"}]}
    world.emulator.fail("verifyM2MToken", status=500, body=said)

    assert await code_of(protected(world.verifier()), token) == "verification_unavailable"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "verifyM2MToken: Clerk answered 500." in record.getMessage()
    assert token not in caplog.text


async def test_a_refused_key_of_our_own_is_logged_as_an_error_for_the_operator(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    app = protected(world.verifier(world.settings(machine_secret_key="ak_" + "x" * 40)))

    assert await code_of(app, world.token()) == "verifier_misconfigured"
    assert [each.levelname for each in caplog.records] == ["ERROR", "WARNING"]
    assert "Clerk refused this service's own key" in caplog.records[0].getMessage()
    assert "xxxx" not in caplog.text


async def test_a_permitted_request_logs_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="clerk_m2m")

    assert await code_of(protected(world.verifier()), world.token()) is None
    assert caplog.records == []


async def test_a_dict_that_a_server_shares_between_requests_mixes_no_callers(world: World) -> None:
    shared: dict[str, Any] = {}
    seen: list[str] = []
    both_in = asyncio.Barrier(2)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await both_in.wait()
        seen.append(scope["state"]["machine"].machine_id)

    world.emulator.allow(world.stranger, world.callee)
    door = MachineAuthMiddleware(app, verifier=world.verifier())
    callers = (world.caller, world.stranger)

    async def call(token: str) -> None:
        headers = [(b"authorization", f"Bearer {token}".encode())]
        scope = {"type": "http", "path": "/", "headers": headers, "state": shared}
        await door(scope, receive_nothing, send_nowhere)

    await asyncio.gather(*(call(world.token(machine)) for machine in callers))

    assert sorted(seen) == sorted(machine.id for machine in callers)


def test_a_coroutine_function_as_on_error_is_refused_at_construction(world: World) -> None:
    async def on_error(connection: HTTPConnection, refusal: RefusalError) -> None: ...

    with pytest.raises(ConfigurationError, match="plain function"):
        MachineAuthMiddleware(Starlette(), verifier=world.verifier(), on_error=on_error)  # type: ignore[arg-type]


def test_settings_that_cannot_work_are_logged_where_a_server_hides_the_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLERK_MACHINE_ID", raising=False)

    with pytest.raises(ConfigurationError, match="Set machine_id"):
        MachineAuthMiddleware(Starlette())

    assert "This service cannot start: Set machine_id" in caplog.text


async def receive_nothing() -> Message:
    raise AssertionError("nothing is to be received here")


async def send_nowhere(message: Message) -> None:
    raise AssertionError("nothing is to be sent here")
