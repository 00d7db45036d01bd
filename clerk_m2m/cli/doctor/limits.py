"""Compares the calls of all workers together with the rate limit of the Clerk instance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from clerk_m2m.cli.doctor.findings import Finding, Status
from clerk_m2m.settings import Settings
from clerk_m2m.transport.admission import LEAST_RATE, START_RATE

# Clerk's rate limit, in requests within `WINDOW` seconds.
PRODUCTION: Final = 1_000
DEVELOPMENT: Final = 100
WINDOW: Final = 10

_CHECK: Final = "admission"


def check_admission(settings: Settings, workers: int, *, live: bool) -> Iterator[Finding]:
    """Compare `max_inflight` and `unknown_rate` of all workers with the instance's limit."""
    limit = PRODUCTION if live else DEVELOPMENT
    of = f"{limit:,} requests in {WINDOW} s of a {'production' if live else 'development'} instance"
    found = [*_rate(settings, workers, limit / WINDOW, of), *_burst(settings, workers, limit, of)]
    yield from found
    if not found:
        many = "1 worker stays" if workers == 1 else f"{workers} workers stay"
        yield Finding(_CHECK, Status.OK, f"{many} within the {of}.")


def _rate(settings: Settings, workers: int, limit: float, of: str) -> Iterator[Finding]:
    given = settings.unknown_rate
    if given is None:
        if workers * LEAST_RATE > limit:
            text = (
                f"Even the lowest rate of calls for unknown tokens, {LEAST_RATE:g}/s in each of "
                f"{workers} workers, exceeds the {of}."
            )
            yield Finding(_CHECK, Status.FAULT, text, _slower(workers, limit))
        elif workers * START_RATE > limit:
            text = (
                f"{workers} x {START_RATE:g} unknown tokens a second exceed the {of}. Each worker "
                "starts with this rate if CLERK_M2M_UNKNOWN_RATE is not set, and lowers it after a "
                "429. Until then, a flood of unknown tokens can cause 429s for known callers too."
            )
            yield Finding(_CHECK, Status.WARNING, text, _slower(workers, limit))
    elif workers * given > limit:
        text = (
            f"{workers} x {given:g} unknown tokens a second (CLERK_M2M_UNKNOWN_RATE) exceed the "
            f"{of}. A flood of unknown tokens can cause 429s for known callers too."
        )
        yield Finding(_CHECK, Status.WARNING, text, _slower(workers, limit))


def _slower(workers: int, limit: float) -> str:
    # Half of the limit is left for refreshes of known tokens and for the graph.
    return f"Set CLERK_M2M_UNKNOWN_RATE to {limit / 2 / workers:.3g} or less."


def _burst(settings: Settings, workers: int, limit: int, of: str) -> Iterator[Finding]:
    slots = workers * settings.max_inflight
    if slots > limit:
        text = (
            f"{workers} x {settings.max_inflight} calls at once (CLERK_M2M_MAX_INFLIGHT) exceed "
            f"the {of}."
        )
        remedy = f"Set CLERK_M2M_MAX_INFLIGHT to {max(2, limit // workers)} or less."
        yield Finding(_CHECK, Status.WARNING, text, remedy)
