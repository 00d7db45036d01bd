"""Child processes, whose work must not be measured as ours. They answer JSON lines."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import uvicorn


class Process:
    """A child process that answers each JSON line with another."""

    def __init__(self, stdin: IO[str], stdout: IO[str]) -> None:
        self._stdin, self._stdout = stdin, stdout

    def ask(self, question: Any) -> Any:
        """Send a line and wait for the answer."""
        self.tell(question)
        return self.answer()

    def tell(self, question: Any) -> None:
        """Send a line. `answer` waits for the answer."""
        self._stdin.write(json.dumps(question) + "\n")
        self._stdin.flush()

    def answer(self) -> Any:
        """Wait for the answer to a line that was sent."""
        return json.loads(self._stdout.readline())


@contextmanager
def child(module: str) -> Iterator[Process]:
    """Run `python -m module`, which finds the same packages as this process."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Process(process.stdin, process.stdout)
        finally:
            process.stdin.close()  # tells the child to end
            process.wait()


def free_port() -> int:
    """Return a port of loopback on which nothing listens now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def serve(app: Any, answer: dict[str, Any], **options: Any) -> None:
    """Serve `app` on a free port, in a child; print `answer` and the origin; end with stdin."""
    # asyncio turns Nagle's algorithm off for accepted connections only if the protocol is given.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(256)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", **options))

    def end_with_stdin() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=end_with_stdin, daemon=True).start()
    origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    print(json.dumps(answer | {"origin": origin}), flush=True)
    server.run(sockets=[listener])
