"""What a FastAPI service shows of its guards in its OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Security
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
from harness import World, calling


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
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier(), exclude=["/openapi.json"])
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
        "/any": [{"ClerkCredential": []}],
        "/open": None,
    }
    schemes = document["components"]["securitySchemes"]
    assert {(each["type"], each["scheme"]) for each in schemes.values()} == {("http", "bearer")}
    assert all(each["description"].endswith(".") for each in schemes.values())


def wrapped(world: World, app: FastAPI) -> ASGIApp:
    return MachineAuthMiddleware(app, verifier=world.verifier(), exclude=["/openapi.json"])


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


async def test_what_the_service_says_of_a_status_itself_is_kept(world: World) -> None:
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


def test_describing_twice_is_the_same_as_once() -> None:
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
    app.openapi_schema = None  # FastAPI before 0.140 keeps the first document until told

    assert "401" in operation(app.openapi(), "/late")["responses"]


@pytest.mark.parametrize("app", [None, Starlette(), object()])
def test_an_app_that_has_no_document_is_left_alone(app: object) -> None:
    describe_refusals(app)

    assert not hasattr(app, "openapi")


def test_a_document_with_more_than_operations_is_described(world: World) -> None:
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


def test_a_document_without_paths_is_left_alone() -> None:
    app = FastAPI()
    app.openapi = lambda: {"openapi": "3.1.0"}  # type: ignore[method-assign]  # as above
    describe_refusals(app)

    assert app.openapi() == {"openapi": "3.1.0"}
