"""A check, what it assumes of Clerk, and its result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from live.stage import Stage


class Verdict(StrEnum):
    """The result of a check."""

    AS_ASSUMED = "as assumed"
    DIFFERENT = "different"
    UNKNOWN = "could not find out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The verdict of a check, and a text about what was seen.

    `lacking` marks a check that was not tried, because an option was not given or the instance does
    not have what it needs. It does not make the run fail.
    """

    verdict: Verdict
    seen: str
    lacking: bool = False


Run: TypeAlias = "Callable[[Stage], Awaitable[Finding]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. `where`: the files of this repository that rely on `assumed`."""

    name: str
    assumed: str
    where: tuple[str, ...]
    run: Run


def check(name: str, *, assumed: str, where: str | tuple[str, ...]) -> Callable[[Run], Check]:
    """Decorate a function as a check."""
    files = (where,) if isinstance(where, str) else where

    def make(run: Run) -> Check:
        return Check(name=name, assumed=assumed, where=files, run=run)

    return make


def compare(as_assumed: bool, seen: str) -> Finding:
    """Return the finding of a check that got its answer."""
    verdict = Verdict.AS_ASSUMED if as_assumed else Verdict.DIFFERENT
    return Finding(verdict=verdict, seen=seen)


def different(seen: str) -> Finding:
    """Return the finding that Clerk behaves otherwise."""
    return Finding(verdict=Verdict.DIFFERENT, seen=seen)


def unknown(why: str) -> Finding:
    """Return the finding of a check that was tried and got no usable answer."""
    return Finding(verdict=Verdict.UNKNOWN, seen=why)


def lacking(why: str) -> Finding:
    """Return the finding of a check that was not tried; `why` says what it needs."""
    return Finding(verdict=Verdict.UNKNOWN, seen=why, lacking=True)
