"""A WSGI service: the verifier runs in its own event loop; threads call it through anyio's portal.

    CLERK_MACHINE_ID=mch_… CLERK_MACHINE_SECRET_KEY=ak_… python wsgi_service.py
    CLERK_MACHINE_ID=mch_… CLERK_MACHINE_SECRET_KEY=ak_… gunicorn 'wsgi_service:create_app()'

Each thread of the server waits for its own answer. All threads share the cache and the look-ups in
progress. If the server forks, each worker must open its own portal: gunicorn calls `create_app` in
the worker, unless it runs with `--preload`.
"""

import atexit
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from typing import Any
from wsgiref.simple_server import make_server

from anyio.from_thread import start_blocking_portal

from clerk_m2m import RefusalError, Verifier, refusal_answer, require_machine

any_machine = require_machine()

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@contextmanager
def open_app() -> Iterator[Application]:
    verifier = Verifier()
    with start_blocking_portal() as portal:

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            # WSGI joins a repeated header to one value; a value with two credentials is refused.
            headers = {
                name.removeprefix("HTTP_").replace("_", "-"): value
                for name, value in environ.items()
                if name.startswith("HTTP_")
            }
            try:
                caller = any_machine.accept(portal.call(verifier.verify_headers, headers))
            except RefusalError as refusal:
                status, answer, body = refusal_answer(refusal)
            else:
                status, answer = 200, {"Content-Type": "application/json"}
                body = json.dumps({"orders_for": caller.machine_id}).encode()
            start_response(f"{status} {HTTPStatus(status).phrase}", list(answer.items()))
            return [body]

        yield app
        portal.call(verifier.aclose)


def create_app() -> Application:
    """Open the app until the process exits. Older portals than anyio 4.5's keep it alive."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(open_app())


if __name__ == "__main__":
    with open_app() as app, make_server("127.0.0.1", 8000, app) as server:
        server.serve_forever()
