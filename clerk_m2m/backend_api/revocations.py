"""Notifies listeners of revocations and deletions."""

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
    """A revocation, deletion or edge change by a call of this client (possible, if it failed).

    `token_id` is a token or API key. `machine_id` is a deleted machine. `caller` is a machine whose
    edges changed. `token` is an OAuth token, of which the client knows only the text.
    """

    token_id: str | None = None
    machine_id: str | None = None
    caller: str | None = None
    token: Secret | None = None


class RevocationListeners:
    """The listeners for revocations, in the order in which they were added."""

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[[Revocation], object]] = {}

    def add(self, listener: Callable[[Revocation], object]) -> Callable[[], None]:
        """Add a listener; return a function that removes it and may be called more than once.

        Raises `ConfigurationError` for anything but a plain function.
        """
        if not callable(listener):
            raise ConfigurationError("on_revocation needs a function that accepts a Revocation.")
        call = getattr(listener, "__call__", None)  # noqa: B004  an object whose `__call__` is async
        if inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(call):
            raise ConfigurationError(
                "on_revocation needs a plain function: a coroutine function would not be awaited."
            )
        entry = object()
        self._listeners[entry] = listener

        def remove() -> None:
            self._listeners.pop(entry, None)

        return remove

    def tell(self, revocation: Revocation) -> None:
        """Call every listener. If one raises, log that and call the others."""
        for listener in list(self._listeners.values()):
            try:
                listener(revocation)
            except Exception as exc:  # noqa: BLE001  the call has ended, whatever a listener raises
                # Log neither text nor traceback: both may contain the token of the revocation.
                logger.error(
                    "A listener of on_revocation failed (%s): it may keep revoked credentials.",
                    type(exc).__name__,
                )
