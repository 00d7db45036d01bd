"""`clerk-m2m invalidate`: invalidates cached verdicts of all services of a fleet."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer

from clerk_m2m.cli.ids import is_credential_id
from clerk_m2m.cli.program import AsJson, CommandError, print_json, print_lines, say
from clerk_m2m.cli.secret_text import read_secret
from clerk_m2m.credentials import jwt_of
from clerk_m2m.environment import api_url_from_env
from clerk_m2m.errors import FleetUnavailableError
from clerk_m2m.fleet.publishing import digest_keys, publish_once
from clerk_m2m.fleet_settings import Fleet
from clerk_m2m.identity import MACHINE_ID
from clerk_m2m.lookups.digest import digest_of
from clerk_m2m.lookups.invalidation import Invalidation, TokenKind


def invalidate(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]…", help="Ids of tokens, API keys and machines; no secrets."),
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Read a credential from standard input.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make every service of the fleet ask Clerk again, and deny the given JWTs.

    Revoke at Clerk first, so that services then get the new answer. Name a token by its id, or with
    --token by its text. A machine's id stands for all its credentials that were issued until now.
    Reads CLERK_M2M_FLEET_URL and CLERK_M2M_FLEET_KEY. Exits with 0 if all of it is in the log.
    """
    fleet = Fleet.from_env()
    if fleet is None:
        raise CommandError("Set CLERK_M2M_FLEET_URL and CLERK_M2M_FLEET_KEY: there is no fleet.")
    if not ids and not token:
        raise CommandError("Name what to invalidate: ids, or --token and a credential on stdin.")
    wanted = [_by_id(each) for each in ids or ()]
    if token:
        wanted.append(_by_token(fleet))
    say(f"Writing to the log of the fleet {fleet.prefix!r}.")
    try:
        numbers = asyncio.run(_publish(fleet, wanted))
    except FleetUnavailableError as exc:
        raise CommandError(f"Not all of it is in the log; run the command again. {exc}") from exc
    if as_json:
        print_json({"rows": numbers})
    else:
        print_lines([f"Written to the log as row {number}." for number in numbers])


async def _publish(fleet: Fleet, wanted: list[Invalidation]) -> list[int]:
    return [await publish_once(fleet, each, now=time.time()) for each in wanted]


def _by_id(given: str) -> Invalidation:
    name = None
    if MACHINE_ID.fullmatch(given):
        name = "machine_id"
    elif is_credential_id(given, "mt", "ak", "oat"):
        name = "token_id"
    if name is None:
        raise CommandError(
            "Give ids only: mch_ and 27 characters of a machine, mt_ or ak_ and 32 hex digits of a "
            "token or an API key. A credential itself goes to standard input, with --token."
        )
    fields: dict[str, Any] = {name: given}
    return Invalidation(**fields, instant=time.time())


def _by_token(fleet: Fleet) -> Invalidation:
    credential = read_secret("credential")
    # There is no key set here to verify a JWT with.
    is_jwt = jwt_of(credential.reveal()) is not None
    keys = digest_keys(fleet, api_url_from_env())
    return Invalidation(
        digests=tuple(digest_of(key, credential.reveal()) for key in keys),
        token_kind=TokenKind.UNPROVEN if is_jwt else TokenKind.OPAQUE,
        instant=time.time(),
    )
