"""Warnings that are logged once, when the service starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.routing import BaseRoute
from starlette.testclient import TestClient

from clerk_m2m import (
    ConfigurationError,
    MachineAuthMiddleware,
    Settings,
    require_any,
    require_api_key,
    require_machine,
    require_oauth,
)
from clerk_m2m.testing import api_key_identity, as_caller
from harness import World


def started(app: FastAPI, world: World, settings: Settings | None = None, **given: Any) -> None:
    """Start the service and send it two requests."""
    verifier = world.verifier(settings)
    app.add_middleware(MachineAuthMiddleware, verifier=verifier, **given)
    with TestClient(app) as client:
        assert [client.get("/").status_code for _ in range(2)] == [401, 401]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]


async def route() -> None: ...


# Guards that refuse every caller


def test_routes_whose_guard_requires_a_type_not_in_accepts_are_warned_of(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    app, router, mounted = FastAPI(), APIRouter(dependencies=[Depends(require_oauth())]), FastAPI()
    keys_or_oauth = require_any(require_api_key(scopes=["x"]), require_oauth())

    @app.get("/keys")
    async def keys(caller: Annotated[Any, Depends(require_api_key(scopes=["read"]))]) -> None: ...

    app.get("/either", dependencies=[Depends(keys_or_oauth)])(route)
    app.get("/machines", dependencies=[Depends(require_machine("mch_" + "0" * 27))])(route)
    app.get("/any", dependencies=[Depends(require_any(require_machine(), require_oauth()))])(route)
    mounted.get("/keys", dependencies=[Depends(require_api_key())])(route)
    router.get("/oauth")(route)
    app.include_router(router, prefix="/v1")
    app.mount("/mounted", mounted)
    started(app, world)

    assert said(caplog) == [
        "Nobody can call /keys, /mounted/keys: the guard there takes api_key only, and accepts "
        "(CLERK_M2M_ACCEPTS) names m2m_token.",
        "Nobody can call /either: the guard there takes api_key or oauth_token only, and accepts "
        "(CLERK_M2M_ACCEPTS) names m2m_token.",
        "Nobody can call /v1/oauth: the guard there takes oauth_token only, and accepts "
        "(CLERK_M2M_ACCEPTS) names m2m_token.",
    ]


def test_a_guard_of_an_accepted_type_causes_no_warning(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()
    for number, guard in enumerate((require_machine(), require_api_key(), require_oauth())):
        app.get(f"/{number}", dependencies=[Depends(guard)])(route)
    started(app, world, world.live_settings())

    assert said(caplog) == []


def test_an_app_with_the_test_kits_caller_causes_no_warning_about_accepts(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()
    app.get("/", dependencies=[Depends(require_api_key())])(route)
    app.add_middleware(MachineAuthMiddleware)

    with TestClient(as_caller(app, api_key_identity())) as client:
        assert client.get("/").status_code == 200
    assert said(caplog) == []


# A machine without edges


@pytest.mark.parametrize("in_file", [True, False])
def test_a_machine_without_an_edge_is_warned_of_with_the_nearest_id(
    world: World, caplog: pytest.LogCaptureFixture, tmp_path: Path, in_file: bool
) -> None:
    misspelt = world.callee.id[:-1] + ("0" if world.callee.id[-1] != "0" else "1")
    path = tmp_path / "graph.toml"
    path.write_text(f'[machines.a]\nid = "{world.caller.id}"\nmay_call = ["{misspelt}"]\n')
    graph = path if in_file else {world.caller.id: [misspelt]}
    started(FastAPI(), world, world.settings(graph=graph))

    assert said(caplog) == [
        f"machine_id {world.callee.id} is neither caller nor callee of any edge of the scope "
        f"graph, so every machine is refused with 403. Was {misspelt} meant?"
    ]


def test_a_machine_with_an_edge_causes_no_warning(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    started(FastAPI(), world, world.settings(graph={world.caller.id: [world.callee.id]}))
    started(FastAPI(), world, world.settings(graph={world.callee.id: [world.caller.id]}))

    assert said(caplog) == []


def test_a_graph_file_is_not_read_again_for_the_warnings(
    world: World, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = tmp_path / "graph.toml"
    path.write_text("[machines]\n")
    verifier = world.verifier(world.settings(graph=path))
    path.unlink()
    app = FastAPI()
    app.add_middleware(MachineAuthMiddleware, verifier=verifier)

    with TestClient(app) as client:
        assert client.get("/").json()["code"] == "token_missing"
    assert said(caplog) == [
        f"machine_id {world.callee.id} is neither caller nor callee of any edge of the scope "
        "graph, so every machine is refused with 403."
    ]


def test_the_routes_are_walked_once(world: World) -> None:
    walks = 0

    class Service(FastAPI):
        @property
        def routes(self) -> list[BaseRoute]:
            nonlocal walks
            walks += 1
            return super().routes

    app = Service()
    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier())
    before = walks
    with TestClient(app):
        pass
    assert walks == before + 1


# Unknown variables


def test_a_misspelt_variable_is_warned_of_with_the_nearest_name(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLERK_M2M_ACEPTS", "api_key")
    monkeypatch.setenv("CLERK_M2M_COLOUR", "a value that is not shown")
    monkeypatch.setenv("CLERK_M2M_TIMEOUT", "2")
    started(FastAPI(), world)

    assert said(caplog) == [
        "CLERK_M2M_ACEPTS is set in the environment, but it is not a known setting. Was "
        "CLERK_M2M_ACCEPTS meant?",
        "CLERK_M2M_COLOUR is set in the environment, but it is not a known setting.",
    ]


def test_a_guard_without_parentheses_on_an_included_router_fails_the_start(world: World) -> None:
    app, router = FastAPI(), APIRouter()
    router.get("/")(route)

    def start() -> None:
        # Older versions of FastAPI read the guard here, newer ones when the routes are asked for.
        app.include_router(router, dependencies=[Depends(require_api_key)])
        started(app, world)

    with pytest.raises(ConfigurationError, match="without parentheses") as refused:
        start()

    assert refused.value.code == "configuration_invalid"
