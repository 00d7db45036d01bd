"""Limits how often a callee that rejects tokens may cause a new mint."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final, TypeAlias

from clerk_m2m.tasks import fork_safe_lock

if TYPE_CHECKING:
    import httpx

Origin: TypeAlias = tuple[str, str, int | None]

# The key for `MachineTokenAuth.forget()`, which names no callee.
FORGET: Final[Origin] = ("forget", "", None)


def origin_of(url: httpx.URL) -> Origin:
    """Return the scheme, host and port of a URL: URLs that agree in them are the same callee."""
    return url.scheme, url.host, url.port


def shown(origin: Origin) -> str:
    """Return an origin as text: no user name, path or query, since these may be secret."""
    scheme, host, port = origin
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" if port is None else f"{scheme}://{host}:{port}"


class Rejections:
    """Limits the mints that callees cause, because each mint costs money.

    If a callee also rejects the new token, the token is not the problem. The pause before the next
    mint for that callee doubles each time, from `PAUSE` to `MAX_PAUSE` seconds. It starts again at
    `PAUSE` after the callee has accepted the new token, or has caused no mint for `RESET` seconds.
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
        """Return whether a rejection by `origin` may cause a mint now; if True, count the mint."""
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
        """Reset the pause of `origin`, because it accepted a new token."""
        self._by_origin.pop(origin, None)
