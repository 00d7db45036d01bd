"""A run: create the machines, do every check, delete everything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import httpx

from clerk_m2m import (
    BackendAPIError,
    BackendUnavailableError,
    KeyRefusedError,
    RateLimitedError,
    TokenInvalidError,
)
from live.calls import Calls, Sleep, open_calls, presentable
from live.checks import CHECKS
from live.finding import Check, Finding, different, unknown
from live.report import Report, Result
from live.stage import PREFIX, Stage, remove

if TYPE_CHECKING:
    from live.options import Options


async def run(
    options: Options,
    report: Report,
    *,
    checks: Sequence[Check] = CHECKS,
    tell: Callable[[str], object] = lambda _line: None,
    transport: httpx.AsyncBaseTransport | None = None,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Run as the options say, and write the results into `report`.

    Calls `tell` with a line for each check. Tests replace the network (`transport`) and `sleep`.
    """
    calls = open_calls(options.api_url, options.secret_key, transport=transport, sleep=sleep)
    report.counts = calls.connection.counts
    try:
        if options.clean:
            report.removed = await remove(calls.clerk, PREFIX, user=options.user)
        else:
            await _check(options, calls, report, checks, tell, sleep)
    finally:
        await calls.aclose()


async def _check(
    options: Options,
    calls: Calls,
    report: Report,
    checks: Sequence[Check],
    tell: Callable[[str], object],
    sleep: Sleep,
) -> None:
    stage = Stage(options, calls, sleep)
    try:
        try:
            await stage.prepare()
        except BackendAPIError as exc:
            report.failure = (
                f"The machines for the checks cannot be created. {presentable(str(exc))}"
            )
            return
        for check in checks:
            finding = await find(check, stage)
            report.results.append(Result(check=check, finding=finding))
            tell(f"{finding.verdict:<18}  {check.name}")
    finally:
        report.removed = await stage.clean_up()


async def find(check: Check, stage: Stage) -> Finding:
    """Run one check. An error becomes a finding: `different` or `unknown`, by its kind."""
    try:
        return await check.run(stage)
    except TokenInvalidError as exc:
        return different(f"the package cannot take the JWT apart: {exc}")
    except BackendUnavailableError as exc:
        if 200 <= stage.calls.connection.last_status < 300:
            return different(f"the package cannot read the answer: {exc}")
        return unknown(str(exc))
    except (KeyRefusedError, RateLimitedError) as exc:
        return unknown(str(exc))
    except BackendAPIError as exc:
        return different(f"refused: {exc}")
    except httpx.HTTPError as exc:
        return unknown(f"no answer ({type(exc).__name__})")
