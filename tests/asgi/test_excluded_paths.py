"""`exclude`: the paths that are open, compared whole."""

from __future__ import annotations

from typing import Any

import pytest
from asgi_messages import ask, http_scope
from sent_credentials import UNKNOWN
from starlette.applications import Starlette

from clerk_m2m import ConfigurationError, MachineAuthMiddleware
from harness import World, bearer, calling, protected


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
