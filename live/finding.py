"""A check, what it assumes of Clerk, and what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from live.stage import Stage


class Verdict(StrEnum):
    """What a check came to."""

    AS_ASSUMED = "as assumed"
    DIFFERENT = "different"
    UNKNOWN = "could not find out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The verdict of a check, and what was seen, in words.

    `lacking` marks a check that was not tried, because an option was not given or the instance does
    not have what it needs: that is no failure of the run.
    """

    verdict: Verdict
    seen: str
    lacking: bool = False


Run: TypeAlias = "Callable[[Stage], Awaitable[Finding]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question to Clerk. `where` are the files that rest on `assumed`."""

    name: str
    assumed: str
    where: tuple[str, ...]
    run: Run


def check(name: str, *, assumed: str, where: str | tuple[str, ...]) -> Callable[[Run], Check]:
    """Make a check of the function below."""
    files = (where,) if isinstance(where, str) else where

    def make(run: Run) -> Check:
        return Check(name=name, assumed=assumed, where=files, run=run)

    return make


def compare(as_assumed: bool, seen: str) -> Finding:
    """Give the finding of a check that was answered."""
    verdict = Verdict.AS_ASSUMED if as_assumed else Verdict.DIFFERENT
    return Finding(verdict=verdict, seen=seen)


def different(seen: str) -> Finding:
    """Give the finding that Clerk does otherwise."""
    return Finding(verdict=Verdict.DIFFERENT, seen=seen)


def unknown(why: str) -> Finding:
    """Give the finding of a check that was tried and could not be answered."""
    return Finding(verdict=Verdict.UNKNOWN, seen=why)


def lacking(why: str) -> Finding:
    """Give the finding of a check that could not be tried; `why` says what would allow it."""
    return Finding(verdict=Verdict.UNKNOWN, seen=why, lacking=True)
