"""Fixtures for the test suites of services that use this package; a pytest plugin.

Installing the package is enough: pytest finds the fixtures, whose names all start with `clerk_`.
pytest loads this module at the start of every run, so it imports only pytest; other modules are
imported when a fixture or a name is first used. `emulators` connects a service to an emulator, in
process or on a port. `callers` tests a handler without an emulator: it makes identities, and an app
that receives them. May import the emulator and everything that a service may import; only the demo
and the command line may import this folder.
Sole owner of `pytest`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from clerk_m2m.lazy import lazy_names as _lazy_names

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
    "ClerkEmulator": "clerk_m2m.testing.emulators",
    "ClerkEmulatorServer": "clerk_m2m.testing.emulators",
    "ClerkEnviron": "clerk_m2m.testing.emulators",
    "MachineFactory": "clerk_m2m.testing.factories",
    "ReceivedRequest": "clerk_m2m.testing.emulators",
    "TokenFactory": "clerk_m2m.testing.factories",
    "api_key_identity": "clerk_m2m.testing.callers",
    "as_caller": "clerk_m2m.testing.callers",
    "bearer": "clerk_m2m.testing.factories",
    "machine_identity": "clerk_m2m.testing.callers",
    "oauth_identity": "clerk_m2m.testing.callers",
    "served": "clerk_m2m.testing.emulators",
    "verifier_of": "clerk_m2m.testing.callers",
}


# Without `__dir__`: pytest reads each name of a plugin that it lists, and would import all of them.
__getattr__, _ = _lazy_names(globals(), _LAZY)


@pytest.fixture(scope="session")
def clerk_signing_key() -> str:
    """The RSA key that signs JWTs, as PEM; one per run, because creating a key is slow."""
    from clerk_m2m.emulator import new_signing_key

    return new_signing_key()


@pytest.fixture
def clerk_emulator_options() -> dict[str, Any]:
    """The arguments of `clerk_emulator`; override it, for example with `{"seed": path}`."""
    return {}


@pytest.fixture
def clerk_emulator(
    clerk_signing_key: str, clerk_emulator_options: dict[str, Any]
) -> Iterator[ClerkEmulator]:
    """An empty emulated Clerk instance in process, with methods that connect a service to it."""
    from clerk_m2m.testing.emulators import ClerkEmulator

    emulator = ClerkEmulator(**({"signing_key": clerk_signing_key} | clerk_emulator_options))
    yield emulator
    emulator.close()


@pytest.fixture
def clerk_emulator_server(clerk_emulator: ClerkEmulator) -> Iterator[ClerkEmulatorServer]:
    """The same emulator on a free port of loopback, for code that reads `CLERK_API_URL`.

    The environment is not changed; `environ(machine)` returns the variables to set.
    """
    from clerk_m2m.testing.emulators import serve

    try:
        import uvicorn  # noqa: F401  to check that it is installed
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

    Until the test ends, `Settings.from_env()`, `MachineAuthMiddleware` and `MachineTokenAuth()`
    then act as `billing` and call `clerk_emulator_server`.
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
