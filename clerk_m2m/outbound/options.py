"""The settings of `MachineTokenAuth`, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import httpx

from clerk_m2m.backend_api.arguments import plain_json
from clerk_m2m.environment import SecretKey, checked_count, checked_seconds, key_from_env
from clerk_m2m.errors import ConfigurationError
from clerk_m2m.secret import hidden

# Ten years, the longest lifetime that a machine can be given (schema of `CreateMachine`).
MAX_SECONDS: Final = 315_360_000.0
# Shorter than any answer takes.
MIN_SECONDS: Final = 0.01
MAX_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOptions:
    """The arguments of a mint; durations are seconds, None means the machine's default."""

    token_format: Literal["opaque", "jwt"] = "opaque"
    seconds_until_expiration: float | None = None
    claims: Mapping[str, Any] | None = field(default=None, repr=False)
    min_remaining_ttl_seconds: int | None = None


def own_key(given: SecretKey | None) -> SecretKey:
    """Return the machine's own key: `given`, or the one in the environment if that is None."""
    given = hidden(given)  # first of all: tracebacks may show the locals of this frame
    # httpx and httpx2 call the class with the request if somebody passes the class as `auth`.
    if type(given).__name__ == "Request":
        raise ConfigurationError(
            "auth=MachineTokenAuth needs parentheses. Write auth=MachineTokenAuth(), and create it "
            "once in the process: each one mints its own token."
        )
    key = key_from_env("CLERK_MACHINE_SECRET_KEY") if given is None else given
    if not key:
        raise ConfigurationError(
            "There is no key to mint a token with. Set machine_secret_key "
            "(CLERK_MACHINE_SECRET_KEY) to this machine's own key, ak_…."
        )
    return key


def checked_timeout(value: object) -> float:
    """Return the deadline of a mint, in seconds, with the bounds of `Settings(timeout=…)`."""
    return checked_seconds("timeout", value, least=MIN_SECONDS, most=MAX_TIMEOUT)


def checked_transport(given: object) -> httpx.AsyncBaseTransport | None:
    """Return the user's transport; it must be an `httpx.AsyncBaseTransport`."""
    if given is None or isinstance(given, httpx.AsyncBaseTransport):
        return given
    raise ConfigurationError(
        "transport must be an httpx.AsyncBaseTransport, such as httpx.AsyncHTTPTransport. This "
        "also holds for synchronous calls and for httpx2: mints are asynchronous calls of httpx."
    )


def token_options(
    token_format: Literal["opaque", "jwt"],
    seconds_until_expiration: float | None,
    claims: Mapping[str, Any] | None,
    min_remaining: int | None,
) -> TokenOptions:
    """Check the options of a token and return them; raises `ConfigurationError`."""
    if token_format not in ("opaque", "jwt"):
        raise ConfigurationError('token_format must be "opaque" or "jwt".')
    lifetime = seconds_until_expiration
    if lifetime is not None:
        name = "seconds_until_expiration"
        lifetime = checked_seconds(name, lifetime, least=MIN_SECONDS, most=MAX_SECONDS)
    if min_remaining is not None:
        _require_reuse_to_work(token_format, lifetime, min_remaining)
    return TokenOptions(
        token_format=token_format,
        seconds_until_expiration=lifetime,
        claims=None if claims is None else _claims(claims),
        min_remaining_ttl_seconds=min_remaining,
    )


def _require_reuse_to_work(token_format: str, lifetime: float | None, given: object) -> None:
    name = "min_remaining_ttl_seconds"
    min_remaining = checked_count(name, given)
    if token_format == "jwt":
        raise ConfigurationError(f"{name} is for opaque tokens: Clerk does not keep JWTs.")
    if lifetime is not None and min_remaining >= lifetime:
        raise ConfigurationError(f"{name} must be less than seconds_until_expiration.")


def _claims(given: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigurationError("claims must be a mapping that can be written as JSON.")
    return plain_json("claims", given)
