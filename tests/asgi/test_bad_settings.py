"""With settings that cannot work, a service does not start, or refuses every request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import hypercorn.asyncio
import hypercorn.config
import pytest
import uvicorn
from asgi_messages import CLOSE, CONNECT, ask, http_scope, play, websocket_scope
from hypercorn.utils import LifespanFailureError
from misconfigured_app import app as misconfigured
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from clerk_m2m import ConfigurationError, MachineAuthMiddleware, Settings, verifier_of
from harness import World, bearer, calling, protected, serve, whoami

REASON = "Set machine_id (CLERK_MACHINE_ID) to this service's own machine"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set: no machine id and no key."""
    for variable in [name for name in os.environ if name.startswith("CLERK_")]:
        monkeypatch.delenv(variable)


def behind(**given: Any) -> Starlette:
    app = Starlette(routes=[Route("/", whoami), Route("/healthz", whoami)])
    app.add_middleware(MachineAuthMiddleware, **given)
    return app


# Servers that run the lifespan


def test_a_bad_setting_fails_the_start_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigurationError, match="Set machine_id") as refused, TestClient(behind()):
        pass

    assert refused.value.code == "configuration_invalid"
    assert f"This service cannot start: {REASON}" in caplog.text


def test_the_error_at_start_names_a_misspelt_variable(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    monkeypatch.setenv("CLERK_MACHINE_ID", world.callee.id)
    monkeypatch.setenv("CLERK_PUBLISHABLE_KEY", "pk_test_of_something_else")
    monkeypatch.setenv("CLERK_MACHINE_SECRETKEY", world.callee.secret_key)

    with pytest.raises(ConfigurationError) as refused, TestClient(behind()):
        pass

    text = str(refused.value)
    assert text.startswith("No key is set.")
    assert text.endswith(" (CLERK_MACHINE_SECRETKEY is set. Was CLERK_MACHINE_SECRET_KEY meant?)")
    assert "PUBLISHABLE" not in text


BAD: dict[str, tuple[Callable[[World], dict[str, Any]], str]] = {
    "a graph that is not there": (
        lambda world: {"settings": world.settings(graph="/nowhere/graph.toml")},
        "graph /nowhere/graph.toml cannot be read",
    ),
    "plain http": (
        lambda world: {"settings": world.live_settings(jwks_url="http://clerk.test/jwks")},
        "jwks_url must be https",
    ),
    "exclude": (lambda world: {"settings": world.settings(), "exclude": ["x"]}, "a slash"),
    "on_error": (
        lambda world: {"settings": world.settings(), "on_error": asyncio.sleep},
        "on_error must be a plain function",
    ),
    "on_event": (
        lambda world: {"settings": world.settings(), "on_event": asyncio.sleep},
        "on_event must be a plain function",
    ),
    "both": (
        lambda world: {"settings": world.settings(), "verifier": world.verifier()},
        "settings or a verifier, not both",
    ),
    "a verifier as settings": (
        lambda world: {"settings": world.verifier()},
        "takes Settings as settings=",
    ),
    "settings as a verifier": (
        lambda world: {"verifier": world.settings()},
        "a Verifier as verifier=",
    ),
}


@pytest.mark.parametrize("what", BAD)
async def test_every_argument_that_cannot_work_fails_the_start(world: World, what: str) -> None:
    given, said = BAD[what]
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    with pytest.raises(ConfigurationError, match=said) as refused:
        await behind(**given(world))({"type": "lifespan", "state": {}}, receive, send)

    assert refused.value.code == "configuration_invalid"
    assert sent == [{"type": "lifespan.startup.failed", "message": str(refused.value)}]


def test_settings_made_in_code_raise_at_their_construction() -> None:
    with pytest.raises(ConfigurationError, match="Set machine_id"):
        MachineAuthMiddleware(Starlette(), Settings())


# Servers that do not run it


async def test_without_a_lifespan_every_request_is_503_and_one_error_line_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for given in ({}, {"required": False}, {"report_only": True}, {"exclude": ["/healthz"]}):
        app = behind(**given)
        caplog.clear()
        async with calling(app) as client:
            answers = [
                await client.get("/"),
                await client.get("/healthz"),
                await client.get("/", headers=bearer("mt_" + "0" * 64)),
            ]

        for answer in answers:
            assert (answer.status_code, answer.json()["code"]) == (503, "verifier_misconfigured")
            assert "CLERK_MACHINE_ID" not in answer.text
        (error,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
        assert "Every request is refused with 503 verifier_misconfigured" in error.getMessage()
        assert REASON in error.getMessage()


async def test_without_a_lifespan_a_websocket_is_refused() -> None:
    app = behind()
    denied = await play(app, websocket_scope(denial=True), CONNECT)

    assert await play(app, websocket_scope(), CONNECT) == [CLOSE]
    assert denied[0]["status"] == 503


async def test_a_mounted_app_with_bad_settings_refuses_and_the_others_work(
    world: World,
) -> None:
    app = Starlette(
        routes=[Mount("/bad", app=behind()), Mount("/good", app=protected(world.verifier()))]
    )

    bad = await ask(app, http_scope("/bad/", world.token()))
    good = await ask(app, http_scope("/good/", world.token()))

    assert (bad[0], bad[1]["code"]) == (503, "verifier_misconfigured")
    assert good == (200, {"subject": world.caller.id})


async def test_verifier_of_raises_for_an_app_with_bad_settings() -> None:
    app = behind()
    await ask(app, http_scope())

    with pytest.raises(ConfigurationError, match="Set machine_id") as refused:
        verifier_of(app)

    assert refused.value.code == "configuration_invalid"


# Real servers


async def _uvicorn() -> str:
    server = uvicorn.Server(uvicorn.Config(misconfigured, log_config=None))
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        contextlib.suppress(SystemExit),  # some versions return
    ):
        await server.serve(sockets=[listener])
    return "it started" if server.started else "it ended"


async def _uvicorn_without_lifespan() -> str:
    async with (
        serve(misconfigured, lifespan="off", log_config=None) as origin,
        httpx.AsyncClient() as client,
    ):
        answer = await client.get(origin)
    return f"{answer.status_code} {answer.json()['code']}"


async def _hypercorn() -> str:
    listener = socket.create_server(("127.0.0.1", 0))
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.detach()}"]  # hypercorn closes it
    config.errorlog = None
    app: Any = misconfigured
    with pytest.raises(LifespanFailureError) as failed:
        await hypercorn.asyncio.serve(app, config)
    return str(failed.value)


async def _command(*command: str, listener: socket.socket | None = None) -> str:
    """Run a server until it exits by itself; return its output."""
    here = Path(__file__).parents[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command,
        cwd=here, env=os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        pass_fds=[listener.fileno()] if listener else [],
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode != 0
    return out.decode()


async def _gunicorn() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        bind = ["--bind", f"fd://{listener.fileno()}"]
        worker = ["--worker-class", "uvicorn_worker.UvicornWorker"]
        return await _command(
            "gunicorn", *bind, *worker, "misconfigured_app:app", listener=listener
        )


async def _granian() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    options = ["--interface", "asgi", "--port", port]
    return await _command("granian", *options, "misconfigured_app:app")


async def test_each_server_exits_with_the_reason_or_refuses_every_request(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # uvicorn's own logging does not propagate once a server of another test has configured it.
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "handlers", [caplog.handler])
    by_uvicorn, without_lifespan, by_hypercorn, by_gunicorn, by_granian = await asyncio.gather(
        _uvicorn(), _uvicorn_without_lifespan(), _hypercorn(), _gunicorn(), _granian()
    )

    assert by_uvicorn == "it ended"
    assert any(each.name == "uvicorn.error" and REASON in each.message for each in caplog.records)
    assert without_lifespan == "503 verifier_misconfigured"
    assert REASON in by_hypercorn
    assert REASON in by_gunicorn
    assert "Worker failed to boot" in by_gunicorn
    assert REASON in by_granian
