"""The classes of `httpx` and, if it is installed, of `httpx2` that `auth` needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import httpx

__all__ = ["BODIES_IN_MEMORY", "Httpx2Auth"]

if TYPE_CHECKING:
    from httpx2 import Auth as Httpx2Auth
    from httpx2 import ByteStream as Httpx2ByteStream
else:
    try:
        from httpx2 import Auth as Httpx2Auth
        from httpx2 import ByteStream as Httpx2ByteStream
    except ImportError:

        class Httpx2Auth:
            """Replaces the class of httpx2 if httpx2 is not installed."""

        Httpx2ByteStream = httpx.ByteStream

# The classes of a body in memory, which can be sent a second time.
BODIES_IN_MEMORY: Final = (httpx.ByteStream, Httpx2ByteStream)
