"""An offline emulator of Clerk's machine-auth Backend API, for tests and local work."""

from ._emulator import Emulator
from ._faults import ConnectionDroppedError, Fault
from ._mint import EmulatedApiKey, EmulatedMachine, EmulatedToken
from ._seed import SeedError
from ._signing import new_signing_key

__all__ = [
    "ConnectionDroppedError",
    "EmulatedApiKey",
    "EmulatedMachine",
    "EmulatedToken",
    "Emulator",
    "Fault",
    "SeedError",
    "new_signing_key",
]
