"""`exclude`: which paths need no credential, compared as the app routes them."""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from asgi_messages import ask, http_scope, receive_nothing, websocket_scope
from hypothesis import example, given
from hypothesis import strategies as st
from sent_credentials import UNKNOWN
from starlette._utils import get_route_path
from starlette.applications import Starlette
from starlette.routing import Mount, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clerk_m2m import ConfigurationError
from clerk_m2m.asgi.excluded import ExcludedPaths, route_path
from harness import World, bearer, calling, protected, serve


async def test_an_excluded_path_needs_no_credential_and_causes_no_call(world: World) -> None:
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
async def test_a_path_that_resembles_an_excluded_one_is_not_excluded(
    world: World, path: str
) -> None:
    app = protected(world.verifier(), exclude=["/healthz"])
    status, body = await ask(app, http_scope(path))

    assert (status, body["code"]) == (401, "token_missing")


async def test_under_a_root_path_exclude_compares_the_path_that_the_app_routes_by(
    world: World,
) -> None:
    within = http_scope("/api/healthz", root_path="/api")

    opened = await ask(protected(world.verifier(), exclude=["/healthz"]), dict(within))
    closed = await ask(protected(world.verifier(), exclude=["/api/healthz"]), dict(within))

    assert opened == (200, {"subject": None})
    assert (closed[0], closed[1]["code"]) == (401, "token_missing")


async def test_a_probe_is_answered_under_a_root_path_and_in_a_mounted_app(
    world: World,
) -> None:
    mounted = Starlette(
        routes=[Mount("/v1", app=protected(world.verifier(), exclude=["/healthz"]))]
    )
    app = protected(world.verifier(), exclude=["/healthz"])
    async with (
        serve(app, root_path="/api") as below_root,
        serve(mounted, root_path="/api") as in_mount,
        httpx.AsyncClient() as client,
    ):
        answers = [
            await client.get(f"{below_root}/healthz"),
            await client.get(f"{in_mount}/v1/healthz"),
            await client.get(f"{below_root}/"),
            await client.get(f"{in_mount}/v1/"),
        ]

    assert [answer.status_code for answer in answers] == [200, 200, 401, 401]


# Methods


async def test_an_entry_with_a_method_exempts_no_other_method_and_no_websocket() -> None:
    only_get = ExcludedPaths([("get", "/healthz"), ("GET", "/static/*")])
    only_head = ExcludedPaths([("HEAD", "/healthz")])
    any_method = ExcludedPaths(["/healthz", "/static/*"])

    def exempt(paths: ExcludedPaths, path: str) -> set[str]:
        scopes = [http_scope(path, method=method) for method in ("GET", "HEAD", "POST", "OPTIONS")]
        scopes.append(websocket_scope(path=path, raw_path=path.encode()))
        return {scope.get("method", "websocket") for scope in scopes if paths.exempt(scope)}

    every = {"GET", "HEAD", "POST", "OPTIONS", "websocket"}
    assert [exempt(only_get, path) for path in ("/healthz", "/static/a")] == [{"GET", "HEAD"}] * 2
    assert [exempt(any_method, path) for path in ("/healthz", "/static/a")] == [every] * 2
    assert exempt(only_head, "/healthz") == {"HEAD"}


# Prefixes


STATIC = ExcludedPaths(["/static/*"])


@pytest.mark.parametrize(
    "path", ["/static/a.js", "/static/a/b", "/static/%C3%A9%20b", "/static/..a"]
)
async def test_a_prefix_exempts_what_is_below_it(path: str) -> None:
    for root_path in ("", "/api", "/api/"):
        whole = root_path + path
        scope = http_scope(unquote(whole), raw_path=whole.encode(), root_path=root_path)
        assert STATIC.exempt(scope), whole


@pytest.mark.parametrize(
    "path",
    [
        "/static",
        "/static/",
        "/static/a/",
        "/static//a",
        "//static/a",
        "/statics/a",
        "/STATIC/a",
        "/x/static/a",
        "/static/./a",
        "/static/../orders",
        "/static/..;/orders",
        "/static/..;v=1/orders",
        "/static/;/orders",
        "/static/%2e%2e/orders",
        "/static/%2E./orders",
        "/static/a%2fb",
        "/static%2Fa",
        "/static/..%2forders",
        "/static/..%5corders",
        "/static/..\\orders",
        "/static/%252e%252e/orders",
        "/static/..%252forders",
        "/static/a%00",
        "/static/a%0a",
        "/static/%ff%25",
    ],
)
async def test_no_encoding_or_dot_segment_extends_a_prefix(path: str) -> None:
    assert not STATIC.exempt(http_scope(unquote(path), raw_path=path.encode()))


async def test_a_prefix_never_matches_when_raw_path_is_missing_or_differs() -> None:
    scope = http_scope("/static/a")
    for raw_path in (None, b"", b"/orders", b"/static/../a", b"/static/a?x", b"/static%2fa"):
        scope["raw_path"] = raw_path
        assert not STATIC.exempt(scope), raw_path
    del scope["raw_path"]

    assert not STATIC.exempt(scope)


async def test_a_prefix_never_matches_a_path_outside_of_the_root_path() -> None:
    # Starlette routes such a path whole; other frameworks look for the root path within it.
    assert not STATIC.exempt(http_scope("/static/api/orders", root_path="/api"))
    assert not STATIC.exempt(http_scope("/apis/static/a", root_path="/api"))


def _static_or_not(scope: Scope) -> str:
    """Let Starlette route a request; return the name of the route that it took."""
    went: list[str] = []

    def endpoint(name: str) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            went.append(name)

        return app

    routes = [Mount("/static", app=endpoint("static")), Mount("/", app=endpoint("other"))]
    router = Router([Mount("/v1", app=Router(routes)), *routes])
    # It awaits nothing, so one step runs it to its end.
    with pytest.raises(StopIteration):
        router(scope, receive_nothing, swallow).send(None)
    return went[0] if went else "nowhere"


async def swallow(message: Message) -> None:
    """Discard a redirect or a 404, which need no credential."""


_PIECES = ["static", "v1", "api", "orders", "a.js", "..", ".", "", ";", "%2e%2e", "%2E", "é", "*"]
_PIECES += ["%2f", "%2F..", "%5c..", "\\", "%25", "%252f", "%252e%252e", "%00", "%0a", "\n", "%ff"]
_TARGETS = st.lists(st.sampled_from(_PIECES), max_size=5).flatmap(
    lambda pieces: st.sampled_from(["/static/", "/v1/static/", "/api/static/", "/"]).map(
        lambda start: start + "/".join(pieces)
    )
)


@given(_TARGETS, st.sampled_from(["", "/", "/api", "/api/", "/static", "/static/..", "/a%2fb"]))
@example("/static/a.js", "/api")
def test_a_path_that_a_prefix_exempts_is_routed_below_it(target: str, root_path: str) -> None:
    raw = target.encode()
    servers: list[dict[str, Any]] = [
        # uvicorn puts the root path in front of both; hypercorn and granian leave the path alone.
        {"path": root_path + unquote(target), "raw_path": root_path.encode() + raw},
        {"path": unquote(target), "raw_path": raw},
        {"path": root_path + unquote(target), "raw_path": raw},
        {"path": unquote(target)},
    ]
    for told in servers:
        scope = {"type": "http", "method": "GET", "headers": [], "root_path": root_path, **told}
        for paths in (STATIC, ExcludedPaths(["/v1/static/*"])):
            if not paths.exempt(dict(scope)):
                continue
            assert _static_or_not(dict(scope)) == "static"
            # The same for an app that decodes or normalizes once more.
            path = unquote(route_path(scope)).replace("\\", "/")
            assert posixpath.normpath(path).startswith(("/static/", "/v1/static/"))


@given(st.text("/ab", max_size=6), st.text("/ab", max_size=4))
@example("/apis", "/api")
@example("/api", "/api")
def test_the_path_compared_is_the_one_that_starlette_routes_by(path: str, root_path: str) -> None:
    scope = {"path": path, "root_path": root_path}

    assert route_path(scope) == get_route_path(scope)


# Entries that could never match


@pytest.mark.parametrize(
    ("exclude", "said"),
    [
        ("/healthz", "a list of paths, not one string"),
        (None, "a list of paths, not NoneType"),
        (["healthz"], "must begin with a slash"),
        ([""], "must begin with a slash"),
        (["/ok", "*"], "must begin with a slash"),
        (("GET", "/healthz"), "'GET' must begin with a slash"),
        ([("GTE", "/healthz")], "'GTE' is not an HTTP method"),
        ([("", "/healthz")], "'' is not an HTTP method"),
        ([("/healthz", "GET")], "'/healthz' is not an HTTP method"),
        ([("GET", "/a", "/b")], "a method and a path"),
        ([7], "a method and a path"),
        (["/*"], "would exempt everything"),
        (["/static*"], "elsewhere than at its end, after a slash"),
        (["/*/static"], "elsewhere than at its end, after a slash"),
        (["/a/*/b/*"], "elsewhere than at its end, after a slash"),
        (["/static/../*"], "can match nothing"),
        (["//*"], "can match nothing"),
        (["/a%20b/*"], "can match nothing"),
        (["/healthz?x=1"], r"without \? or #"),
    ],
)
async def test_an_exclusion_that_could_never_match_is_rejected(exclude: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^exclude.*{said}") as refused:
        ExcludedPaths(exclude)

    assert refused.value.code == "configuration_invalid"
