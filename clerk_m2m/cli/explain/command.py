"""`clerk-m2m explain`: its input, its output and its exit codes."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.cli.explain.deciding import decide_on
from clerk_m2m.cli.explain.diagnosis import diagnose
from clerk_m2m.cli.explain.steps import Decided, Diagnosis, as_json, steps_of
from clerk_m2m.cli.explain.token_id import check_id, decide_on_found, find_by_id
from clerk_m2m.cli.graph.check import find_machine
from clerk_m2m.cli.instance import TIMEOUT, ApiUrl, Instance
from clerk_m2m.cli.program import FAILED, NO, AsJson, CommandError, print_json, print_lines
from clerk_m2m.cli.secret_text import read_secret
from clerk_m2m.environment import key_from_env, machine_id_from_env
from clerk_m2m.identity import MACHINE_ID
from clerk_m2m.secret import Secret
from clerk_m2m.settings import Settings


def explain(
    callee: Annotated[
        str | None,
        typer.Option(
            "--callee", metavar="NAME|ID", help="The machine that is called; else CLERK_MACHINE_ID."
        ),
    ] = None,
    token_id: Annotated[
        str | None,
        typer.Option("--token-id", metavar="ID", help="Look this one up instead: mt_… or ak_…."),
    ] = None,
    caller: Annotated[
        str | None,
        typer.Option(
            "--caller",
            metavar="NAME|ID",
            help="The machine whose --token-id it is; saves one call per machine.",
        ),
    ] = None,
    api_url: ApiUrl = None,
    as_json_: AsJson = False,
) -> None:
    """Explain why a service accepts or refuses the credential on standard input.

    Reads a token, an `Authorization` header, or all headers of a request, and decides with the
    settings of this environment, as the middleware does. Exits with 0 if it would be accepted, with
    1 if refused, with 2 if that could not be decided. Clerk charges for up to two verifications.
    """
    if caller is not None and token_id is None:
        raise CommandError(
            "--caller needs --token-id: a credential on stdin names its holder itself."
        )
    if token_id is None:
        # Read before the event loop runs, because Ctrl-C would not interrupt the read inside it.
        explained = _explain_credential(callee, api_url, read_secret("credential"))
    else:
        explained = _explain_id(callee, api_url, check_id(token_id), caller, shown=not as_json_)
    decided, diagnosis = asyncio.run(explained)
    if as_json_:
        print_json(as_json(decided, diagnosis))
    else:
        print_lines(_lines(decided, diagnosis))
    raise typer.Exit({True: 0, False: NO, None: FAILED}[decided.admitted])


async def _explain_credential(
    callee: str | None, api_url: str | None, presented: Secret
) -> tuple[Decided, Diagnosis]:
    settings = await _settings(callee, api_url)
    async with _client(settings) as clerk:
        decided = await decide_on(settings, presented)
        return decided, await diagnose(decided, settings, clerk)


async def _explain_id(
    callee: str | None, api_url: str | None, token_id: str, caller: str | None, *, shown: bool
) -> tuple[Decided, Diagnosis]:
    settings = await _settings(callee, api_url)
    if settings.secret_key is None:
        raise CommandError("To look a credential up by its id, set CLERK_SECRET_KEY.")
    async with _client(settings) as clerk:
        found = await find_by_id(clerk, token_id, caller, shown=shown)
        decided = await decide_on_found(settings, found)
        return decided, await diagnose(decided, settings, clerk, found)


async def _settings(callee: str | None, api_url: str | None) -> Settings:
    """Return the settings of the called service, from this environment."""
    given: dict[str, Any] = {} if api_url is None else {"api_url": api_url}
    if callee is None:
        if not machine_id_from_env():
            raise CommandError(
                "Name the machine that is called: set CLERK_MACHINE_ID, or --callee."
            )
        return Settings.from_env(**given)
    machine_id = await _machine_id(callee, api_url)
    if machine_id == machine_id_from_env():
        return Settings.from_env(**given)
    if key_from_env("CLERK_SECRET_KEY") is None:
        raise CommandError(
            "The key in CLERK_MACHINE_SECRET_KEY belongs to CLERK_MACHINE_ID and cannot verify "
            "tokens for another callee: set CLERK_SECRET_KEY."
        )
    return Settings.from_env(machine_id=machine_id, machine_secret_key=None, **given)


async def _machine_id(callee: str, api_url: str | None) -> str:
    if MACHINE_ID.fullmatch(callee):
        return callee
    async with Instance.from_env(api_url).client() as clerk:
        return (await find_machine(clerk, callee)).id


def _client(settings: Settings) -> ClerkClient:
    # Only the instance's key is used if there is one, because it reaches more than a machine's.
    key = settings.secret_key
    return ClerkClient(
        secret_key=key,
        machine_secret_key=settings.machine_secret_key if key is None else None,
        api_url=settings.api_url,
        allow_http=settings.allow_http,
        timeout=TIMEOUT,
    )


def _lines(decided: Decided, diagnosis: Diagnosis) -> list[str]:
    lines = [f"Callee: {decided.callee}"]
    for step in steps_of(decided):
        lines.append(f"  {step.name.value:12}  {step.result.value:11}  {step.text}".rstrip())
    refusal = decided.refusal
    if refusal is None:
        lines.append("It is accepted.")
    else:
        lines.append(f"The answer is {refusal.status} {refusal.code}.")
    lines += [f"Why: {each}" for each in diagnosis.why]
    lines += [f"Fix: {each}" for each in diagnosis.mend]
    return lines
