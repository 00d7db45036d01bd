"""`clerk-m2m doctor`: the checks, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

import typer

from clerk_m2m.cli.doctor import local, remote, sources
from clerk_m2m.cli.doctor.findings import Finding, Status, exit_code
from clerk_m2m.cli.doctor.fleet import check_fleet
from clerk_m2m.cli.doctor.limits import check_admission
from clerk_m2m.cli.instance import is_test_key
from clerk_m2m.cli.program import AsJson, print_json, print_lines
from clerk_m2m.clock import Clock
from clerk_m2m.errors import ConfigurationError
from clerk_m2m.settings import Settings


def doctor(
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, help="How many processes serve, on all hosts together."),
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Check the settings that a service in this environment would use, one by one.

    Exits with 1 if there is a fault, with 2 if a check could not get a result, otherwise with 0.
    Costs nothing: no credential is verified.
    """
    findings = asyncio.run(_examined(workers))
    if as_json:
        print_json({"checks": [each.as_json() for each in findings]})
    else:
        print_lines(_lines(findings))
    raise typer.Exit(exit_code(findings))


async def _examined(workers: int) -> list[Finding]:
    return [each async for each in examine(workers)]


async def examine(workers: int) -> AsyncIterator[Finding]:
    """Yield the findings of each check; a check that needs another's result comes after it."""
    keys = list(local.check_keys())
    for finding in (*keys, *local.check_variables()):
        yield finding
    if any(each.status is Status.FAULT for each in keys):
        return  # the settings are refused for the same reason
    clock = Clock()
    try:
        settings = Settings.from_env()
        service = remote.Service.of(settings, clock)
    except ConfigurationError as exc:
        remedy = "The service does not start. Correct the setting, and run doctor again."
        yield Finding("settings", Status.FAULT, str(exc), remedy)
        return
    text = f"The settings are complete; this service is {settings.machine_id}."
    yield Finding("settings", Status.OK, text)
    async for finding in _ask_clerk(service, clock):
        yield finding
    for finding in local.check_accepted(settings):
        yield finding
    if settings.fleet is not None:
        async for finding in check_fleet(settings.fleet):
            yield finding
    live = not is_test_key(settings.secret_key)
    for finding in check_admission(settings, workers, live=live):
        yield finding


async def _ask_clerk(service: remote.Service, clock: Clock) -> AsyncIterator[Finding]:
    try:
        yield await remote.check_clerk(service)
        async for finding in remote.check_machine(service):
            yield finding
        yield remote.check_clock(service)
        yield await sources.check_graph(service, clock)
        yield await sources.check_key_set(service)
    finally:
        await service.api.aclose()


def _lines(findings: Sequence[Finding]) -> list[str]:
    width = max(len(each.check) for each in findings)
    lines = []
    for each in findings:
        lines.append(f"{each.status.value:8} {each.check:{width}}  {each.text}")
        if each.remedy:
            lines.append(f"{'':8} {'':{width}}  -> {each.remedy}")
    return lines
