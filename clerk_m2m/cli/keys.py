"""`clerk-m2m keys`: the API keys of a user, an organization or a machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from clerk_m2m.backend_api.resources import ApiKey
from clerk_m2m.cli.ids import is_credential_id
from clerk_m2m.cli.instance import ApiUrl, Instance
from clerk_m2m.cli.machines import subject_of
from clerk_m2m.cli.program import AsJson, CommandError, Yes, print_json, print_table
from clerk_m2m.cli.secret_text import HandOver, SecretFile, ShowSecret, handed_over
from clerk_m2m.cli.told import told_life

Subject = Annotated[
    str,
    typer.Argument(help="Whom the key speaks for: user_…, org_…, mch_…, or a machine's name."),
]

keys: Final = typer.Typer(
    help="API keys of users, organizations and machines.", no_args_is_help=True
)


@keys.callback()
def _keys() -> None:
    """API keys of users, organizations and machines."""


@keys.command("list", epilog="Example: clerk-m2m keys list billing")
def list_keys(
    subject: Subject,
    include_invalid: Annotated[
        bool, typer.Option("--all", help="Revoked and expired ones too.")
    ] = False,
    api_url: ApiUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the API keys of a subject."""
    found = asyncio.run(_list(Instance.from_env(api_url), subject, include_invalid))
    if as_json:
        print_json({"keys": [_key_json(each) for each in found]})
    else:
        _print_keys(found)


async def _list(instance: Instance, subject: str, include_invalid: bool) -> list[ApiKey]:
    async with instance.client() as clerk:
        owner = await subject_of(clerk, subject)
        return [each async for each in clerk.api_keys.iter(owner, include_invalid=include_invalid)]


@keys.command(
    epilog="Example: clerk-m2m keys create nightly billing --scope read --secret-file nightly.key"
)
def create(
    name: Annotated[str, typer.Argument(help="The name of the new key.")],
    subject: Subject,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="PERMISSION", help="A permission of the key; repeatable."),
    ] = None,
    ttl: Annotated[
        float | None,
        typer.Option("--ttl", metavar="SECONDS", help="How long it lives; for ever unless given."),
    ] = None,
    secret_file: SecretFile = None,
    show_secret: ShowSecret = False,
    yes: Yes = False,
    api_url: ApiUrl = None,
    as_json: AsJson = False,
) -> None:
    """Create an API key. Clerk charges for it."""
    instance = Instance.from_env(api_url)
    with handed_over(secret_file, show_secret) as hand_over:
        instance.ask(f"create the API key {name}", yes=yes)
        made = asyncio.run(_create(instance, name, subject, scope or [], ttl, hand_over))
    if as_json:
        print_json({"key": _key_json(made)}, err=show_secret)
    else:
        _print_keys([made], err=show_secret)


async def _create(
    instance: Instance,
    name: str,
    subject: str,
    scopes: Sequence[str],
    ttl: float | None,
    hand_over: HandOver,
) -> ApiKey:
    async with instance.client() as clerk:
        owner = await subject_of(clerk, subject)
        made = await clerk.api_keys.create(
            name, subject=owner, scopes=scopes, seconds_until_expiration=ttl
        )
        hand_over(made.secret)
        return made


@keys.command(epilog="Example: clerk-m2m keys revoke ak_0123456789abcdef0123456789abcdef")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, never the key.")],
    reason: Annotated[str | None, typer.Option("--reason", help="Kept with the key.")] = None,
    yes: Yes = False,
    api_url: ApiUrl = None,
    as_json: AsJson = False,
) -> None:
    """Revoke an API key. A service notices when its cached verdict ends (`cache_ttl`)."""
    if not is_credential_id(key_id, "ak"):
        raise CommandError("Give the key's id, ak_ and 32 hex digits, and never the key itself.")
    instance = Instance.from_env(api_url)
    instance.ask("revoke an API key", yes=yes)
    revoked = asyncio.run(_revoke(instance, key_id, reason))
    if as_json:
        print_json({"key": _key_json(revoked)})
    else:
        _print_keys([revoked])


async def _revoke(instance: Instance, key_id: str, reason: str | None) -> ApiKey:
    async with instance.client() as clerk:
        return await clerk.api_keys.revoke(key_id, revocation_reason=reason)


def _print_keys(found: Sequence[ApiKey], *, err: bool = False) -> None:
    print_table(
        ["id", "name", "subject", "permissions", "life"],
        [
            (each.id, each.name, each.subject, ", ".join(each.scopes), told_life(each))
            for each in found
        ],
        err=err,
    )


def _key_json(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "subject": key.subject,
        "scopes": list(key.scopes),
        "live": key.live,
        "revoked": key.revoked,
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
    }
