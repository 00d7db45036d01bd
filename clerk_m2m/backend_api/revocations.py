"""What a call has ended, and who wants to hear of it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass

from clerk_m2m.errors import ConfigurationError
from clerk_m2m.secret import Secret

logger = logging.getLogger("clerk_m2m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """What a call of this client has ended, or may have: a credential, a machine, or edges.

    `token` is an OAuth token, of which the client knows the text only.
    """

    token_id: str | None = None
    machine_id: str | None = None
    caller: str | None = None
    token: Secret | None = None


class RevocationListeners:
    """Those that are told of revocations, in the order in which they came."""

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[[Revocation], object]] = {}

    def add(self, listener: Callable[[Revocation], object]) -> Callable[[], None]:
        """Tell `listener` from now on; gives a function that ends this, and may be called again.

        Raises `ConfigurationError` for what is no plain function.
        """
        if not callable(listener):
            raise ConfigurationError("on_revocation takes a function that takes a Revocation.")
        call = getattr(listener, "__call__", None)  # noqa: B004  an object whose `__call__` is async
        if inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(call):
            raise ConfigurationError(
                "on_revocation takes a plain function: nobody would await a coroutine function."
            )
        entry = object()
        self._listeners[entry] = listener

        def remove() -> None:
            self._listeners.pop(entry, None)

        return remove

    def tell(self, revocation: Revocation) -> None:
        """Call every listener; what one of them raises is logged, and the others are told."""
        for listener in list(self._listeners.values()):
            try:
                listener(revocation)
            except Exception as exc:  # noqa: BLE001  the call has ended, whatever a listener raises
                # Neither its text nor its traceback: both may hold what the listener was told.
                logger.error(
                    "A listener of on_revocation failed (%s): what it keeps may be out of date.",
                    type(exc).__name__,
                )
