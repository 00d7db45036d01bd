"""An offline emulator of Clerk's machine-auth Backend API, for tests and local work.

`app` reads a request from ASGI, finds its operation (`operations`), checks it against the contract
(`checks`) and answers it in one transaction of `store`. Each resource has a file for its rows and
one for its operations. `credentials` is what the three kinds of credential share, and `instance`
what all operations work on. `faults` makes calls fail as scripted. `scripting` lets tests
control the emulator over HTTP, and `python_api` from Python. May import nothing else of the
package: the product is tested against it, so it must not share its mistakes. The product imports
nothing of it.
Users import what `__all__` lists; the test kit also the operations of `app`.
"""

from clerk_m2m.emulator.emulator import Emulator
from clerk_m2m.emulator.faults import ConnectionDroppedError, Fault
from clerk_m2m.emulator.python_api import EmulatedApiKey, EmulatedMachine, EmulatedToken
from clerk_m2m.emulator.seed import SeedError
from clerk_m2m.emulator.signing import new_signing_key

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
