"""`Settings`: all settings of a service, checked at construction."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from clerk_m2m import fleet_settings
from clerk_m2m.environment import (
    DEFAULT_API_URL,
    SecretKey,
    _flag_from_text,
    _url,
    _variable,
    bare_origin,
    checked_count,
    checked_flag,
    checked_rate,
    checked_seconds,
    checked_secret_key,
    key_from_env,
)
from clerk_m2m.errors import ConfigurationError
from clerk_m2m.fleet_settings import Fleet, checked_fleet
from clerk_m2m.graph.scope_graph import ScopeGraph
from clerk_m2m.graph.source import GraphSource, checked_source
from clerk_m2m.identity import MACHINE_ID, TokenType, TokenTypeName
from clerk_m2m.secret import KeyAnswer, Secret, hidden, is_credential

LIVE: Final = "live"

Graph: TypeAlias = ScopeGraph | GraphSource | Mapping[str, Iterable[str]] | str | os.PathLike[str]

ENVIRONMENT: Final = {
    "machine_id": "CLERK_MACHINE_ID",
    "machine_secret_key": "CLERK_MACHINE_SECRET_KEY",
    "secret_key": "CLERK_SECRET_KEY",
    "jwt_key": "CLERK_JWT_KEY",
    "api_url": "CLERK_API_URL",
    "allow_http": "CLERK_M2M_ALLOW_HTTP",
    "jwks_url": "CLERK_M2M_JWKS_URL",
    "accepts": "CLERK_M2M_ACCEPTS",
    "api_key_header": "CLERK_M2M_API_KEY_HEADER",
    "oauth_audience": "CLERK_M2M_OAUTH_AUDIENCE",
    "graph": "CLERK_M2M_GRAPH",
    "graph_ttl": "CLERK_M2M_GRAPH_TTL",
    "graph_max_stale": "CLERK_M2M_GRAPH_MAX_STALE",
    "cache_ttl": "CLERK_M2M_CACHE_TTL",
    "negative_ttl": "CLERK_M2M_NEGATIVE_TTL",
    "cache_size": "CLERK_M2M_CACHE_SIZE",
    "stale_if_error": "CLERK_M2M_STALE_IF_ERROR",
    "timeout": "CLERK_M2M_TIMEOUT",
    "max_inflight": "CLERK_M2M_MAX_INFLIGHT",
    "unknown_rate": "CLERK_M2M_UNKNOWN_RATE",
}
# All variables that settings are read from, without those that name files with keys.
VARIABLES: Final = (*ENVIRONMENT.values(), *fleet_settings.ENVIRONMENT.values())
_SECRET_KEYS: Final = frozenset({"machine_secret_key", "secret_key"})
_INTEGERS: Final = frozenset({"cache_size", "max_inflight"})
_NUMBERS: Final = frozenset({"unknown_rate"})
_LISTS: Final = frozenset({"accepts", "oauth_audience"})
_SECONDS: Final = frozenset(
    {"graph_ttl", "graph_max_stale", "cache_ttl", "negative_ttl", "stale_if_error", "timeout"}
)


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Settings:
    """How this service verifies its callers: keyword-only, checked, immutable, times in seconds.

    - `machine_id`: this service's own machine, the callee of every check.
    - `machine_secret_key`: the machine's own key; it verifies M2M tokens. `secret_key`: the
      instance's key. It verifies API keys and OAuth access tokens, reads the live graph and the
      key set, and verifies M2M tokens if there is no machine key.
    - Each key is text or a `Secret`, a callable that returns it and does not block, an async
      callable, or the path of a file. The last three allow a rotation while the service runs.
    - `jwt_key` (a PEM public key) or `jwks_url`: verifies JWTs without `secret_key`.
    - `allow_http`: allows plain http for `api_url` and `jwks_url` off loopback, for an emulator.
    - `accepts`: the accepted credential types, of "m2m_token", "api_key", "oauth_token".
    - `graph`: a `ScopeGraph`, a mapping of machine id to machine ids, the path of a TOML file,
      "live", or your own `GraphSource`. None means "live" if `secret_key` is set, else no graph.
    - `graph_ttl`: how long the graph is cached. `graph_max_stale`: how long the last known graph
      may be used while its source fails.
    - `api_key_header`: the name of a header that may carry an API key.
    - `oauth_audience`: the names of this service in the `aud` of an OAuth access token, of which a
      token must have one. Without it, a token with an `aud` is refused (RFC 9068 section 4).
    - `cache_ttl` and `negative_ttl` (at most 10): how long positive and negative verdicts are
      cached. `cache_size`: the number of entries of each kind.
    - `stale_if_error`: the maximum age of a positive verdict while Clerk is down; 0 turns this off.
    - `timeout`: the total deadline of a verification.
    - `max_inflight`: the maximum number of concurrent calls to Clerk in each event loop.
    - `unknown_rate`: the maximum of verifications of unknown credentials per second, which limits
      the cost of a flood. None adapts it to Clerk's rate limit, between 1 and 90.
    - `fleet`: the Redis through which services notify each other of revocations.

    Raises `ConfigurationError`, whose text says what to set.
    """

    machine_id: str
    machine_secret_key: Secret | Path | Callable[[], KeyAnswer] | None
    secret_key: Secret | Path | Callable[[], KeyAnswer] | None
    jwt_key: str | None = field(repr=False)
    jwks_url: str | None
    api_url: str
    allow_http: bool
    accepts: frozenset[TokenType]
    api_key_header: str | None
    oauth_audience: frozenset[str] | None
    graph: ScopeGraph | GraphSource | Path | Literal["live"] | None
    graph_ttl: float
    graph_max_stale: float
    cache_ttl: float
    negative_ttl: float
    cache_size: int
    stale_if_error: float
    timeout: float
    max_inflight: int
    unknown_rate: float | None
    fleet: Fleet | None

    def __init__(
        self,
        *,
        machine_id: str | None = None,
        machine_secret_key: SecretKey | None = None,
        secret_key: SecretKey | None = None,
        jwt_key: str | None = None,
        jwks_url: str | None = None,
        api_url: str = DEFAULT_API_URL,
        allow_http: bool = False,
        accepts: Iterable[TokenType | TokenTypeName] = (TokenType.M2M_TOKEN,),
        api_key_header: str | None = None,
        oauth_audience: str | Iterable[str] | None = None,
        graph: Graph | None = None,
        graph_ttl: float = 30.0,
        graph_max_stale: float = 300.0,
        cache_ttl: float = 60.0,
        negative_ttl: float = 10.0,
        cache_size: int = 10_000,
        stale_if_error: float = 0.0,
        timeout: float = 2.0,
        max_inflight: int = 20,
        unknown_rate: float | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        # First of all: tracebacks may show the locals of this frame.
        machine_secret_key, secret_key = hidden(machine_secret_key), hidden(secret_key)
        set_field = object.__setattr__  # the dataclass is frozen
        set_field(self, "machine_id", _machine_id(machine_id))
        key = checked_secret_key("machine_secret_key", "ak_", machine_secret_key)
        set_field(self, "machine_secret_key", key)
        set_field(self, "secret_key", checked_secret_key("secret_key", "sk_", secret_key))
        set_field(self, "jwt_key", jwt_key or None)
        set_field(self, "jwks_url", _url("jwks_url", jwks_url) if jwks_url else None)
        set_field(self, "api_url", bare_origin(api_url))
        set_field(self, "allow_http", checked_flag("allow_http", allow_http))
        set_field(self, "accepts", _accepts(accepts))
        set_field(self, "api_key_header", _header_name(api_key_header))
        set_field(self, "oauth_audience", _oauth_audience(oauth_audience))
        set_field(self, "graph", _graph(graph, live=self.secret_key is not None))
        set_field(self, "graph_ttl", checked_seconds("graph_ttl", graph_ttl))
        set_field(self, "graph_max_stale", checked_seconds("graph_max_stale", graph_max_stale))
        set_field(self, "cache_ttl", checked_seconds("cache_ttl", cache_ttl))
        set_field(self, "negative_ttl", checked_seconds("negative_ttl", negative_ttl, most=10.0))
        set_field(self, "cache_size", checked_count("cache_size", cache_size))
        set_field(self, "stale_if_error", checked_seconds("stale_if_error", stale_if_error))
        set_field(self, "timeout", checked_seconds("timeout", timeout, least=0.01, most=60.0))
        set_field(self, "max_inflight", checked_count("max_inflight", max_inflight, least=2))
        set_field(self, "unknown_rate", checked_rate("unknown_rate", unknown_rate))
        set_field(self, "fleet", checked_fleet(fleet))
        self._check_together()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **given: Any) -> Settings:
        """Read the environment (`CLERK_MACHINE_ID` and the others); `given` settings override it.

        Numbers are plain seconds or counts. `CLERK_M2M_ALLOW_HTTP` is 1 or true, 0 or false.
        `CLERK_M2M_ACCEPTS` and `CLERK_M2M_OAUTH_AUDIENCE` are comma-separated lists. An empty
        variable counts as unset. `CLERK_MACHINE_SECRET_KEY_FILE` and `CLERK_SECRET_KEY_FILE` are
        paths of files with the key, instead of the key itself.
        """
        given = {
            name: hidden(value) if name in _SECRET_KEYS else value for name, value in given.items()
        }
        texts = {
            name: _variable(environ, ENVIRONMENT[name])
            for name in ENVIRONMENT.keys() - _SECRET_KEYS
        }
        keys = {
            name: key_from_env(ENVIRONMENT[name], environ) for name in _SECRET_KEYS - given.keys()
        }
        fleet = None if "fleet" in given else Fleet.from_env(environ)
        del environ  # it holds keys, and tracebacks may show the locals of this frame
        read = {
            name: _from_text(name, ENVIRONMENT[name], text) for name, text in texts.items() if text
        } | {name: key for name, key in keys.items() if key}
        if "fleet" not in given:
            given["fleet"] = fleet
        try:
            return cls(**(read | given))
        except ConfigurationError as exc:
            name = str(exc).partition(" ")[0]
            if name in read and name not in given and ENVIRONMENT[name] not in str(exc):
                file = "_FILE" if isinstance(keys.get(name), Path) else ""
                raise ConfigurationError(f"{ENVIRONMENT[name]}{file}: {exc}") from exc
            raise

    @property
    def verifies_jwts(self) -> bool:
        """Whether JWTs can be verified: there is a key or a source of the key set."""
        return bool(self.jwt_key or self.jwks_url or self.secret_key)

    def _check_together(self) -> None:
        if not (self.machine_secret_key or self.verifies_jwts):
            raise ConfigurationError(
                "No key is set. Set machine_secret_key (CLERK_MACHINE_SECRET_KEY), or secret_key "
                "(CLERK_SECRET_KEY), or jwt_key (CLERK_JWT_KEY) with a graph."
            )
        if self.jwt_key and self.jwks_url:
            raise ConfigurationError("Set jwt_key or jwks_url, not both.")
        if self.graph == LIVE and not self.secret_key:
            raise ConfigurationError('graph="live" needs secret_key (CLERK_SECRET_KEY).')
        self._check_accepts()
        if 0 < self.stale_if_error <= self.cache_ttl:
            raise ConfigurationError(
                "stale_if_error counts from Clerk's last answer, so it does nothing within "
                f"cache_ttl ({self.cache_ttl:g} s). Set it higher, or to 0 to turn it off."
            )

    def _check_accepts(self) -> None:
        takes_jwts = bool(self.jwt_key or self.jwks_url)
        if TokenType.M2M_TOKEN in self.accepts and takes_jwts and self.graph is None:
            raise ConfigurationError(
                "jwt_key or jwks_url is set without a graph. A machine's JWT carries no scopes "
                "that can be trusted, so only a graph can say who may call: set graph "
                '(CLERK_M2M_GRAPH) to a TOML file, a mapping or "live".'
            )
        if TokenType.API_KEY in self.accepts and not self.secret_key:
            raise ConfigurationError('accepts "api_key" needs secret_key (CLERK_SECRET_KEY).')
        if TokenType.OAUTH_TOKEN in self.accepts and not self.verifies_jwts:
            raise ConfigurationError(
                'accepts "oauth_token" needs secret_key (CLERK_SECRET_KEY), or jwks_url for JWTs.'
            )
        if self.api_key_header and TokenType.API_KEY not in self.accepts:
            raise ConfigurationError('api_key_header is set, but accepts lacks "api_key".')
        if self.oauth_audience and TokenType.OAUTH_TOKEN not in self.accepts:
            raise ConfigurationError('oauth_audience is set, but accepts lacks "oauth_token".')


def _from_text(name: str, variable: str, text: Secret) -> Any:
    if is_credential(text.reveal()):
        raise ConfigurationError(
            f"{variable} holds what looks like a key or a token of Clerk's. Was it meant for "
            "another variable?"
        )
    if name in _INTEGERS | _SECONDS | _NUMBERS:
        number = _number(text, int if name in _INTEGERS else float)
        if number is None:
            raise ConfigurationError(f"{variable} must be a number, without a unit.")
        return number
    if name == "allow_http":
        return _flag_from_text(variable, text)
    if name in _LISTS:
        return [item.strip() for item in text.reveal().split(",") if item.strip()]
    return text.reveal()


def _number(text: Secret, kind: type[int] | type[float]) -> float | None:
    try:
        return kind(text.reveal())
    except ValueError:
        return None  # the original error quotes the text, so it is not chained


def _machine_id(value: str | None) -> str:
    if not value:
        raise ConfigurationError(
            "Set machine_id (CLERK_MACHINE_ID) to this service's own machine, mch_…: without it "
            "nobody would check whether a caller may call this service."
        )
    if not MACHINE_ID.fullmatch(value):
        raise ConfigurationError(
            "machine_id (CLERK_MACHINE_ID) is not a machine id: mch_ and 27 more characters."
        )
    return value


def _accepts(value: Iterable[TokenType | str]) -> frozenset[TokenType]:
    names = ", ".join(f'"{each}"' for each in TokenType)
    if isinstance(value, str):
        raise ConfigurationError(f"accepts must be a set of token types, of {names}.")
    given = tuple(value)
    unknown = [each for each in given if each not in tuple(TokenType)]
    if unknown:
        raise ConfigurationError(
            f"accepts names an unknown token type ({unknown[0]!r}); there are {names}."
        )
    accepts = frozenset(TokenType(each) for each in given)
    if not accepts:
        raise ConfigurationError(f"accepts is empty; name at least one of {names}.")
    return accepts


def _header_name(value: str | None) -> str | None:
    if not value:
        return None
    name = value.lower()
    if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigurationError("api_key_header is not the name of a header.")
    if name == "authorization":
        raise ConfigurationError("api_key_header names a header beside Authorization.")
    return name


def _oauth_audience(value: str | Iterable[str] | None) -> frozenset[str] | None:
    if value is None:
        return None
    items: list[object] = [value] if isinstance(value, str) else list(value)
    audience = [item for item in items if isinstance(item, str) and item]
    # An empty list would silently turn off a check that the user wanted.
    if not items or len(audience) < len(items):
        raise ConfigurationError(
            "oauth_audience must be a string or a list of strings, none of them empty. Leave it "
            "out to take access tokens that name no audience."
        )
    return frozenset(audience)


def _graph(
    value: Graph | None, *, live: bool
) -> ScopeGraph | GraphSource | Path | Literal["live"] | None:
    if value is None:
        return LIVE if live else None
    if value == LIVE:
        return LIVE
    if isinstance(value, ScopeGraph):
        return value
    if isinstance(value, Mapping):
        return ScopeGraph(value)
    if isinstance(value, str | os.PathLike):
        return Path(value)
    if isinstance(value, GraphSource):
        return checked_source(value)
    raise ConfigurationError(
        'graph must be a ScopeGraph, a mapping, a path, "live", or an object with allows() and '
        "fetch()."
    )
