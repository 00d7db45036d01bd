"""The emulator for tests, with methods that connect a service to it, in process or on a port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.clock import Clock
from clerk_m2m.emulator import (
    ConnectionDroppedError,
    EmulatedMachine,
    Emulator,
)
from clerk_m2m.emulator.app import OPERATIONS
from clerk_m2m.outbound.auth import MachineTokenAuth
from clerk_m2m.settings import Settings
from clerk_m2m.verification.verifier import Verifier

if TYPE_CHECKING:
    import uvicorn

IN_PROCESS_URL: Final = "https://clerk.test"
# Tests verify more new tokens in a second than the default `unknown_rate` allows.
UNKNOWN_RATE: Final = 100_000.0
STOP_SECONDS: Final = 10.0


@dataclass(slots=True, kw_only=True)
class ReceivedRequest:
    """A request to an emulator; `body` is the part that the emulator has read."""

    method: str
    path: str
    body: bytes = field(default=b"", repr=False)


class ClerkEmulator(Emulator):
    """An `Emulator` for tests: `settings`, `verifier` and `client` connect to it in process.

    Its time runs like the real time; `travel` moves it and `freeze` stops it. Verifiers made here
    use the same time. `requests` lists the requests to the emulator, oldest first; you may empty
    it.
    """

    def __init__(self, **options: Any) -> None:
        """Accept the arguments of `Emulator`."""
        # Time is measured on the monotonic clock, because the host may set its wall clock.
        offset = time.time() - time.monotonic()
        running = options.pop("clock", lambda: offset + time.monotonic())
        self._stopped_at: float | None = None

        def clock() -> float:
            given: float = running()
            return given if self._stopped_at is None else self._stopped_at

        super().__init__(clock=clock, **options)
        self.requests: list[ReceivedRequest] = []
        self._opened: list[Verifier | ClerkClient] = []
        self.transport: httpx.AsyncBaseTransport = _InProcess(self)
        self.clock = Clock(monotonic=self.now, wall=self.now)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection and record it in `requests`."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        request = ReceivedRequest(method=scope["method"], path=scope["path"])
        self.requests.append(request)

        async def noting_receive() -> Message:
            message = await receive()
            request.body += message.get("body", b"")
            return message

        # `send` is not wrapped: a fault that drops the connection reaches the server through it.
        await super().__call__(scope, noting_receive, send)

    def freeze(self) -> None:
        """Stop the time; from now on only `travel` moves it."""
        self._stopped_at = self._stopped_at or self.now() - self._instance.seconds_travelled

    def settings(self, machine: EmulatedMachine, **given: Any) -> Settings:
        """Return the settings of the service that is `machine`; `given` adds or replaces settings.

        They hold only the machine's own key. Add `secret_key=emulator.secret_key` for the live
        graph, JWTs, API keys and OAuth access tokens, which need the instance's key.
        """
        return _settings(IN_PROCESS_URL, machine, given)

    def verifier(
        self,
        machine: EmulatedMachine | None = None,
        *,
        settings: Settings | None = None,
        **given: Any,
    ) -> Verifier:
        """Return a verifier of the service that is `machine`, or that has these `settings`.

        `given` adds or replaces settings of the `machine`. Raises `TypeError` unless exactly one of
        `machine` and `settings` is passed.
        """
        if (machine is None) == (settings is None) or (settings is not None and given):
            raise TypeError("verifier() needs a machine and its settings, or settings=Settings()")
        if machine is not None:
            settings = self.settings(machine, **given)
        verifier = Verifier(settings, transport=self.transport, clock=self.clock)
        self._opened.append(verifier)
        return verifier

    async def aclose(self) -> None:
        """Close every verifier and client that was made here; the emulator stays open."""
        while self._opened:
            await self._opened.pop().aclose()

    def auth(self, machine: EmulatedMachine, **given: Any) -> MachineTokenAuth:
        """Return a `MachineTokenAuth` of `machine`; `given` are arguments of `MachineTokenAuth`."""
        defaults: dict[str, Any] = {
            "machine_secret_key": machine.secret_key,
            "api_url": IN_PROCESS_URL,
            "transport": self.transport,
            "clock": self.clock,
        }
        return MachineTokenAuth(**(defaults | given))

    def client(self, machine: EmulatedMachine | None = None, **given: Any) -> ClerkClient:
        """Return a client with the instance's key and the key of `machine`, if one is passed."""
        keys = {
            "secret_key": self.secret_key,
            "machine_secret_key": machine.secret_key if machine else None,
        }
        client = ClerkClient(api_url=IN_PROCESS_URL, transport=self.transport, **(keys | given))
        self._opened.append(client)
        return client

    def assert_verifications(self, expected: int) -> None:
        """Assert the number of verifications at Clerk, which are billed.

        Counts since the emulator was created or `calls.clear()` was called.
        """
        __tracebackhide__ = True
        seen = self.verifications
        if seen != expected:
            raise AssertionError(
                f"Expected {_times(expected, 'verification')} at Clerk, saw {seen}. "
                f"All calls: {_listed(self.calls)}."
            )

    def assert_calls(self, **expected: int) -> None:
        """Assert how often operations were called: `assert_calls(createM2MToken=1)`.

        Counts since the emulator was created or `calls.clear()` was called. Operations that are not
        named are not checked. Raises `ValueError` for an operation that does not exist.
        """
        __tracebackhide__ = True
        unknown = expected.keys() - {operation.id for operation in OPERATIONS}
        if unknown:
            raise ValueError(f"no such operation: {', '.join(sorted(unknown))}")
        wrong = [
            f"{operation}: expected {times}, saw {self.calls[operation]}"
            for operation, times in expected.items()
            if self.calls[operation] != times
        ]
        if wrong:
            raise AssertionError(f"{'; '.join(wrong)}. All calls: {_listed(self.calls)}.")


class ClerkEmulatorServer:
    """An emulator that is served at `url`; use `emulator` for everything else."""

    def __init__(self, emulator: ClerkEmulator, url: str) -> None:
        self.emulator = emulator
        self.url = url

    def settings(self, machine: EmulatedMachine, **given: Any) -> Settings:
        """Return the settings of the service that is `machine`; `given` adds or replaces some."""
        return _settings(self.url, machine, given)

    def environ(
        self, machine: EmulatedMachine | None = None, *, instance_key: bool | None = None
    ) -> dict[str, str]:
        """Return the environment of the service that is `machine`, or of an operator's tool.

        `instance_key` adds the instance's key; None adds it only if there is no `machine`. Other
        variables of Clerk's are empty, which counts as unset, so keys of the developer's own
        environment are never sent to the emulator.
        """
        with_key = machine is None if instance_key is None else instance_key
        return {
            "CLERK_API_URL": self.url,
            "CLERK_MACHINE_ID": machine.id if machine else "",
            "CLERK_MACHINE_SECRET_KEY": machine.secret_key if machine else "",
            "CLERK_SECRET_KEY": self.emulator.secret_key if with_key else "",
            "CLERK_JWT_KEY": "",
            "CLERK_M2M_UNKNOWN_RATE": f"{UNKNOWN_RATE:g}",
        }


class ClerkEnviron:
    """Sets the environment of this process to that of a machine; the value of `clerk_environ`."""

    def __init__(self, server: ClerkEmulatorServer, setenv: Callable[[str, str], None]) -> None:
        self._server = server
        self._setenv = setenv

    def __call__(self, machine: EmulatedMachine, *, instance_key: bool | None = None) -> None:
        """Set the environment of the service that is `machine`, until the test ends."""
        environ = self._server.environ(machine, instance_key=instance_key)
        for name, value in environ.items():
            self._setenv(name, value)


@contextmanager
def serve(emulator: ClerkEmulator) -> Iterator[ClerkEmulatorServer]:
    """Serve an emulator on a free port of loopback, in a thread, until the block ends."""
    # The emulator sends its own Date header.
    with served(emulator, lifespan="off", date_header=False) as url:
        yield ClerkEmulatorServer(emulator, url)
        emulator.clear_faults()  # ends hanging calls


@contextmanager
def served(app: ASGIApp, **options: Any) -> Iterator[str]:
    """Serve your app on a free port of loopback until the block ends; the value is its URL.

    The app runs in a thread of this process, with its lifespan. `options` are those of uvicorn's
    `Config`. Raises `RuntimeError` if the app does not start.
    """
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listener:
        # asyncio sets this on its own sockets; without it an answer takes 40 ms longer.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        defaults: dict[str, Any] = {
            "loop": "asyncio",
            "http": "h11",
            "log_config": None,  # the user configures the logging of a run
            "access_log": False,
            "log_level": "warning",
            "timeout_graceful_shutdown": 1,
        }
        with _running(uvicorn.Server(uvicorn.Config(app, **(defaults | options))), listener):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def _running(server: uvicorn.Server, listener: socket.socket) -> Iterator[None]:
    def run() -> None:
        try:
            server.run(sockets=[listener])
        except SystemExit:
            pass  # uvicorn raises this if the app does not start; `started` is checked below

    thread = threading.Thread(target=run, name="clerk_m2m test server", daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.002)  # uvicorn has only a flag for this
        if not server.started:
            raise RuntimeError("The app did not start. See its error in the log of uvicorn.")
        yield
    finally:
        server.should_exit = True
        thread.join(STOP_SECONDS)


class _InProcess(httpx.AsyncBaseTransport):
    """Calls the emulator without a socket."""

    def __init__(self, emulator: Emulator) -> None:
        self._app = httpx.ASGITransport(app=emulator)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._app.handle_async_request(request)
        except ConnectionDroppedError as exc:
            # httpx raises this if a real connection ends without an answer.
            raise httpx.RemoteProtocolError(str(exc), request=request) from exc


def _settings(api_url: str, machine: EmulatedMachine, given: Mapping[str, Any]) -> Settings:
    defaults: dict[str, Any] = {
        "machine_id": machine.id,
        "machine_secret_key": machine.secret_key,
        "api_url": api_url,
        "unknown_rate": UNKNOWN_RATE,
    }
    return Settings(**(defaults | dict(given)))


def _listed(calls: Mapping[str, int]) -> str:
    return ", ".join(f"{name} x{count}" for name, count in calls.items() if count) or "none"


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
