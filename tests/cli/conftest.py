"""A served emulator with three machines, and commands that run in the environment of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from canaries import WINDOW
from commands import Ended, run_command

from clerk_m2m.emulator import EmulatedMachine
from clerk_m2m.testing import ClerkEmulator, ClerkEmulatorServer
from clerk_m2m.testing.emulators import serve
from harness import SIGNING_KEY


@dataclass
class Shop:
    """`billing` may call `orders`; `audit` has no edges. The environment is that of `orders`.

    No run may print a secret or part of one, unless the test requested it.
    """

    emulator: ClerkEmulator
    orders: EmulatedMachine
    billing: EmulatedMachine
    audit: EmulatedMachine
    environ: dict[str, str]
    secrets: list[str] = field(default_factory=list)

    def run(self, *arguments: object, stdin: str = "", **environ: str) -> Ended:
        """Run a command in process; the standard input counts as a secret, too."""
        if stdin:
            self.secrets += [word for word in stdin.split() if len(word) > WINDOW + 3]
        ended = run_command(*arguments, stdin=stdin, environ=self.environ | environ)
        self.assert_silent(ended.err if "--show-secret" in arguments else ended.out + ended.err)
        return ended

    def assert_silent(self, text: str) -> None:
        """Fail if a part of a secret is in the text."""
        for secret in self.secrets:
            for start in range(3, len(secret) - WINDOW + 1):
                assert secret[start : start + WINDOW] not in text, "a secret leaked"

    def token(self, machine: EmulatedMachine | None = None, **given: Any) -> str:
        """Mint a token of billing's, or of another machine's."""
        return self.emulator.mint_m2m_token(machine or self.billing, **given).token


@pytest.fixture(scope="session")
def shop_server() -> Iterator[ClerkEmulatorServer]:
    """One served emulator for all shops: starting and stopping one takes 0.1 s."""
    emulator = ClerkEmulator(signing_key=SIGNING_KEY)
    with serve(emulator) as server:
        yield server
    emulator.close()


@pytest.fixture
def shop(shop_server: ClerkEmulatorServer) -> Shop:
    """A new shop; its environment has the keys of orders and of the instance."""
    emulator = shop_server.emulator
    emulator.reset()
    orders = emulator.add_machine("orders")
    billing = emulator.add_machine("billing", may_call=[orders])
    audit = emulator.add_machine("audit")
    environ = shop_server.environ(orders, instance_key=True) | {"CLERK_M2M_UNKNOWN_RATE": "4"}
    keys = [machine.secret_key for machine in (orders, billing, audit)]
    return Shop(emulator, orders, billing, audit, environ, [*keys, emulator.secret_key])
