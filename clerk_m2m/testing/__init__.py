"""Fixtures for the test suites of services that use this package; a pytest plugin.

Installing the package is enough: pytest finds the fixtures by itself, all named `clerk_…`. pytest
loads this module at the start of every run, so it imports nothing but pytest; the rest comes when
a fixture or a name is first used. `emulators` connects a service to an emulator, in process or on a
port. `callers` tests a handler without one: identities made by hand, and an app that sees them. May
import the emulator and whatever a service may; only the demo and the command line stand above it.
Sole owner of `pytest`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

try:
    import pytest
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "clerk_m2m.testing needs pytest: pip install 'clerk-m2m[testing]'", name="pytest"
    ) from exc

if TYPE_CHECKING:
    from clerk_m2m.testing.callers import (
        api_key_identity,
        as_caller,
        machine_identity,
        oauth_identity,
        verifier_of,
    )
    from clerk_m2m.testing.emulators import (
        ClerkEmulator,
        ClerkEmulatorServer,
        ClerkEnviron,
        ReceivedRequest,
        served,
    )
    from clerk_m2m.testing.factories import MachineFactory, TokenFactory, bearer

__all__ = [
    "ClerkEmulator",
    "ClerkEmulatorServer",
    "ClerkEnviron",
    "MachineFactory",
    "ReceivedRequest",
    "TokenFactory",
    "api_key_identity",
    "as_caller",
    "bearer",
    "clerk_emulator",
    "clerk_emulator_options",
    "clerk_emulator_server",
    "clerk_environ",
    "clerk_machine",
    "clerk_signing_key",
    "clerk_token",
    "machine_identity",
    "oauth_identity",
    "served",
    "verifier_of",
]

_LAZY: Final = {
    "ClerkEmulator": "emulators",
    "ClerkEmulatorServer": "emulators",
    "ClerkEnviron": "emulators",
    "MachineFactory": "factories",
    "ReceivedRequest": "emulators",
    "TokenFactory": "factories",
    "api_key_identity": "callers",
    "as_caller": "callers",
    "bearer": "factories",
    "machine_identity": "callers",
    "oauth_identity": "callers",
    "served": "emulators",
    "verifier_of": "callers",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


@pytest.fixture(scope="session")
def clerk_signing_key() -> str:
    """The RSA key that signs JWTs, as PEM; one for the whole run, since making one takes long."""
    from clerk_m2m.emulator import new_signing_key

    return new_signing_key()


@pytest.fixture
def clerk_emulator_options() -> dict[str, Any]:
    """What `clerk_emulator` is made with; override it, for instance with `{"seed": path}`."""
    return {}


@pytest.fixture
def clerk_emulator(
    clerk_signing_key: str, clerk_emulator_options: dict[str, Any]
) -> Iterator[ClerkEmulator]:
    """An emulated Clerk instance in process, empty, and what connects a service to it."""
    from clerk_m2m.testing.emulators import ClerkEmulator

    emulator = ClerkEmulator(**({"signing_key": clerk_signing_key} | clerk_emulator_options))
    yield emulator
    emulator.close()


@pytest.fixture
def clerk_emulator_server(clerk_emulator: ClerkEmulator) -> Iterator[ClerkEmulatorServer]:
    """The same emulator on a free port of loopback, for code that is given `CLERK_API_URL`.

    Nothing is set in the environment; `environ(machine)` says what to set.
    """
    from clerk_m2m.testing.emulators import serve

    try:
        import uvicorn  # noqa: F401  only whether it is there
    except ImportError:
        pytest.fail(
            "clerk_emulator_server needs uvicorn: pip install 'clerk-m2m[cli]'", pytrace=False
        )
    with serve(clerk_emulator) as server:
        yield server


@pytest.fixture
def clerk_environ(
    clerk_emulator_server: ClerkEmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> ClerkEnviron:
    """Sets the environment for code that reads it: `clerk_environ(billing)`.

    `Settings.from_env()`, `MachineAuthMiddleware` and `MachineTokenAuth()` then are those of
    `billing` and call `clerk_emulator_server`, until the test ends.
    """
    from clerk_m2m.testing.emulators import ClerkEnviron

    return ClerkEnviron(clerk_emulator_server, monkeypatch.setenv)


@pytest.fixture
def clerk_machine(clerk_emulator: ClerkEmulator) -> MachineFactory:
    """Makes machines in `clerk_emulator`: `clerk_machine("billing", may_call=[orders])`."""
    from clerk_m2m.testing.factories import MachineFactory

    return MachineFactory(clerk_emulator)


@pytest.fixture
def clerk_token(clerk_machine: MachineFactory) -> TokenFactory:
    """Makes M2M tokens in `clerk_emulator`: `clerk_token(billing)`."""
    from clerk_m2m.testing.factories import TokenFactory

    return TokenFactory(clerk_machine)
