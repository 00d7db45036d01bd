"""Factories that create machines and tokens in an emulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from clerk_m2m.emulator import EmulatedApiKey, EmulatedMachine, EmulatedToken
from clerk_m2m.testing.emulators import ClerkEmulator


class MachineFactory:
    """Creates machines; the value of `clerk_machine`."""

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
        """Create a machine that may call the machines of `may_call`; the name is optional."""
        self._made += 1
        return self.emulator.add_machine(
            name or f"machine-{self._made}",
            may_call=may_call,
            id=id,
            default_token_ttl=default_token_ttl,
        )


class TokenFactory:
    """Creates M2M tokens; the value of `clerk_token`."""

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
        """Mint a token of `machine`, or of a new one, after adding its edges to `may_call`."""
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
    """Return the `Authorization` header with a token or an API key."""
    if isinstance(credential, EmulatedApiKey):
        credential = credential.secret
    elif isinstance(credential, EmulatedToken):
        credential = credential.token
    return {"Authorization": f"Bearer {credential}"}
