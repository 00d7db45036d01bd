"""The emulator as tests want it: with what connects a service to it, in process or on a port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

import httpx

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.clock import Clock
from clerk_m2m.emulator import (
    ConnectionDroppedError,
    EmulatedApiKey,
    EmulatedMachine,
    EmulatedToken,
    Emulator,
)
from clerk_m2m.emulator.app import OPERATIONS
from clerk_m2m.settings import Settings
from clerk_m2m.verification.verifier import Verifier

if TYPE_CHECKING:
    import uvicorn

IN_PROCESS_URL: Final = "https://clerk.test"
# Tests verify more new tokens in a second than a service lets strangers send.
UNKNOWN_RATE: Final = 100_000.0
STOP_SECONDS: Final = 10.0


class ClerkEmulator(Emulator):
    """An `Emulator` for tests: `settings`, `verifier` and `client` connect to it in process.

    Its time runs like the real one and moves by `travel`; a verifier made here moves along.
    """

    def __init__(self, **options: Any) -> None:
        """Take what `Emulator` takes."""
        # The host may set its wall clock while a test runs; what a test measures must not jump.
        offset = time.time() - time.monotonic()
        super().__init__(**({"clock": lambda: offset + time.monotonic()} | options))
        self.transport: httpx.AsyncBaseTransport = _InProcess(self)
        self.clock = Clock(monotonic=self.now, wall=self.now)

    def settings(self, machine: EmulatedMachine, **given: Any) -> Settings:
        """Give the settings of the service that is `machine`; `given` adds or replaces.

        They hold the machine's own key only. `secret_key=emulator.secret_key` adds the instance's:
        the live graph, JWTs, API keys and OAuth access tokens need it.
        """
        return _settings(IN_PROCESS_URL, machine, given)

    def verifier(self, machine: EmulatedMachine, **given: Any) -> Verifier:
        """Give a verifier of the service that is `machine`; `given` are settings of it."""
        settings = self.settings(machine, **given)
        return Verifier(settings, transport=self.transport, clock=self.clock)

    def client(self, machine: EmulatedMachine | None = None, **given: Any) -> ClerkClient:
        """Give a client with the instance's key, and with the key of `machine`."""
        keys = {
            "secret_key": self.secret_key,
            "machine_secret_key": machine.secret_key if machine else None,
        }
        return ClerkClient(api_url=IN_PROCESS_URL, transport=self.transport, **(keys | given))

    def assert_verifications(self, expected: int) -> None:
        """Assert how many credentials Clerk was asked about: those are billed.

        Counts since the emulator was made or `calls.clear()` was called.
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

        Counts since the emulator was made or `calls.clear()` was called; what is not named may
        have been called or not. Raises `ValueError` for an operation that does not exist.
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
    """An emulator that is served at `url`; everything else is done to `emulator` itself."""

    def __init__(self, emulator: ClerkEmulator, url: str) -> None:
        self.emulator = emulator
        self.url = url

    def settings(self, machine: EmulatedMachine, **given: Any) -> Settings:
        """Give the settings of the service that is `machine`; `given` adds or replaces."""
        return _settings(self.url, machine, given)

    def environ(
        self, machine: EmulatedMachine | None = None, *, instance_key: bool | None = None
    ) -> dict[str, str]:
        """Give the environment of the service that is `machine`, or of an operator's tool.

        `instance_key` says whether the instance's key is in it; None means where there is no
        `machine`. A variable of Clerk's that does not belong there is empty, which counts as
        unset, so that no key of a developer's own environment meets the emulator.
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


class MachineFactory:
    """Makes machines; what `clerk_machine` gives."""

    def __init__(self, emulator: ClerkEmulator) -> None:
        self.emulator = emulator
        self._made = 0

    def __call__(
        self,
        name: str | None = None,
        *,
        may_call: Sequence[EmulatedMachine | str] = (),
        id: str | None = None,
        default_token_ttl: int = 3600,
    ) -> EmulatedMachine:
        """Make a machine that may call these; it gets a name unless given one."""
        self._made += 1
        return self.emulator.add_machine(
            name or f"machine-{self._made}",
            may_call=may_call,
            id=id,
            default_token_ttl=default_token_ttl,
        )


class TokenFactory:
    """Makes M2M tokens; what `clerk_token` gives."""

    def __init__(self, machines: MachineFactory) -> None:
        self._machines = machines

    def __call__(
        self,
        machine: EmulatedMachine | None = None,
        *,
        may_call: Sequence[EmulatedMachine | str] = (),
        token_format: Literal["opaque", "jwt"] = "opaque",
        seconds_until_expiration: float | None = None,
        claims: Mapping[str, Any] | None = None,
    ) -> EmulatedToken:
        """Mint a token of `machine`, or of a new one, after letting it call `may_call` too."""
        emulator = self._machines.emulator
        caller = machine or self._machines()
        for callee in may_call:
            emulator.allow(caller, callee)
        return emulator.mint_m2m_token(
            caller,
            token_format=token_format,
            seconds_until_expiration=seconds_until_expiration,
            claims=claims,
        )


def bearer(credential: EmulatedToken | EmulatedApiKey | str) -> dict[str, str]:
    """Give the header that presents a token or an API key."""
    if isinstance(credential, EmulatedApiKey):
        credential = credential.secret
    elif isinstance(credential, EmulatedToken):
        credential = credential.token
    return {"Authorization": f"Bearer {credential}"}


@contextmanager
def serve(emulator: ClerkEmulator) -> Iterator[ClerkEmulatorServer]:
    """Serve an emulator on a free port of loopback, in a thread, until the block ends."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            emulator,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,  # the logging of a run is the user's
            access_log=False,
            date_header=False,  # the emulator sends its own
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
        with _running(uvicorn.Server(config), listener):
            yield ClerkEmulatorServer(emulator, f"http://127.0.0.1:{listener.getsockname()[1]}")
            emulator.clear_faults()  # lets go of calls that hang


@contextmanager
def _running(server: uvicorn.Server, listener: socket.socket) -> Iterator[None]:
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="clerk emulator", daemon=True
    )
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.002)  # uvicorn tells by a flag only
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
            # What httpx raises where a real connection ends without an answer.
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
