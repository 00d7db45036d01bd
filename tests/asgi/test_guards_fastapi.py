"""Guards as FastAPI dependencies, declared in every way that FastAPI has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Security, WebSocket
from fastapi.params import Depends as Dependency

from clerk_m2m import (
    ApiKeyIdentity,
    ConfigurationError,
    Guard,
    MachineAuthMiddleware,
    MachineIdentity,
    require_any,
    require_api_key,
    require_machine,
    require_oauth,
)
from harness import USER_ID, World, bearer, calling

Spelling: TypeAlias = Callable[[Dependency], FastAPI]


async def open_route() -> str:
    return "in"


def on_a_parameter(dependency: Dependency) -> FastAPI:
    app = FastAPI()

    async def route(caller: Any = dependency) -> str:
        return "in"

    app.add_api_route("/", route)
    return app


def annotated(dependency: Dependency) -> FastAPI:
    app = FastAPI()

    async def route(caller: Any) -> str:
        return "in"

    route.__annotations__["caller"] = Annotated[Any, dependency]
    app.add_api_route("/", route)
    return app


def on_the_route(dependency: Dependency) -> FastAPI:
    app = FastAPI()
    app.add_api_route("/", open_route, dependencies=[dependency])
    return app


def on_the_router(dependency: Dependency) -> FastAPI:
    router = APIRouter(dependencies=[dependency])
    router.add_api_route("/", open_route)
    app = FastAPI()
    app.include_router(router)
    return app


def on_the_app(dependency: Dependency) -> FastAPI:
    app = FastAPI(dependencies=[dependency])
    app.add_api_route("/", open_route)
    return app


def on_the_inclusion(dependency: Dependency) -> FastAPI:
    router = APIRouter()
    router.add_api_route("/", open_route)
    app = FastAPI()
    app.include_router(router, dependencies=[dependency])
    return app


def in_a_sub_dependency(dependency: Dependency) -> FastAPI:
    async def sub(caller: Any = dependency) -> str:
        return "in"

    return on_a_parameter(Depends(sub))


def on_a_websocket(dependency: Dependency) -> FastAPI:
    app = FastAPI()

    async def route(websocket: WebSocket, caller: Any = dependency) -> None:
        await websocket.accept()

    app.add_api_websocket_route("/", route)
    return app


AT_DEFINITION = [
    on_a_parameter,
    annotated,
    on_the_route,
    on_the_router,
    on_the_app,
    in_a_sub_dependency,
]
EVERY_HTTP_SPELLING = [*AT_DEFINITION, on_the_inclusion]


def protected(world: World, app: FastAPI) -> FastAPI:
    """Add the middleware with `required=False`, so that only the guard requires anything."""
    verifier = world.verifier(world.live_settings())
    app.add_middleware(MachineAuthMiddleware, verifier=verifier, required=False)
    return app


def api_key(world: World, *scopes: str) -> str:
    return world.emulator.add_api_key("reports", subject=USER_ID, scopes=list(scopes)).secret


async def get(app: FastAPI, token: str | None) -> httpx.Response:
    async with calling(app) as client:
        return await client.get("/", headers=bearer(token))


def refused_with(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# Without parentheses

FACTORIES = [require_machine, require_api_key, require_oauth, require_any]


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("spelling", [*AT_DEFINITION, on_a_websocket])
@pytest.mark.parametrize("depends", [Depends, Security])
def test_a_guard_without_parentheses_fails_when_the_route_is_defined(
    factory: Callable[..., Guard[Any]], spelling: Spelling, depends: Any
) -> None:
    with pytest.raises(ConfigurationError, match=rf"Write Depends\({factory.__name__}\(") as failed:
        spelling(depends(factory))

    assert failed.value.code == "configuration_invalid"


@pytest.mark.parametrize("factory", FACTORIES)
async def test_a_guard_without_parentheses_on_an_included_router_is_an_error_or_503(
    world: World, factory: Callable[..., Guard[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """FastAPI reads the dependency when the router is included, or when the service starts."""
    try:
        app = protected(world, on_the_inclusion(Depends(factory)))
    except ConfigurationError as exc:
        said = str(exc)
    else:
        answer = await get(app, world.token())
        assert (answer.status_code, answer.json()["code"]) == (503, "verifier_misconfigured")
        said = caplog.text

    assert f"Write Depends({factory.__name__}(" in said


async def test_a_guard_without_parentheses_as_an_override_raises(world: World) -> None:
    guard = require_api_key()
    app = protected(world, on_a_parameter(Depends(guard)))
    app.dependency_overrides[guard] = require_api_key

    with pytest.raises(ConfigurationError, match=r"Write Depends\(require_api_key\(\)\)"):
        await get(app, None)


# The scopes of Security


@pytest.mark.parametrize("spelling", EVERY_HTTP_SPELLING)
async def test_the_scopes_of_security_are_required(world: World, spelling: Spelling) -> None:
    app = protected(world, spelling(Security(require_api_key(), scopes=["write"])))

    nobody = await get(app, None)
    lacking = await get(app, api_key(world, "read"))
    having = await get(app, api_key(world, "write"))

    assert refused_with(nobody) == (401, "token_missing")
    assert refused_with(lacking) == (403, "permission_denied")
    assert lacking.headers["www-authenticate"].endswith('scope="write"')
    assert (having.status_code, having.json()) == (200, "in")


async def test_the_scopes_of_security_are_required_of_an_oauth_token(world: World) -> None:
    app = protected(world, on_a_parameter(Security(require_oauth(), scopes=["email"])))
    tokens = [
        world.emulator.add_oauth_token(subject=USER_ID, scopes=scopes).token
        for scopes in (["profile"], ["profile", "email"])
    ]

    lacking, having = [await get(app, token) for token in tokens]

    assert refused_with(lacking) == (403, "permission_denied")
    assert having.status_code == 200


@pytest.mark.parametrize("spelling", EVERY_HTTP_SPELLING)
async def test_the_scopes_of_an_enclosing_security_are_required_beside_the_guards_own(
    world: World, spelling: Spelling
) -> None:
    guard = Security(require_api_key(scopes=["read"]), scopes=["list"])

    async def user(key: Any = guard) -> str:
        assert isinstance(key, ApiKeyIdentity)
        return key.subject

    app = protected(world, spelling(Security(user, scopes=["write"])))

    lacking = await get(app, api_key(world, "read", "list"))
    having = await get(app, api_key(world, "read", "list", "write"))

    assert refused_with(lacking) == (403, "permission_denied")
    assert set(lacking.headers["www-authenticate"].split('"')[-2].split()) == {
        "read",
        "write",
        "list",
    }
    assert having.status_code == 200


async def test_one_guard_with_different_scopes_is_checked_for_each(world: World) -> None:
    guard = require_api_key()
    app = FastAPI(dependencies=[Depends(guard)])
    app.add_api_route("/", open_route, dependencies=[Security(guard, scopes=["write"])])
    protected(world, app)

    assert refused_with(await get(app, api_key(world, "read"))) == (403, "permission_denied")
    assert (await get(app, api_key(world, "write"))).status_code == 200


async def test_a_scope_that_is_required_twice_is_named_once(world: World) -> None:
    guard = require_api_key(scopes=["write"])
    app = protected(world, on_a_parameter(Security(guard, scopes=["write"])))

    lacking = await get(app, api_key(world, "read"))

    assert refused_with(lacking) == (403, "permission_denied")
    assert lacking.json()["detail"] == "The credential lacks: write."
    assert lacking.headers["www-authenticate"].endswith('scope="write"')


async def test_a_string_as_the_scopes_of_security_refuses_every_caller(world: World) -> None:
    """FastAPI takes each of its letters as a scope."""
    app = protected(world, on_a_parameter(Security(require_api_key(), scopes="write")))

    assert refused_with(await get(app, api_key(world, "write"))) == (403, "permission_denied")


# Guards that cannot have permissions


@pytest.mark.parametrize("spelling", EVERY_HTTP_SPELLING)
@pytest.mark.parametrize(
    "guard",
    [
        require_machine(),
        require_any(require_machine()),
        require_any(require_any(require_machine())),
    ],
)
async def test_scopes_that_a_machine_cannot_have_are_503_for_every_request(
    world: World,
    spelling: Spelling,
    guard: Guard[MachineIdentity],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """FastAPI passes enclosing scopes to a dependency with a request, and not before."""
    app = protected(world, spelling(Security(guard, scopes=["write"])))

    for token in (None, world.token(), world.jwt(), api_key(world, "write")):
        assert refused_with(await get(app, token)) == (503, "verifier_misconfigured")
    assert caplog.text.count("an M2M token has no permissions") == 1


async def test_scopes_of_an_enclosing_security_around_a_machine_guard_are_503(
    world: World,
) -> None:
    guard = Depends(require_machine())

    async def sub(caller: Any = guard) -> str:
        return "in"

    app = protected(world, on_a_parameter(Security(sub, scopes=["write"])))

    assert refused_with(await get(app, world.token())) == (503, "verifier_misconfigured")


async def test_security_without_scopes_around_a_machine_guard_acts_like_the_bare_guard(
    world: World,
) -> None:
    app = protected(world, on_a_parameter(Security(require_machine())))

    assert (await get(app, world.token())).status_code == 200
    assert refused_with(await get(app, None)) == (401, "token_missing")


@pytest.mark.parametrize(
    "guard",
    [
        require_any(require_machine(), require_api_key()),
        require_any(require_any(require_machine(), require_api_key()), require_machine()),
    ],
)
async def test_require_any_with_scopes_accepts_only_credentials_that_have_them(
    world: World, guard: Guard[Any]
) -> None:
    app = protected(world, on_a_parameter(Security(guard, scopes=["write"])))

    machine = await get(app, world.token())
    lacking = await get(app, api_key(world, "read"))
    having = await get(app, api_key(world, "write"))

    assert refused_with(machine) == (401, "token_type_not_accepted")
    assert refused_with(lacking) == (403, "permission_denied")
    assert having.status_code == 200
