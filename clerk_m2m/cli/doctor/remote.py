"""The checks that ask Clerk: whether it answers, how fast, whose keys these are, and its clock."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from clerk_m2m.backend_api.calls import BackendAPI
from clerk_m2m.backend_api.jwks import get_jwks
from clerk_m2m.backend_api.m2m_tokens import M2MTokens
from clerk_m2m.backend_api.machines import Machines
from clerk_m2m.backend_api.opening import open_api
from clerk_m2m.backend_api.resources import Machine
from clerk_m2m.cli.doctor.findings import Finding, Status
from clerk_m2m.clock import DATE_RESOLUTION, LEEWAY, MAX_SKEW, Clock, ServerClock, told_skew
from clerk_m2m.environment import key_of_file
from clerk_m2m.errors import (
    BackendAPIError,
    InvalidRequestError,
    KeyRefusedError,
    NotFoundError,
)
from clerk_m2m.secret import Secret
from clerk_m2m.settings import Settings
from clerk_m2m.verification import parts

CALLS: Final = 5


@dataclass(slots=True)
class Service:
    """A service's connection to Clerk, and the results of the first calls."""

    settings: Settings
    api: BackendAPI
    server_clock: ServerClock
    machine: Machine | None = None
    failure: BackendAPIError | None = None  # why Clerk could not be asked
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, settings: Settings, clock: Clock) -> Service:
        """Open the Backend API with the service's own settings; raises `ConfigurationError`."""
        parts.require_https_for_keys(settings)
        server_clock = ServerClock(clock)
        return cls(
            settings, open_service_api(settings, settings.timeout, server_clock), server_clock
        )

    @property
    def unreached(self) -> str | None:
        """Why Clerk did not answer; None if it did, even with an error."""
        return None if self.failure is None or is_answer(self.failure) else str(self.failure)


def open_service_api(
    settings: Settings,
    timeout: float,
    server_clock: ServerClock | None = None,
    *,
    instance_key: bool = True,
) -> BackendAPI:
    """Open the Backend API with all keys of a service, or only with its machine's key.

    `timeout` is in seconds.
    """
    return open_api(
        secret_key=settings.secret_key if instance_key else None,
        machine_secret_key=settings.machine_secret_key,
        api_url=settings.api_url,
        allow_http=settings.allow_http,
        timeout=timeout,
        max_inflight=2,
        transport=None,
        server_clock=server_clock,
    )


def is_answer(exc: BackendAPIError) -> bool:
    """Return True if the error is an answer of Clerk, not an outage."""
    return isinstance(exc, KeyRefusedError | NotFoundError | InvalidRequestError)


async def check_clerk(service: Service) -> Finding:
    """Call Clerk a few times, with an operation that costs nothing."""
    settings, call = service.settings, _free_call(service)
    if call is None:
        text = "This service has only a fixed key for JWTs (CLERK_JWT_KEY), and never asks Clerk."
        return Finding("clerk", Status.OK, text)
    for _ in range(CALLS):
        began = time.perf_counter()
        try:
            found = await call()
        except BackendAPIError as exc:
            service.failure = exc
            break
        finally:
            service.seconds.append(time.perf_counter() - began)
        service.machine = found if isinstance(found, Machine) else None
    if service.unreached is not None:
        return Finding(
            "clerk",
            Status.UNKNOWN,
            f"Clerk did not answer at {settings.api_url}: {service.unreached}",
            "Check CLERK_API_URL, and the DNS, the proxy and the firewall of this host.",
        )
    return latency(settings, service.seconds)


def latency(settings: Settings, seconds: Sequence[float]) -> Finding:
    """Return the finding about the durations of these calls; the first opened the connection."""
    p50, timeout = median(seconds), settings.timeout
    text = (
        f"{settings.api_url} answers in {p50 * 1000:.0f} ms (p50 of {len(seconds)} calls; the "
        f"first, with its connection, in {seconds[0] * 1000:.0f} ms)."
    )
    if p50 > timeout / 4:  # the slowest calls take several times the median
        remedy = "Set CLERK_M2M_TIMEOUT higher, or find out why the calls are slow."
        return Finding(
            "clerk", Status.WARNING, f"{text} CLERK_M2M_TIMEOUT is {timeout:g} s.", remedy
        )
    return Finding("clerk", Status.OK, text)


def _free_call(service: Service) -> Callable[[], Awaitable[Any]] | None:
    settings = service.settings
    if settings.secret_key is not None:
        return partial(Machines(service.api).get, settings.machine_id)
    if settings.machine_secret_key is not None:
        return partial(M2MTokens(service.api).list, settings.machine_id, limit=1)
    if settings.jwks_url is not None:
        return partial(get_jwks, service.api, settings.jwks_url)
    return None


async def check_machine(service: Service) -> AsyncIterator[Finding]:
    """Check that the keys belong to `CLERK_MACHINE_ID`, with calls that cost nothing."""
    settings = service.settings
    if service.unreached is not None:
        yield Finding("machine", Status.UNKNOWN, "Not checked: Clerk did not answer.")
        return
    if settings.secret_key is not None:
        yield _machine(service)
    if settings.machine_secret_key is not None:
        yield await _machine_key(service)


def _machine(service: Service) -> Finding:
    machine_id, machine = service.settings.machine_id, service.machine
    if machine is not None:
        text = f"{machine_id} is {machine.name}, in the instance of CLERK_SECRET_KEY."
        return Finding("machine", Status.OK, text)
    if isinstance(service.failure, KeyRefusedError):
        return Finding(
            "machine",
            Status.FAULT,
            f"Clerk refuses the key in CLERK_SECRET_KEY: {service.failure}",
            "Copy the instance's key again from the API keys page of Clerk's dashboard.",
        )
    return Finding(
        "machine",
        Status.FAULT,
        f"CLERK_MACHINE_ID names {machine_id}, which the instance of CLERK_SECRET_KEY does not "
        "have. It was deleted, or it belongs to another instance.",
        "clerk-m2m machines list shows the machines of the instance.",
    )


async def _machine_key(service: Service) -> Finding:
    """List the machine's tokens with its key: a key can only list the tokens of its own machine."""
    machine_id = service.settings.machine_id
    remedy = (
        "Set CLERK_MACHINE_SECRET_KEY to this machine's key, or CLERK_MACHINE_ID to the machine "
        "that has this key. To make a new key: "
        f"clerk-m2m machines rotate-key {machine_id} --secret-file FILE"
    )
    settings = service.settings
    # Without the instance's key, which would be sent instead of the machine's.
    api = open_service_api(settings, settings.timeout, instance_key=False)
    try:
        tokens = await M2MTokens(api).list(machine_id, revoked=True, expired=True, limit=1)
    except KeyRefusedError as exc:
        if exc.status == 401:
            text = f"Clerk refuses the key in CLERK_MACHINE_SECRET_KEY: {exc}"
        else:
            text = (
                "The key in CLERK_MACHINE_SECRET_KEY belongs to another machine than "
                f"CLERK_MACHINE_ID ({machine_id}): {exc}"
            )
        return Finding("machine key", Status.FAULT, text, remedy)
    except (NotFoundError, InvalidRequestError) as exc:
        text = (
            "With the key in CLERK_MACHINE_SECRET_KEY, Clerk does not find the machine of "
            f"CLERK_MACHINE_ID: {exc}"
        )
        return Finding("machine key", Status.FAULT, text, remedy)
    except BackendAPIError as exc:
        return Finding("machine key", Status.UNKNOWN, f"Not checked: {exc}")
    finally:
        await api.aclose()
    if any(token.subject == machine_id for token in tokens):
        return _its_own(f"it lists tokens of {machine_id}")
    for token in tokens:
        text = (
            f"The key in CLERK_MACHINE_SECRET_KEY belongs to {token.subject}, but CLERK_MACHINE_ID "
            f"is {machine_id}."
        )
        return Finding("machine key", Status.FAULT, text, remedy)
    return await _compared(service)


async def _compared(service: Service) -> Finding:
    settings = service.settings
    unproven = (
        f"Clerk accepts the key in CLERK_MACHINE_SECRET_KEY and does not refuse it for "
        f"{settings.machine_id}. The machine has no token yet, so this does not prove that the key "
        "is its own."
    )
    if settings.secret_key is None:
        remedy = "Run doctor with CLERK_SECRET_KEY set: then it compares the keys."
        return Finding("machine key", Status.WARNING, unproven, remedy)
    try:
        current = await Machines(service.api).get_secret_key(settings.machine_id)
    except BackendAPIError as exc:
        return Finding(
            "machine key", Status.WARNING, unproven, f"The keys could not be compared: {exc}"
        )
    if current == _key_at_hand(settings):
        return _its_own("it is the machine's current key")
    return Finding(
        "machine key",
        Status.WARNING,
        f"{unproven} It is not the machine's current key: it is an older key that expires soon, or "
        "another machine's.",
        "Set CLERK_MACHINE_SECRET_KEY to the machine's current key.",
    )


def _its_own(why: str) -> Finding:
    text = f"The key in CLERK_MACHINE_SECRET_KEY belongs to CLERK_MACHINE_ID: {why}."
    return Finding("machine key", Status.OK, text)


def _key_at_hand(settings: Settings) -> Secret | None:
    key = settings.machine_secret_key
    if isinstance(key, Path):
        return key_of_file("machine_secret_key", "ak_", key)
    return key if isinstance(key, Secret) else None


def check_clock(service: Service) -> Finding:
    """Compare this host's clock with the `Date` of Clerk's answers."""
    skew = service.server_clock.skew()
    if skew is None:
        why = (
            "Clerk sent no answer with a Date"
            if service.seconds
            else "this service never asks Clerk"
        )
        status = Status.UNKNOWN if service.failure is not None else Status.WARNING
        return Finding("clock", status, f"This host's clock cannot be compared: {why}.")
    if abs(skew) <= LEEWAY + DATE_RESOLUTION:
        return Finding("clock", Status.OK, f"This host's clock is within {LEEWAY:g} s of Clerk's.")
    return Finding(
        "clock",
        Status.FAULT if abs(skew) > MAX_SKEW else Status.WARNING,
        f"This host's clock is {told_skew(skew)}. JWTs are refused as expired or as not valid yet.",
        "Set the clock of this host by NTP.",
    )
