"""An offline emulator of Clerk's machine-auth Backend API, for tests and local work.

`_app` takes a request off ASGI, finds its operation (`_operations`), checks it against the contract
(`_checks`) and answers it in one transaction of `_store`; each resource has a file for its rows and
one for its operations. `_faults` spoils answers as told. `_scripting` lets tests control it over
HTTP, `_mint` from Python. It imports nothing else of the package, and what is tested against it
imports nothing of it.
"""

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
