"""The checks of the environment alone: the form of the keys, the variables, the accepted types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from clerk_m2m.cli.doctor.findings import Finding, Status
from clerk_m2m.credentials import KINDS
from clerk_m2m.environment import checked_secret_key, key_from_env, unknown_variables
from clerk_m2m.errors import ConfigurationError
from clerk_m2m.identity import TokenClass, TokenType
from clerk_m2m.secret import Secret
from clerk_m2m.settings import VARIABLES, Settings
from clerk_m2m.verification.policy import not_accepted

_KEYS: Final = {"CLERK_MACHINE_SECRET_KEY": "ak_", "CLERK_SECRET_KEY": "sk_"}

# What a wrong value probably is, by its first characters.
_OTHERS: Final = {
    "sk_": "It begins like an instance's key, which belongs in CLERK_SECRET_KEY.",
    "ak_": "It begins like a machine's key, which belongs in CLERK_MACHINE_SECRET_KEY.",
    "pk_": "It begins like a publishable key, which cannot verify credentials.",
    "mt_": "It begins like a token, which is not a key.",
    "eyJ": "It begins like a JWT, which is not a key.",
    "-----BEGIN": "It begins like a PEM key, which belongs in CLERK_JWT_KEY.",
}


def check_keys() -> Iterator[Finding]:
    """Check the form of each key that is set."""
    for variable, prefix in _KEYS.items():
        try:
            given = key_from_env(variable)
            if checked_secret_key(variable, prefix, given) is None:
                continue
        except ConfigurationError as exc:
            yield Finding("keys", Status.FAULT, str(exc), _remedy(variable))
        else:
            of_file = " (from the file in " + variable + "_FILE)" if isinstance(given, Path) else ""
            text = f"{variable}{of_file} has the form of a key: {prefix}…"
            yield Finding("keys", Status.OK, text)


def _remedy(variable: str) -> str:
    own = f"Put the key that starts with {_KEYS[variable]} into {variable}."
    try:
        given = key_from_env(variable)
    except ConfigurationError:
        return f"Set {variable} or {variable}_FILE, not both."
    if not isinstance(given, Secret):
        return own
    held = [text for beginning, text in _OTHERS.items() if given.reveal().startswith(beginning)]
    return " ".join([*held[:1], own])


def check_variables() -> Iterator[Finding]:
    """Check that a setting is read from each `CLERK_M2M_…` variable."""
    unknown = unknown_variables(VARIABLES)
    for name, similar in unknown.items():
        remedy = f"Did you mean {similar}?" if similar else "Remove it, or correct its name."
        yield Finding(
            "variables", Status.FAULT, f"{name} is set, and no setting is read from it.", remedy
        )
    if not unknown:
        yield Finding("variables", Status.OK, "Every CLERK_M2M_… variable that is set is read.")


def check_accepted(settings: Settings) -> Iterator[Finding]:
    """Check that each accepted type of token can be verified, and name the forms that cannot."""
    refused = not_accepted(settings)
    taken = [each for each in KINDS if each not in refused]
    for accepted in sorted(settings.accepts):
        if not any(KINDS[each].token_type is accepted for each in taken):
            text = f"{accepted} is accepted, but this service has no key to verify one."
            yield Finding("accepted types", Status.FAULT, text, "Set CLERK_SECRET_KEY.")
    lacking = _lacking(settings, refused)
    if lacking is not None:
        yield lacking
    if TokenType.OAUTH_TOKEN in settings.accepts and not settings.oauth_audience:
        yield Finding(
            "accepted types",
            Status.WARNING,
            "OAuth access tokens without an audience are accepted, whatever service they are for.",
            "Set CLERK_M2M_OAUTH_AUDIENCE to the name of this service in `aud`.",
        )
    names = ", ".join(f"{each}s" for each in taken) or "nothing"
    yield Finding("accepted types", Status.OK, f"Accepted: {names}.")


def _lacking(settings: Settings, refused: Mapping[TokenClass, str]) -> Finding | None:
    """Return a finding if only one of the two forms of M2M tokens is accepted."""
    forms = [each for each in (TokenClass.M2M_OPAQUE, TokenClass.M2M_JWT) if each in refused]
    if TokenType.M2M_TOKEN not in settings.accepts or len(forms) != 1:
        return None
    # A service without a graph, which refuses M2M JWTs, is common. One that refuses opaque tokens
    # is not.
    status = Status.OK if forms[0] is TokenClass.M2M_JWT else Status.WARNING
    return Finding("accepted types", status, f"An {forms[0]} is refused: {refused[forms[0]]}")
