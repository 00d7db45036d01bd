"""A service in its own process: the same handler unprotected, and protected in two ways."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

from starlette.applications import Starlette
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.cached import DictBackend
from bench.processes import free_port, serve
from clerk_m2m import MachineAuthMiddleware, Settings


async def orders(request: Request) -> JSONResponse:
    """Answer a request."""
    return JSONResponse({"orders": [1, 2, 3]})


def service(settings: Settings, token: str) -> ASGIApp:
    """Return an app with one handler, protected as the query says: `protected`, `dict` or not."""
    unprotected = Starlette(routes=[Route("/orders", orders)])
    protections: dict[bytes, ASGIApp] = {
        b"protected": MachineAuthMiddleware(unprotected, settings),
        b"dict": AuthenticationMiddleware(unprotected, DictBackend({token: "caller"})),
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        protected = protections.get(scope.get("query_string", b""), unprotected)
        await protected(scope, receive, send)

    return app


def build() -> ASGIApp:
    """Return the service in a process of granian; `BENCH_SERVICE` has its settings as JSON."""
    wanted = json.loads(os.environ["BENCH_SERVICE"])
    return service(Settings(**wanted["settings"]), wanted["token"])


def serve_with_granian(wanted: str) -> None:
    """Start granian, print its origin, and end it with stdin."""
    port = free_port()
    command = ["-m", "granian", "--interface", "asgi", "--http", "1", "--no-ws", "--no-log"]
    command += ["--workers-kill-timeout", "5", "--port", str(port), "--factory"]
    with subprocess.Popen(
        [sys.executable, "-P", *command, "bench.service:build"],
        env=os.environ | {"BENCH_SERVICE": wanted},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
    ) as process:
        origin = f"http://127.0.0.1:{port}"
        while not _answers(origin):
            assert process.poll() is None, "granian has ended"
            time.sleep(0.05)
        print(json.dumps({"origin": origin}), flush=True)
        sys.stdin.read()
        process.terminate()


def _answers(origin: str) -> bool:
    try:
        with urllib.request.urlopen(f"{origin}/orders?open"):
            return True
    except urllib.error.URLError:
        return False


if __name__ == "__main__":
    # The log lines of refused requests would hide the report.
    logging.getLogger("clerk_m2m").addHandler(logging.NullHandler())
    line = sys.stdin.readline()
    wanted = json.loads(line)
    if wanted["options"].pop("server", "uvicorn") == "granian":
        serve_with_granian(line)
    else:
        serve(service(Settings(**wanted["settings"]), wanted["token"]), {}, **wanted["options"])
