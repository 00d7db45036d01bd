"""Limits the number of log lines, so that requests cannot flood the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

logger = logging.getLogger("clerk_m2m")

MAX_KEYS: Final = 1000


@dataclass(slots=True)
class _Line:
    """When the next line of a key may be written (monotonic s), and how many were suppressed."""

    next_at: float
    level: int
    left_out: int = 0


class Lines:
    """Writes at most one line per key within a pause, and counts the suppressed lines.

    The count is written with the next line of the key, or by `flush`. There is no timer. `now`
    returns monotonic seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lines: dict[str, _Line] = {}

    def write(
        self,
        key: str,
        level: int,
        text: Callable[[], str],
        fields: Mapping[str, Any],
        *,
        pause: float,
    ) -> None:
        """Write a line, unless one with the same key was written within `pause` seconds."""
        if not logger.isEnabledFor(level):
            return
        now, line = self._now(), self._lines.get(key)
        if line is not None and now < line.next_at:
            line.left_out += 1
            return
        left_out = 0 if line is None else line.left_out
        if line is None and len(self._lines) >= MAX_KEYS:
            self.flush()
            self._lines.clear()
        self._lines[key] = _Line(now + pause, level)
        more = f" ({left_out} more like the line before were left out.)" if left_out else ""
        _emit(level, f"{text()}{more}", {**fields, "left_out": left_out})

    def flush(self) -> None:
        """Write the counts of suppressed lines that were not written yet."""
        for key, line in list(self._lines.items()):
            if line.left_out:
                left_out, line.left_out = line.left_out, 0
                fields = {"event_name": "left_out", "code": key, "left_out": left_out}
                _emit(line.level, f"{left_out} more lines of {key} were left out.", fields)


def _emit(level: int, text: str, fields: Mapping[str, Any]) -> None:
    logger.log(level, "%s", text, extra=dict(fields))
