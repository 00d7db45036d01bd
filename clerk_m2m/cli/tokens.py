"""`clerk-m2m tokens`: mint, verify and revoke the tokens that machines send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

import typer

from clerk_m2m.backend_api.resources import CreatedM2MToken, M2MToken
from clerk_m2m.cli.ids import is_credential_id
from clerk_m2m.cli.instance import ApiUrl, Instance
from clerk_m2m.cli.program import (
    NO,
    AsJson,
    CommandError,
    Yes,
    print_json,
    print_lines,
    print_table,
)
from clerk_m2m.cli.secret_text import (
    HandOver,
    SecretFile,
    ShowSecret,
    handed_over,
    read_secret,
)
from clerk_m2m.cli.told import told_life
from clerk_m2m.cli.verifying import Found, verify_credential

tokens: Final = typer.Typer(help="Mint, verify and revoke tokens.", no_args_is_help=True)


@tokens.callback()
def _tokens() -> None:
    """Mint, verify and revoke tokens."""


@tokens.command(epilog="Example: clerk-m2m tokens mint --format jwt --secret-file token")
def mint(
    token_format: Annotated[
        Literal["opaque", "jwt"], typer.Option("--format", help="A JWT cannot be revoked.")
    ] = "opaque",
    ttl: Annotated[
        float | None,
        typer.Option("--ttl", metavar="SECONDS", help="How long it lives; else as its machine's."),
    ] = None,
    claims: Annotated[
        str | None,
        typer.Option("--claims", metavar="JSON", help="Claims for the callee to read; no secret."),
    ] = None,
    secret_file: SecretFile = None,
    show_secret: ShowSecret = False,
    yes: Yes = False,
    api_url: ApiUrl = None,
    as_json: AsJson = False,
) -> None:
    """Mint a token of the machine whose key is in CLERK_MACHINE_SECRET_KEY. Clerk charges for it.

    An opaque token keeps the scopes that the machine has now.
    """
    read = _claims(claims)
    instance = Instance.from_env(api_url, machine_key=True)
    if instance.machine_secret_key is None:
        raise CommandError(
            "Minting takes the key of the calling machine: set CLERK_MACHINE_SECRET_KEY, or "
            "CLERK_MACHINE_SECRET_KEY_FILE."
        )
    with handed_over(secret_file, show_secret) as hand_over:
        instance.ask("mint a token", yes=yes)
        minted = asyncio.run(_mint(instance, token_format, ttl, read, hand_over))
    if as_json:
        print_json({"token": _token_json(minted)}, err=show_secret)
    else:
        _print_token(minted, err=show_secret)


def _claims(text: str | None) -> Mapping[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise CommandError("--claims must be a JSON object.")
    return value


async def _mint(
    instance: Instance,
    token_format: Literal["opaque", "jwt"],
    ttl: float | None,
    claims: Mapping[str, Any] | None,
    hand_over: HandOver,
) -> CreatedM2MToken:
    async with instance.client() as clerk:
        minted = await clerk.m2m_tokens.create(
            token_format=token_format, seconds_until_expiration=ttl, claims=claims
        )
        hand_over(minted.token)
        return minted


@tokens.command(epilog="Example: clerk-m2m tokens verify < token")
def verify(api_url: ApiUrl = None, as_json: AsJson = False) -> None:
    """Show the type, the subject and the expiry of the credential on standard input.

    Exits with 0 if it is live, with 1 if not. For whom it may call, use `explain`. Clerk charges
    for the verification of an opaque credential.
    """
    instance = _of_all_machines(api_url)
    found = asyncio.run(verify_credential(instance, read_secret("credential")))
    if as_json:
        print_json(found.as_json())
    else:
        _print_found(found)
    raise typer.Exit(0 if found.live else NO)


@tokens.command(epilog="Example: clerk-m2m tokens revoke mt_0123456789abcdef0123456789abcdef")
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id, never the token.")],
    reason: Annotated[str | None, typer.Option("--reason", help="Kept with the token.")] = None,
    yes: Yes = False,
    api_url: ApiUrl = None,
    as_json: AsJson = False,
) -> None:
    """Revoke an opaque token. A service notices when its cached verdict ends (`cache_ttl`).

    A JWT cannot be revoked: it is valid until it expires.
    """
    if not is_credential_id(token_id, "mt"):
        raise CommandError(
            "Give the token's id, mt_ and 32 hex digits, and never the token itself. "
            "(`tokens verify` tells the id.)"
        )
    instance = _of_all_machines(api_url)
    instance.ask("revoke a token", yes=yes)
    revoked = asyncio.run(_revoke(instance, token_id, reason))
    if as_json:
        print_json({"token": _token_json(revoked)})
    else:
        _print_token(revoked)


def _of_all_machines(api_url: str | None) -> Instance:
    """Open the instance with its own key, if there is one, else with a machine's key.

    A machine's key verifies only tokens that may call the machine, and revokes only its own.
    """
    instance = Instance.from_env(api_url, machine_key=True)
    if instance.secret_key is None:
        return instance
    return replace(instance, machine_secret_key=None)


async def _revoke(instance: Instance, token_id: str, reason: str | None) -> M2MToken:
    async with instance.client() as clerk:
        return await clerk.m2m_tokens.revoke(token_id, revocation_reason=reason)


def _print_token(token: M2MToken, *, err: bool = False) -> None:
    print_table(
        ["id", "machine", "may call", "life"],
        [(token.id, token.subject, ", ".join(token.scopes) or "nobody", told_life(token))],
        err=err,
    )


def _print_found(found: Found) -> None:
    rows = [("what", found.what), ("life", found.life)]
    if found.id is not None:
        rows[1:1] = [("id", found.id), ("whose", found.subject or ""), ("scopes", found.scope_text)]
    print_lines(f"{name:8}{text}" for name, text in rows)


def _token_json(token: M2MToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "subject": token.subject,
        "scopes": list(token.scopes),
        "live": token.live,
        "revoked": token.revoked,
        "expires_at": token.expires_at.isoformat() if token.expires_at else None,
    }
