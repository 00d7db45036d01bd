"""The OpenAPI document of a FastAPI service: its guards, and the middleware's refusals."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Security
from fastapi.security import HTTPBasic
from starlette.applications import Starlette
from starlette.types import ASGIApp

from clerk_m2m import (
    ApiKeyIdentity,
    Identity,
    MachineAuthMiddleware,
    MachineIdentity,
    OAuthIdentity,
    describe_refusals,
    require_any,
    require_api_key,
    require_machine,
    require_oauth,
)
from harness import World, bearer, calling

OPEN = ["/openapi.json", "/open"]


async def by_machine(caller: Annotated[MachineIdentity, Depends(require_machine())]) -> None: ...


async def by_api_key(key: Annotated[ApiKeyIdentity, Depends(require_api_key())]) -> None: ...


async def by_oauth(token: Annotated[OAuthIdentity, Depends(require_oauth())]) -> None: ...


async def by_any(
    who: Annotated[Identity, Depends(require_any(require_machine(), require_api_key()))],
) -> None: ...


async def open_to_all() -> None: ...


def service() -> FastAPI:
    app = FastAPI()
    app.add_api_route("/machine", by_machine)
    app.add_api_route("/key", by_api_key, methods=["POST"], responses={403: {"description": "Own"}})
    app.add_api_route("/oauth", by_oauth)
    app.add_api_route("/any", by_any)
    app.add_api_route("/open", open_to_all)
    return app


def operation(document: dict[str, Any], path: str) -> dict[str, Any]:
    (found,) = document["paths"][path].values()
    assert isinstance(found, dict)
    return found


def added(world: World, app: FastAPI) -> ASGIApp:
    app.add_middleware(
        MachineAuthMiddleware, verifier=world.verifier(), exclude=["/openapi.json", "/open"]
    )
    return app


def test_each_guard_is_a_bearer_security_scheme_of_its_own() -> None:
    document = service().openapi()

    assert {
        path: operation(document, path).get("security")
        for path in ("/machine", "/key", "/oauth", "/any", "/open")
    } == {
        "/machine": [{"ClerkM2MToken": []}],
        "/key": [{"ClerkApiKey": []}],
        "/oauth": [{"ClerkOAuthToken": []}],
        "/any": [{"ClerkM2MToken-or-ClerkApiKey": []}],  # until `describe_refusals` changes it
        "/open": None,
    }
    schemes = document["components"]["securitySchemes"]
    assert {(each["type"], each["scheme"]) for each in schemes.values()} == {("http", "bearer")}
    assert all(each["description"].endswith(".") for each in schemes.values())


def wrapped(world: World, app: FastAPI) -> ASGIApp:
    return MachineAuthMiddleware(app, verifier=world.verifier(), exclude=OPEN)


@pytest.mark.parametrize("placed", [added, wrapped])
async def test_the_refusals_are_shown_from_the_first_request_without_any_lifespan(
    world: World, placed: Callable[[World, FastAPI], ASGIApp]
) -> None:
    async with calling(placed(world, service())) as client:
        document = (await client.get("/openapi.json")).json()

    responses = operation(document, "/machine")["responses"]
    assert {"200", "401", "403", "503"} <= responses.keys()
    for status in ("401", "403", "503"):
        (media_type, content), *none = responses[status]["content"].items()
        assert (media_type, none) == ("application/problem+json", [])
        assert set(content["schema"]["required"]) == {"title", "status", "detail", "code"}
    assert {"401", "403", "503"}.isdisjoint(operation(document, "/open")["responses"])


async def test_the_services_own_description_of_a_status_is_kept(world: World) -> None:
    app = service()
    describe_refusals(app)

    assert operation(app.openapi(), "/key")["responses"]["403"] == {"description": "Own"}


def test_the_scopes_of_security_are_shown_and_the_refusals_with_them() -> None:
    app = FastAPI()
    guard = Security(require_api_key(), scopes=["write"])
    app.add_api_route("/key", open_to_all, dependencies=[guard])
    describe_refusals(app)

    shown = operation(app.openapi(), "/key")
    assert shown["security"] == [{"ClerkApiKey": ["write"]}]
    assert {"401", "403", "503"} <= shown["responses"].keys()


def test_describing_twice_changes_nothing() -> None:
    app = service()
    describe_refusals(app)
    first = app.openapi
    describe_refusals(app)

    assert app.openapi == first
    assert app.openapi() == app.openapi()


def test_routes_that_are_added_later_are_described_too() -> None:
    app = service()
    describe_refusals(app)
    app.openapi()
    app.add_api_route("/late", by_machine)
    app.openapi_schema = None  # FastAPI before 0.140 keeps the document until this

    assert "401" in operation(app.openapi(), "/late")["responses"]


@pytest.mark.parametrize("app", [None, Starlette(), object()])
def test_an_app_without_a_document_is_unchanged(app: object) -> None:
    describe_refusals(app)

    assert not hasattr(app, "openapi")


def test_a_path_with_members_other_than_operations_is_described(world: World) -> None:
    app = FastAPI()
    bare: dict[str, Any] = {"security": [{"ClerkM2MToken": []}]}
    path: dict[str, Any] = {
        "summary": "Orders",
        "parameters": [],
        "servers": [{"url": "/"}],
        "get": bare,
    }
    app.openapi = lambda: {"openapi": "3.1.0", "paths": {"/orders": path}}  # type: ignore[method-assign]  # FastAPI's own way to extend it
    describe_refusals(app)

    document = app.openapi()
    assert document["paths"]["/orders"]["summary"] == "Orders"
    assert set(document["paths"]["/orders"]["get"]["responses"]) == {"401", "403", "503"}


def test_a_document_without_paths_is_unchanged() -> None:
    app = FastAPI()
    app.openapi = lambda: {"openapi": "3.1.0"}  # type: ignore[method-assign]  # as above
    describe_refusals(app)

    assert app.openapi() == {"openapi": "3.1.0"}


def described(app: FastAPI) -> dict[str, Any]:
    describe_refusals(app)
    return app.openapi()


async def shown_behind(world: World, app: FastAPI, **given: Any) -> dict[str, Any]:
    """The document of an app behind the middleware, as a client gets it."""
    settings = given.pop("settings", {})
    verifier = world.verifier(world.live_settings(**settings))
    app.add_middleware(MachineAuthMiddleware, verifier=verifier, **given)
    async with calling(app) as client:
        answer = await client.get("/openapi.json", headers=bearer(world.token()))
    document: dict[str, Any] = answer.json()
    return document


M2M, KEY, OAUTH, HEADER = "ClerkM2MToken", "ClerkApiKey", "ClerkOAuthToken", "ClerkApiKeyHeader"


def test_the_guards_of_require_any_are_shown_as_alternatives_with_their_permissions() -> None:
    app = FastAPI()
    reader = require_api_key(scopes=["orders:read", "list"])
    writer = require_api_key(scopes=["orders:write"])
    for path, guard in {
        "/any": require_any(require_machine(), reader, require_oauth()),
        "/reader": reader,
        "/writer": writer,
        "/either": require_any(reader, require_any(writer, reader)),
        "/machine": require_any(require_machine(), require_machine("mch_" + "a" * 27)),
    }.items():
        app.add_api_route(path, open_to_all, dependencies=[Depends(guard)])
    more = Security(require_any(require_machine(), reader), scopes=["more", "list"])
    app.add_api_route("/more", open_to_all, dependencies=[more])
    raw = app.openapi()
    names = raw["components"]["securitySchemes"]
    document = described(app)

    assert all(re.fullmatch(r"[A-Za-z0-9.\-_]+", name) for name in names)  # OpenAPI 3.1, 4.8.7
    reads, writes = {KEY: ["orders:read", "list"]}, {KEY: ["orders:write"]}
    assert {path: operation(document, path)["security"] for path in document["paths"]} == {
        "/any": [{M2M: []}, reads, {OAUTH: []}],
        "/reader": [reads],
        "/writer": [writes],
        "/either": [reads, writes],
        "/machine": [{M2M: []}],
        "/more": [{KEY: ["orders:read", "list", "more"]}],
    }
    assert set(document["components"]["securitySchemes"]) == {M2M, KEY, OAUTH}
    assert app.openapi() == document


async def test_a_route_that_only_the_middleware_protects_has_its_security_schemes(
    world: World,
) -> None:
    app = service()
    app.add_api_route("/orders/{id}", open_to_all, methods=["PUT"])
    document = await shown_behind(world, app, exclude=["/open"])

    assert operation(document, "/open").get("security") is None
    assert operation(document, "/orders/{id}")["security"] == [{M2M: []}, {KEY: []}, {OAUTH: []}]
    assert {"401", "403", "503"} <= operation(document, "/orders/{id}")["responses"].keys()
    assert operation(document, "/machine")["security"] == [{M2M: []}]  # the guard is more specific


async def test_a_service_without_guards_has_a_scheme_for_each_kind_of_credential(
    world: World,
) -> None:
    app = FastAPI()
    app.add_api_route("/open", open_to_all)
    document = await shown_behind(world, app)
    schemes = document["components"]["securitySchemes"]

    assert {name: each["description"] for name, each in schemes.items()} == {
        name: each["description"]
        for name, each in service().openapi()["components"]["securitySchemes"].items()
        if name in (M2M, KEY, OAUTH)
    }


@pytest.mark.parametrize("given", [{"required": False}, {"report_only": True}])
async def test_a_route_has_no_security_schemes_when_the_middleware_requires_nothing(
    world: World, given: dict[str, bool]
) -> None:
    document = await shown_behind(world, service(), **given)

    assert operation(document, "/open").get("security") is None
    assert operation(document, "/any")["security"] == [{M2M: []}, {KEY: []}]


async def test_the_api_key_header_is_in_the_document_and_in_the_refusal(world: World) -> None:
    app = service()
    settings = {"api_key_header": "X-Api-Key", "accepts": ["m2m_token", "api_key"]}
    document = await shown_behind(world, app, settings=settings)
    async with calling(app) as client:
        missing = (await client.get("/machine")).json()

    assert operation(document, "/open")["security"] == [{M2M: []}, {KEY: []}, {HEADER: []}]
    assert operation(document, "/key")["security"] == [{KEY: []}, {HEADER: []}]
    scheme = document["components"]["securitySchemes"][HEADER]
    assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "header", "x-api-key")
    assert missing["code"] == "token_missing"
    assert missing["detail"] == (
        "Send a machine credential in the header: Authorization: Bearer <token>. "
        "An API key may be sent as x-api-key: <key>."
    )


async def test_another_security_scheme_is_required_in_addition_to_the_middlewares(
    world: World,
) -> None:
    app = FastAPI()
    app.add_api_route("/", open_to_all, dependencies=[Depends(HTTPBasic())])
    document = await shown_behind(world, app, settings={"accepts": ["m2m_token"]})

    assert operation(document, "/")["security"] == [{"HTTPBasic": [], M2M: []}]


async def test_a_middleware_around_a_mounted_app_documents_only_that_app(world: World) -> None:
    outer, inner = FastAPI(), service()
    outer.add_api_route("/public", open_to_all)
    protected = MachineAuthMiddleware(inner, verifier=world.verifier())
    outer.mount("/inner", protected)
    async with calling(outer) as client:
        shown = await client.get("/inner/openapi.json", headers=bearer(world.token()))

    assert operation(shown.json(), "/open")["security"] == [{M2M: []}]
    assert operation(outer.openapi(), "/public").get("security") is None
