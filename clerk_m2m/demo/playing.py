"""`play`: starts everything, runs the scenes, and stops everything."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from clerk_m2m.demo.calls import open_calls
from clerk_m2m.demo.report import Report
from clerk_m2m.demo.runner import StepRunner
from clerk_m2m.demo.screen import open_screen
from clerk_m2m.demo.services import open_company
from clerk_m2m.demo.story import tell_story


async def play(*, as_json: bool) -> Report:
    """Run all scenes and print them; return the report."""
    report = Report()
    with _quiet(), _no_proxy(), open_screen(as_json=as_json) as screen:
        async with open_company() as company:
            screen.introduce(company.introduction())
            async with open_calls() as calls:
                await tell_story(StepRunner(company, calls, report, screen))
        screen.conclude(report)
    return report


@contextmanager
def _quiet() -> Iterator[None]:
    """Turn off log lines about refusals: the table shows them, and log lines would disturb it."""
    ours, silence = logging.getLogger("clerk_m2m"), logging.NullHandler()
    servers = logging.getLogger("uvicorn.error")
    ours.addHandler(silence)
    servers.addFilter(_is_news)
    try:
        yield
    finally:
        servers.removeFilter(_is_news)
        ours.removeHandler(silence)


def _is_news(record: logging.LogRecord) -> bool:
    # uvicorn logs this for every WebSocket that is refused with a denial response.
    return "without completing handshake" not in record.getMessage()


@contextmanager
def _no_proxy() -> Iterator[None]:
    """Ignore proxies of the environment, because every call stays on this machine."""
    before = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    os.environ.update(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
