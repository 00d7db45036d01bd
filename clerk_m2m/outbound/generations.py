"""What differs between the generations of httpx: `httpx`, and `httpx2` where it is installed."""

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
            """Stands for the class of httpx2 where that is not installed."""

        Httpx2ByteStream = httpx.ByteStream

# A body in memory, which is there a second time.
BODIES_IN_MEMORY: Final = (httpx.ByteStream, Httpx2ByteStream)
