"""Identities in FastAPI and pydantic: responses may contain one, requests never provide one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import httpx
import pytest
from asgi_messages import CONNECT, play, websocket_scope
from fastapi import (
    APIRouter,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Header,
    Query,
    Security,
    WebSocket,
)
from pydantic import BaseModel, TypeAdapter, ValidationError

from clerk_m2m import (
    ApiKeyIdentity,
    Identity,
    MachineAuthMiddleware,
    MachineIdentity,
    OAuthIdentity,
    require_machine,
)
from clerk_m2m.identity import freeze
from clerk_m2m.testing import (
    api_key_identity,
    as_caller,
    machine_identity,
    oauth_identity,
)
from harness import World, bearer, calling

CLAIMS = {"tenant": "acme", "roles": [{"name": "admin"}]}
ALL = [
    (machine_identity(scopes=["mch_b", "mch_a"], claims=CLAIMS, expires_at=1.5), "require_machine"),
    (api_key_identity(scopes=["read"], claims=CLAIMS), "require_api_key"),
    (oauth_identity(audience=["a"], actor={"sub": "user_x"}), "require_oauth"),
]
FORGED = machine_identity().as_dict()


class WithIdentity(BaseModel):
    caller: MachineIdentity


@dataclass
class HoldsIdentities:
    callers: list[MachineIdentity | ApiKeyIdentity]


class WithIdentitiesInside(BaseModel):
    inside: list[tuple[WithIdentity, ...]]


def route_with(annotation: Any, default: Any = ...) -> Callable[[Any], Any]:
    """A route with one parameter of this annotation."""

    async def route(caller: Any) -> str:
        return "in"

    route.__annotations__["caller"] = annotation
    if default is not ...:
        route.__defaults__ = (default,)
    return route


async def every_way(app: FastAPI) -> list[httpx.Response]:
    """Send an identity in every part of a request."""
    async with calling(app) as client:
        return [
            await client.post("/", **request)
            for request in (
                {"params": FORGED},
                {"json": FORGED},
                {"json": {"caller": FORGED}},
                {"json": {"callers": [FORGED]}},
                {"json": [FORGED]},
                {"json": {"inside": [[{"caller": FORGED}]]}},
                {"data": FORGED},
                {"headers": {name: str(value) for name, value in FORGED.items()} | {"caller": "x"}},
                {"headers": {"cookie": f"caller={FORGED['subject']}"}},
            )
        ]


# Requests never provide an identity


@pytest.mark.parametrize(("identity", "guard"), ALL)
@pytest.mark.parametrize("depends", [Depends, Security])
@pytest.mark.parametrize("bare", [True, False])
def test_a_class_of_identity_as_a_dependency_fails_when_the_route_is_defined(
    identity: Identity, guard: str, depends: Any, bare: bool
) -> None:
    kind = type(identity)
    annotation = Annotated[kind, depends()] if bare else Annotated[Any, depends(kind)]

    for add in (FastAPI().add_api_route, APIRouter().add_api_websocket_route):
        with pytest.raises(TypeError, match=rf"Write Depends\({guard}\(\)\)"):
            add("/", route_with(annotation))


@pytest.mark.parametrize("annotation", [MachineIdentity | None, Identity])
def test_a_union_as_a_dependency_fails_when_the_route_is_defined(annotation: Any) -> None:
    with pytest.raises((AssertionError, TypeError)):
        FastAPI().add_api_route("/", route_with(Annotated[annotation, Depends()]))


def test_an_identity_as_a_query_parameter_fails_when_the_route_is_defined() -> None:
    with pytest.raises(AssertionError, match="must be one of the supported types"):
        FastAPI().add_api_route("/", route_with(Annotated[MachineIdentity, Query()]))


def test_a_dependency_with_a_class_of_identity_below_it_fails_too() -> None:
    async def sub(caller: Annotated[MachineIdentity, Depends()]) -> None: ...

    with pytest.raises(TypeError, match=r"Write Depends\(require_machine\(\)\)"):
        FastAPI(dependencies=[Depends(sub)]).get("/")(route_with(int))


def test_a_subclass_of_an_identity_as_a_dependency_fails_too() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Own(MachineIdentity):
        more: str = ""

    with pytest.raises(TypeError, match=r"Write Depends\(require_machine\(\)\)"):
        FastAPI().add_api_route("/", route_with(Annotated[Own, Depends()]))


@pytest.mark.parametrize(
    "annotation",
    [
        MachineIdentity,
        Identity,
        Annotated[MachineIdentity, Body()],
        Annotated[MachineIdentity, Header()],
        Annotated[MachineIdentity, Cookie()],
        Annotated[MachineIdentity, Body(embed=True)],
        list[MachineIdentity],
        WithIdentity,
        HoldsIdentities,
        WithIdentitiesInside,
    ],
)
async def test_an_identity_in_a_request_is_422_and_behind_the_middleware_503(
    world: World, annotation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def service() -> FastAPI:
        app = FastAPI()
        app.add_api_route("/", route_with(annotation), methods=["POST"])
        return app

    answers = await every_way(service())

    assert {answer.status_code for answer in answers} == {422}
    texts = " ".join(answer.text for answer in answers)
    assert "A MachineIdentity is never made from input. In FastAPI, get the caller's with" in texts
    # Behind the middleware, no request reaches the app.
    behind = service()
    behind.add_middleware(MachineAuthMiddleware, verifier=world.verifier())
    async with calling(behind) as client:
        answer = await client.post("/", json=FORGED, headers=bearer(world.token()))
    assert (answer.status_code, answer.json()["code"]) == (503, "verifier_misconfigured")
    assert "Write Depends(require_machine())" in caplog.text


async def test_an_optional_identity_parameter_is_always_none(world: World) -> None:
    entered: list[Any] = []

    async def route(caller: MachineIdentity | None = None) -> None:
        entered.append(caller)

    app = FastAPI()
    app.add_api_route("/", route, methods=["POST"])
    await every_way(app)

    assert set(entered) == {None}


async def test_a_websocket_that_takes_an_identity_as_input_is_closed() -> None:
    entered = []

    async def route(websocket: WebSocket, caller: MachineIdentity) -> None:
        entered.append(caller)

    app = FastAPI()
    app.add_api_websocket_route("/", route)
    query = "&".join(f"{name}={value}" for name, value in FORGED.items()).encode()
    messages = await play(app, websocket_scope(path="/", query_string=query), CONNECT)

    assert entered == []
    assert [message["type"] for message in messages][:1] == ["websocket.close"]


@pytest.mark.parametrize(("identity", "guard"), ALL)
def test_pydantic_validates_no_serialized_identity(identity: Identity, guard: str) -> None:
    kinds: list[Any] = [type(identity), Identity]
    for adapter in map(TypeAdapter[Any], kinds):
        shown = adapter.dump_json(identity)
        for validate, given in (
            (adapter.validate_python, identity.as_dict()),
            (adapter.validate_python, asdict(identity)),
            (adapter.validate_json, shown),
            (adapter.validate_strings, {"subject": "mch_x"}),
        ):
            attempt: Any = validate
            with pytest.raises(ValidationError, match=rf"Depends\({guard}\(\)\)"):
                attempt(given)
        assert adapter.validate_python(identity) is identity


# Responses may contain an identity


@pytest.mark.parametrize(("identity", "guard"), ALL)
async def test_a_route_may_return_an_identity(identity: Identity, guard: str) -> None:
    kind = type(identity)

    class Answer(BaseModel):
        caller: Identity

    async def annotated() -> Any:
        return identity

    annotated.__annotations__["return"] = kind

    async def bare():  # type: ignore[no-untyped-def]  # as many routes are written
        return identity

    app = FastAPI()
    app.add_api_route("/annotated", annotated)
    app.add_api_route("/bare", bare)
    app.add_api_route("/model", bare, response_model=kind)
    app.add_api_route("/union", bare, response_model=Identity)
    app.add_api_route("/inside", lambda: Answer(caller=identity), response_model=Answer)
    app.add_api_route(
        "/less", bare, response_model=kind, response_model_exclude={"claims", "token_id"}
    )
    async with calling(app) as client:
        given = {
            path: (await client.get(path)).json()
            for path in ("/annotated", "/bare", "/model", "/union", "/inside", "/less")
        }
        document = (await client.get("/openapi.json")).json()

    whole = identity.as_dict()
    assert given["/annotated"] == given["/model"] == given["/union"] == whole
    assert given["/inside"] == {"caller": whole}
    # Without an annotation FastAPI takes the fields alone, and sets in any order.
    fields = {name: value for name, value in whole.items() if name != "token_type"}
    assert {**given["/bare"], "scopes": sorted(given["/bare"]["scopes"])} == fields
    assert given["/less"] == {
        name: value for name, value in whole.items() if name not in ("claims", "token_id")
    }
    success = document["paths"]["/annotated"]["get"]["responses"]["200"]
    shown = success["content"]["application/json"]["schema"]
    assert list(shown["properties"]) == shown["required"]
    assert set(shown["required"]) == set(whole)


async def test_the_caller_of_a_guard_may_be_returned() -> None:
    app = FastAPI()

    @app.get("/me")
    async def me(caller: Annotated[MachineIdentity, Depends(require_machine())]) -> MachineIdentity:
        return caller

    caller = machine_identity(claims=CLAIMS)
    async with calling(as_caller(app, caller)) as client:
        assert (await client.get("/me")).json() == caller.as_dict()


def test_the_fields_of_an_identity_may_be_copied() -> None:
    identity = OAuthIdentity(
        token_id="oat_1", subject="user_x", client_id="c", claims=freeze(CLAIMS), actor=freeze({})
    )

    assert asdict(identity)["claims"] == CLAIMS | {"roles": ({"name": "admin"},)}
