"""A scope graph in a TOML file, which is read again when the file changes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clerk_m2m.clock import Clock
from clerk_m2m.errors import (
    BackendUnavailableError,
    ConfigurationError,
)
from clerk_m2m.graph.scope_graph import ScopeGraph
from clerk_m2m.observe.reporter import Reporter


@dataclass(frozen=True, slots=True)
class _Stamp:
    """The attributes that change when a file is written or replaced; instants are nanoseconds."""

    modified_at: int
    changed_at: int
    size: int
    inode: int


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A changed file that is looked at a second time at `due_at` (monotonic seconds)."""

    stamp: _Stamp
    due_at: float


class FileSource:
    """A graph in a TOML file, read at construction and again when the file changes.

    The file is looked at (with `stat`) at most once per `ttl` seconds. If a changed file cannot be
    read, an error is logged and the last good graph is used for `max_stale` seconds.

    A partly written file can be valid TOML with edges missing. So a change that is younger than
    `SETTLED_AGE` replaces the graph only if the file is unchanged at a second look, at least
    `SECOND_LOOK` later. Until then the last good graph is used. A later request does the second
    look; there is no timer.
    """

    SETTLED_AGE: Final = 1.0
    SECOND_LOOK: Final = 0.1

    def __init__(
        self,
        path: Path,
        *,
        ttl: float,
        max_stale: float,
        clock: Clock,
        reporter: Reporter | None = None,
    ) -> None:
        self._path = path
        self._ttl = ttl
        self._max_stale = max_stale
        self._now = clock.monotonic
        self._reporter = reporter or Reporter(clock)
        self._wall = clock.wall
        self._stamp = self._stamp_now()
        self._graph = self._read()
        self._good_at = now = self._now()
        self._candidate: _Candidate | None = None
        self._failing = False
        # There is no earlier graph to use until a second look, so this one is used. If the file may
        # be partly written, it is looked at again after SECOND_LOOK instead of `ttl`.
        settled = self._is_settled(self._stamp_now())
        self._look_at = now + (ttl if settled else min(ttl, self.SECOND_LOOK))

    @property
    def machines(self) -> frozenset[str]:
        """The machines of the file as it was read last."""
        return self._graph.machines

    def allows(self, caller: str, callee: str) -> bool | None:
        """Return whether the file has the edge; None if it has been unreadable for too long."""
        now = self._now()
        if now >= self._look_at:
            self._look_at = now + self._ttl
            self._look(now)
        if now - self._good_at > self._ttl + self._max_stale:
            return None
        return self._graph.allows(caller, callee)

    async def fetch(self, caller: str, callee: str, *, timeout: float) -> bool:
        """Raise `BackendUnavailableError`, because the file has been unreadable for too long."""
        raise BackendUnavailableError(
            f"The scope graph {self._path.name} has been unreadable for too long."
        )

    def forget(self, caller: str) -> None:
        """Look at the file again before the next decision."""
        self._look_at = self._now()

    def age(self) -> float | None:
        """Return the seconds since the file was last found good."""
        return self._now() - self._good_at

    def _look(self, now: float) -> None:
        try:
            unsettled = self._follow(now)
        except ConfigurationError as exc:
            self._candidate, self._failing = None, True
            self._reporter.fetch_failed(
                "scope graph",
                exc,
                level=logging.ERROR,
                text="The scope graph cannot be read, so the last one is used:",
            )
            return
        if unsettled is None:
            if self._failing:
                self._reporter.fetched("scope graph")
            self._candidate, self._failing = None, False
            self._good_at = now
        else:
            self._wait(unsettled, now)

    def _follow(self, now: float) -> _Stamp | None:
        """Read the file if it has changed; return the stamp if it needs a second look first."""
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return None
        if not (self._is_settled(stamp) or self._is_seen_again(stamp, now)):
            return stamp
        graph = self._read_unless_written_to(stamp)
        if graph is None:
            return self._stamp_now()
        self._graph, self._stamp = graph, stamp
        if not self._failing:
            self._reporter.fetched("scope graph")
        return None

    def _is_settled(self, stamp: _Stamp) -> bool:
        # A file with a time in the future (from another host's clock) needs a second look.
        return self._wall() - stamp.modified_at / 1e9 >= self.SETTLED_AGE

    def _is_seen_again(self, stamp: _Stamp, now: float) -> bool:
        candidate = self._candidate
        return candidate is not None and candidate.stamp == stamp and now >= candidate.due_at

    def _wait(self, stamp: _Stamp, now: float) -> None:
        """Keep the graph until a second look at `stamp`."""
        candidate = self._candidate
        if candidate is None and not self._failing:
            self._good_at = now  # the wait for the second look does not count as unreadable
        if candidate is None or candidate.stamp != stamp:
            candidate = _Candidate(stamp, now + self.SECOND_LOOK)
        self._candidate = candidate
        self._look_at = candidate.due_at

    def _read_unless_written_to(self, stamp: _Stamp) -> ScopeGraph | None:
        """Read the file; return None if it was written to after `stamp` was taken."""
        try:
            graph = self._read()
        except ConfigurationError:
            if self._stamp_now() == stamp:
                raise
            return None
        return graph if self._stamp_now() == stamp else None

    def _read(self) -> ScopeGraph:
        try:
            return ScopeGraph.from_toml(self._path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as exc:
            fault = self._unreadable(exc)
        except ConfigurationError as exc:
            fault = ConfigurationError(f"{self._path}: {exc}")
        # Raised outside of `except`, so not chained: the original error may quote the file.
        raise fault

    def _stamp_now(self) -> _Stamp:
        try:
            found = self._path.stat()
        except OSError as exc:
            raise self._unreadable(exc) from exc
        return _Stamp(found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)

    def _unreadable(self, exc: Exception) -> ConfigurationError:
        return ConfigurationError(f"The scope graph {self._path} cannot be read: {exc}")
