"""Which callees may have a token minted because they rejected one, and when."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final, TypeAlias

from clerk_m2m.tasks import fork_safe_lock

if TYPE_CHECKING:
    import httpx

Origin: TypeAlias = tuple[str, str, int | None]

# Stands for `MachineTokenAuth.forget()`, which names no callee.
FORGET: Final[Origin] = ("forget", "", None)


def origin_of(url: httpx.URL) -> Origin:
    """Give what makes two addresses the same callee: scheme, host and port."""
    return url.scheme, url.host, url.port


def shown(origin: Origin) -> str:
    """Write an origin as in an address; without user name, path and query, which may be secret."""
    scheme, host, port = origin
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" if port is None else f"{scheme}://{host}:{port}"


class Rejections:
    """Bounds the mints that callees cause; each costs money.

    A callee that rejects new tokens too has nothing against the token: its pause doubles each time,
    from `PAUSE` to `MAX_PAUSE` seconds. It begins again at `PAUSE` after the callee has accepted a
    new token in the place of a rejected one, or has caused no mint for `RESET` seconds.
    """

    PAUSE: Final = 10.0
    MAX_PAUSE: Final = 600.0
    RESET: Final = 1200.0
    MAX_ORIGINS: Final = 1000

    def __init__(self) -> None:
        self._lock = fork_safe_lock()
        self._last = -inf
        self._by_origin: dict[Origin, tuple[float, float]] = {}

    def may_mint(self, origin: Origin, now: float) -> bool:
        """Tell whether a rejection there may have a token minted now; if so, it is counted."""
        with self._lock:
            minted_at, pause = self._by_origin.get(origin, (-inf, 0.0))
            if now < max(minted_at + pause, self._last + self.PAUSE):
                return False
            if now >= minted_at + self.RESET:
                pause = 0.0
            if len(self._by_origin) >= self.MAX_ORIGINS and origin not in self._by_origin:
                self._by_origin.clear()
            self._by_origin[origin] = now, min(max(2 * pause, self.PAUSE), self.MAX_PAUSE)
            self._last = now
            return True

    def accepted(self, origin: Origin) -> None:
        """Note that a new token was not rejected there."""
        self._by_origin.pop(origin, None)
