"""`Fleet`: the settings of the Redis that the workers and hosts of a fleet share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from clerk_m2m.environment import _flag_from_text, _variable, checked_flag
from clerk_m2m.errors import ConfigurationError
from clerk_m2m.secret import Secret

# 32 random bytes have 43 characters in base64 without padding; other encodings may be shorter.
MIN_KEY_LENGTH: Final = 32
MAX_KEYS: Final = 2
DEFAULT_PREFIX: Final = "clerk_m2m"
ENVIRONMENT: Final = {
    "server": "CLERK_M2M_FLEET_URL",
    "keys": "CLERK_M2M_FLEET_KEY",
    "prefix": "CLERK_M2M_FLEET_PREFIX",
    "share_verdicts": "CLERK_M2M_FLEET_SHARE_VERDICTS",
}
_SCHEMES: Final = frozenset({"redis", "rediss", "unix"})
_PREFIX: Final = re.compile(r"[A-Za-z0-9\-_.:/]{1,100}")


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Fleet:
    """A Redis or Valkey through which services notify each other of revocations.

    `server` is a URL (`redis://`, `rediss://` with TLS, `unix://`), or a callable that returns a
    client of `redis.asyncio`, for Sentinel, Cluster or your own certificates. The callable is
    called for each new connection to the log and must return a new client each time, which is
    closed after use. `keys` are one or two secrets of at least 32 characters, the same for all
    services of an instance. The first one signs; signatures of both are accepted. Set two while you
    replace one. `prefix` is the prefix of all keys in Redis: if several Clerk instances share a
    Redis, each needs its own. A process that has not read the log of revocations yet does not know
    which JWTs are denied. It answers 503 to JWTs, unless `require_log` is False. With
    `share_verdicts` (experimental), the processes of one service also share verdicts of opaque
    tokens and API keys, encrypted under the Clerk key that verified them.

    Raises `ConfigurationError`.
    """

    server: Secret | Callable[[], Any]
    keys: tuple[Secret, ...]
    prefix: str
    require_log: bool
    share_verdicts: bool

    def __init__(
        self,
        server: str | Secret | Callable[[], Any],
        *,
        keys: Iterable[str | Secret],
        prefix: str = DEFAULT_PREFIX,
        require_log: bool = True,
        share_verdicts: bool = False,
    ) -> None:
        # First of all: tracebacks may show the locals of this frame.
        server = Secret(server) if isinstance(server, str) else server
        keys = _hidden(keys)
        set_field = object.__setattr__  # the dataclass is frozen
        set_field(self, "server", _server(server))
        set_field(self, "keys", _keys(keys))
        set_field(self, "prefix", _prefix(prefix))
        set_field(self, "require_log", checked_flag("require_log", require_log))
        set_field(self, "share_verdicts", checked_flag("share_verdicts", share_verdicts))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Fleet | None:
        """Read `CLERK_M2M_FLEET_URL`, `_KEY`, `_PREFIX` and `_SHARE_VERDICTS`.

        None if neither a URL nor a key is set. Two keys are separated by a comma.
        """
        server, keys, prefix, share = (_variable(environ, each) for each in ENVIRONMENT.values())
        del environ  # it holds keys, and tracebacks may show the locals of this frame
        if not server and not keys:
            return None
        if not server or not keys:
            missing = ENVIRONMENT["keys" if server else "server"]
            raise ConfigurationError(
                f"A fleet needs an address and a key: set {missing} too, or neither."
            )
        given = [Secret(each.strip()) for each in keys.reveal().split(",") if each.strip()]
        return cls(
            server,
            keys=given,
            prefix=prefix.reveal() or DEFAULT_PREFIX,
            share_verdicts=bool(share) and _flag_from_text(ENVIRONMENT["share_verdicts"], share),
        )


def checked_fleet(value: object) -> Fleet | None:
    """Return a fleet, or None; raises `ConfigurationError` for anything else."""
    if value is not None and not isinstance(value, Fleet):
        raise ConfigurationError("fleet must be a Fleet, with its server and its keys.")
    return value


def _hidden(keys: Iterable[str | Secret]) -> list[Any]:
    if isinstance(keys, str | Secret):
        return [Secret(keys)]
    return [Secret(each) if isinstance(each, str) else each for each in keys]


def _server(server: object) -> Secret | Callable[[], Any]:
    if callable(server):
        return server
    if not isinstance(server, Secret):
        raise ConfigurationError(
            "fleet: the server must be an address, or a callable that returns a client of "
            "redis.asyncio."
        )
    try:
        parts = urlsplit(server.reveal())
        usable = parts.scheme in _SCHEMES and bool(parts.hostname or parts.path)
        parts.port  # noqa: B018  raises if the port is impossible
    except ValueError:
        usable = False
    if not usable:
        # The URL is not quoted, because it may contain a password.
        raise ConfigurationError(
            "fleet: the address (CLERK_M2M_FLEET_URL) must begin with redis://, rediss:// or "
            "unix://, such as redis://redis.internal:6379/0."
        )
    return server


def _keys(keys: list[Any]) -> tuple[Secret, ...]:
    if not 1 <= len(keys) <= MAX_KEYS or not all(isinstance(each, Secret) for each in keys):
        raise ConfigurationError(
            "fleet: keys (CLERK_M2M_FLEET_KEY) must be one secret text, or two while one replaces "
            "the other."
        )
    if any(len(each.reveal()) < MIN_KEY_LENGTH for each in keys):
        raise ConfigurationError(
            f"fleet: a key (CLERK_M2M_FLEET_KEY) is shorter than {MIN_KEY_LENGTH} characters. Make "
            'one: python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    if len(set(keys)) < len(keys):
        raise ConfigurationError("fleet: the two keys (CLERK_M2M_FLEET_KEY) are the same.")
    return tuple(keys)


def _prefix(prefix: object) -> str:
    if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(
            "fleet: prefix (CLERK_M2M_FLEET_PREFIX) must be letters, digits and - _ . : / only."
        )
    return prefix
