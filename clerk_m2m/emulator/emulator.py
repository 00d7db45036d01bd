"""`Emulator`: the ASGI application, and methods that let a test change the same state directly."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from clerk_m2m.emulator.app import OPERATIONS, Application
from clerk_m2m.emulator.credentials import LAST_INSTANT_MS
from clerk_m2m.emulator.faults import Fault, FaultBook, FaultKind, implied_kind
from clerk_m2m.emulator.hosts import read_allowed_hosts
from clerk_m2m.emulator.instance import AS_ERROR, SECONDS, DeadTokenAnswer, Instance, OAuthInstants
from clerk_m2m.emulator.operations import VERIFICATIONS
from clerk_m2m.emulator.python_api import PythonAPI
from clerk_m2m.emulator.scripting import answer_control
from clerk_m2m.emulator.seed import apply_seed, read_seed
from clerk_m2m.emulator.store import delete_resources

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from starlette.types import Receive, Scope, Send


class Emulator(PythonAPI):
    """Clerk's machine-auth Backend API, offline: an ASGI application with its own state.

    `secret_key` is the instance's; a random `sk_test_…` unless given. `database` is the path of a
    SQLite file that keeps everything, or `":memory:"`. `clock` gives Unix seconds. `seed` is the
    path of a TOML file, or a mapping of the same shape. `dead_token_answer` says how a revoked or
    expired credential verifies: `"error"` is 404, `"flag"` is 200 with `revoked` or `expired`
    true. `oauth_instants` is the unit of the instants of OAuth access tokens, `"seconds"` or
    `"milliseconds"`; all others are milliseconds. `signing_key` is the PEM of an RSA private key;
    one is made when first needed. `allowed_hosts` are names by which `/_emulator` may be asked for
    besides loopback and the address that the emulator is served at; a request with an `Origin` is
    always refused there.

    Raises `SeedError` for a seed that cannot be used and `ValueError` for other bad arguments.
    """

    def __init__(
        self,
        *,
        secret_key: str | None = None,
        database: str | Path = ":memory:",
        clock: Callable[[], float] = time.time,
        seed: str | Path | Mapping[str, Any] | None = None,
        dead_token_answer: DeadTokenAnswer = AS_ERROR,
        oauth_instants: OAuthInstants = SECONDS,
        signing_key: str | None = None,
        allowed_hosts: Iterable[str] = (),
    ) -> None:
        allowed = read_allowed_hosts(allowed_hosts)
        first_seed = None if seed is None else read_seed(seed)
        instance = Instance(
            database=database,
            secret_key=secret_key,
            clock=clock,
            dead_token_answer=dead_token_answer,
            oauth_instants=oauth_instants,
            signing_key=signing_key,
        )
        super().__init__(instance)
        self._faults = FaultBook(frozenset(operation.id for operation in OPERATIONS))
        self._app = Application(
            instance,
            self._faults,
            lambda request: answer_control(self, request),
            allowed_hosts=allowed,
        )
        self._first_seed = first_seed
        if first_seed is not None:
            with self._writing() as db:
                apply_seed(db, first_seed, self._instance.now_ms())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        await self._app(scope, receive, send)

    def close(self) -> None:
        """Close the database. State in memory is lost; a file stays."""
        self._instance.store.close()

    def travel(self, seconds: float) -> None:
        """Move the emulator's time forward, or back where `seconds` is negative.

        Raises `ValueError` for a time before 1970 or after the last that a date can hold.
        """
        if not 0 <= self.now() + seconds <= LAST_INSTANT_MS / 1000:
            raise ValueError(f"there is no time {seconds} seconds from now")
        self._instance.seconds_travelled += seconds

    @property
    def calls(self) -> Counter[str]:
        """How often each operation was called, by operationId, refused calls included."""
        return self._app.calls

    @property
    def verifications(self) -> int:
        """How many of the `calls` were verifications, which Clerk bills."""
        return sum(self.calls[operation] for operation in VERIFICATIONS)

    def reset(self) -> None:
        """Delete all rows, faults and counts, reset the clock, and seed again.

        The instance's keys stay, so that a service configured with them still works.
        """
        with self._writing() as db:
            delete_resources(db)
            self._faults.clear()
            self._app.calls.clear()
            self._instance.seconds_travelled = 0.0
            if self._first_seed is not None:
                apply_seed(db, self._first_seed, self._instance.now_ms())

    def seed(self, given: str | Path | Mapping[str, Any]) -> None:
        """Add what a seed file (TOML) or mapping names; twice is the same as once.

        Raises `SeedError`, which names the file, the table and the key; nothing is added then.
        """
        seed = read_seed(given)
        with self._writing() as db:
            apply_seed(db, seed, self._instance.now_ms())

    # Faults

    @property
    def faults(self) -> list[Fault]:
        """The faults that are scripted and not used up."""
        return self._faults.waiting()

    def fail(
        self,
        operation: str = "*",
        *,
        kind: FaultKind | None = None,
        status: int | None = None,
        retry_after: int | str | None = None,
        delay: float = 0.0,
        pace: float = 1.0,
        body: bytes | str | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        times: int | None = None,
        performed: bool = False,
    ) -> Fault:
        """Make the next `times` calls of an operationId fail, or all until cleared.

        Without a `kind` the arguments say it: a `status` is answered, with `body` if there is
        one; a `body` alone is answered with 200; a `delay` alone (seconds) only delays. `pace` is
        the seconds between two bytes of a `drip`. `performed` carries the operation out before
        its answer is replaced. Raises `ValueError` for a fault that could never occur.
        """
        if isinstance(body, str):
            body = body.encode()
        elif body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return self._faults.add(
            operation,
            kind or implied_kind(status, body, delay),
            status=status,
            retry_after=retry_after,
            delay=delay,
            pace=pace,
            body=body,
            headers=tuple((headers or {}).items()),
            times=times,
            performed=performed,
        )

    def clear_faults(self, fault_id: int | None = None) -> int:
        """Remove one fault or all, and release calls that hang; return how many were removed."""
        return self._faults.clear(fault_id)
