"""Pauses during which a key that Clerk refused is not sent again."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from clerk_m2m.errors import KeyRefusedError
from clerk_m2m.secret import Secret
from clerk_m2m.tasks import fork_safe_lock

PAUSE: Final = 1.0
MAX_PAUSE: Final = 30.0
# After a pause one call tries the key again; others wait this long for its result, in seconds.
PROBE: Final = 1.0


@dataclass(slots=True, kw_only=True)
class _Pause:
    """A pause of `seconds` until `until`, after a refusal at `refused_at` (monotonic seconds)."""

    refusal: KeyRefusedError
    seconds: float
    refused_at: float
    until: float


class KeyPauses:
    """The pauses of each operation with each key; `now` returns monotonic seconds.

    A pause is 1 s after the first refusal and doubles with each further one, up to 30 s, until
    Clerk accepts the key. There is one pause per operation, because a 403 may mean that only this
    operation is not allowed with the key. Event loops and threads may share the object.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = fork_safe_lock()
        self._pauses: dict[tuple[str, Secret], _Pause] = {}

    def left(self, operation: str, key: Secret) -> float:
        """Return the remaining seconds of the key's pause; 0 if it may be sent."""
        pause = self._pauses.get((operation, key))
        return 0.0 if pause is None else max(0.0, pause.until - self._now())

    def admits(self, operation: str, key: Secret) -> bool:
        """Return whether the key may be sent now. After a pause, only one call at first may."""
        if (operation, key) not in self._pauses:
            return True
        with self._lock:
            pause, now = self._pauses.get((operation, key)), self._now()
            if pause is None:
                return True
            if now < pause.until:
                return False
            pause.until = now + PROBE
            return True

    def refused(
        self, operation: str, key: Secret, refusal: KeyRefusedError, *, sent_at: float
    ) -> None:
        """Begin or double a pause, unless the call was sent before the last refusal."""
        with self._lock:
            pause, now = self._pauses.get((operation, key)), self._now()
            if pause is not None and sent_at <= pause.refused_at:
                return
            seconds = PAUSE if pause is None else min(2 * pause.seconds, MAX_PAUSE)
            self._pauses[operation, key] = _Pause(
                refusal=_copy(refusal, retry_after=seconds),
                seconds=seconds,
                refused_at=now,
                until=now + seconds,
            )

    def end(self, operation: str, key: Secret) -> None:
        """End the pause, because Clerk accepted the key."""
        self._pauses.pop((operation, key), None)

    def keep_only(self, keys: Collection[Secret]) -> None:
        """Delete the pauses of all other keys."""
        with self._lock:
            self._pauses = {use: pause for use, pause in self._pauses.items() if use[1] in keys}

    def refusal(self, operation: str, keys: Collection[Secret]) -> KeyRefusedError | None:
        """Return a copy of Clerk's refusal whose `retry_after` is the shortest remaining pause.

        None if no key is in a pause.
        """
        pauses = [self._pauses.get((operation, key)) for key in keys]
        first = min((each for each in pauses if each), key=lambda each: each.until, default=None)
        if first is None:
            return None
        return _copy(first.refusal, retry_after=max(0.0, first.until - self._now()))


def _copy(refusal: KeyRefusedError, *, retry_after: float) -> KeyRefusedError:
    # A copy, because a raised error refers to its frames, and through them to an event loop.
    return KeyRefusedError(
        str(refusal),
        status=refusal.status,
        errors=refusal.errors,
        clerk_trace_id=refusal.clerk_trace_id,
        retry_after=retry_after,
    )
