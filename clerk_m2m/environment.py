"""Checks of keys, URLs and numbers, and readers of environment variables that are not settings.

A file that holds a key (a mounted secret) counts as environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import IPv6Address, ip_address
from math import inf
from pathlib import Path
from sys import float_info
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from clerk_m2m.errors import ConfigurationError
from clerk_m2m.secret import KeyAnswer, Secret, SecretCallable, hidden

# The forms of our own keys: text, a callable that returns it, or the path of a file with it.
SecretKey: TypeAlias = str | Secret | Callable[[], KeyAnswer] | os.PathLike[str]

# The keys of `Settings`, `ClerkClient` and `MachineTokenAuth`, and their variables.
KEY_VARIABLES: Final = {
    "machine_secret_key": "CLERK_MACHINE_SECRET_KEY",
    "secret_key": "CLERK_SECRET_KEY",
}
DEFAULT_API_URL: Final = "https://api.clerk.com"
_URL: Final = re.compile(r"(?i:https?)://[A-Za-z0-9.\-_:\[\]]+([/?#][\x21-\x7e]*)?")
_ORIGIN: Final = re.compile(r"[A-Za-z]+://[^/?#]+")
_BOOLEANS: Final = {"1": True, "true": True, "0": False, "false": False}
# In bytes; all keys are much shorter.
_MAX_KEY_FILE: Final = 16 * 1024


def key_from_env(variable: str, environ: Mapping[str, str] | None = None) -> Secret | Path | None:
    """Read a key from `variable`, or the path of the file that holds it from `variable`_FILE."""
    text, path = _variable(environ, variable), _variable(environ, f"{variable}_FILE")
    del environ  # it holds keys, and tracebacks may show the locals of this frame
    if text and path:
        raise ConfigurationError(f"{variable} and {variable}_FILE are both set: set one of them.")
    return Path(path.reveal()) if path else text or None


def machine_id_from_env(environ: Mapping[str, str] | None = None) -> str:
    """Read the service's own machine id, `CLERK_MACHINE_ID`; empty if it is unset."""
    text = _variable(environ, "CLERK_MACHINE_ID")
    del environ  # it holds keys, and tracebacks may show the locals of this frame
    return text.reveal()


def api_url_from_env(environ: Mapping[str, str] | None = None) -> str:
    """Read the Backend API's origin, `CLERK_API_URL`; Clerk's own if it is unset."""
    text = _variable(environ, "CLERK_API_URL")
    del environ  # it holds keys, and tracebacks may show the locals of this frame
    return bare_origin(text.reveal() or DEFAULT_API_URL)


def allow_http_from_env(environ: Mapping[str, str] | None = None) -> bool:
    """Read `CLERK_M2M_ALLOW_HTTP`: whether plain http is allowed off loopback; False if unset."""
    variable = "CLERK_M2M_ALLOW_HTTP"
    text = _variable(environ, variable)
    del environ  # it holds keys, and tracebacks may show the locals of this frame
    return _flag_from_text(variable, text) if text else False


def unknown_variables(
    known: Iterable[str], environ: Mapping[str, str] | None = None
) -> dict[str, str | None]:
    """Return the CLERK_M2M_ variables that are not `known`, each with a similar known one."""
    names = [name for name in (os.environ if environ is None else environ) if _is_ours(name)]
    del environ  # it holds keys, and tracebacks may show the locals of this frame
    return {name: nearest(name, known) for name in sorted(set(names).difference(known))}


def misspelt_variables(
    known: Collection[str], environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the CLERK_ variables that are similar to an unset `known` one, each with that one.

    Other variables may belong to other programs.
    """
    names = set(os.environ if environ is None else environ)
    del environ  # it holds keys, and tracebacks may show the locals of this frame
    read = {variable for name in known for variable in (name, f"{name}_FILE")}
    unset = sorted(name for name in known if not names.intersection((name, f"{name}_FILE")))
    others = sorted(name for name in names - read if name.startswith("CLERK_"))
    return {name: near for name in others if (near := nearest(name, unset))}


def _is_ours(variable: str) -> bool:
    return variable.startswith("CLERK_M2M_")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` was probably meant to be, or None."""
    from difflib import get_close_matches  # imported only where a name was misspelt

    return next(iter(get_close_matches(name, list(known), 1, 0.8)), None)


def _flag_from_text(variable: str, text: Secret) -> bool:
    flag = _BOOLEANS.get(text.reveal().lower())
    if flag is None:
        raise ConfigurationError(f"{variable} must be 1 or true, or 0 or false.")
    return flag


def _variable(environ: Mapping[str, str] | None, name: str) -> Secret:
    """Return the value of a variable; it may be a key that was put into the wrong variable."""
    return Secret((os.environ if environ is None else environ).get(name, "").strip())


def checked_secret_key(
    name: str, prefix: str, given: SecretKey | None
) -> Secret | Path | SecretCallable | None:
    """Return `given` with its key hidden, after all checks that are possible now; None for None.

    Raises `ConfigurationError` for a text that is not such a key, and for a file without one.
    """
    given = hidden(given)  # first of all: tracebacks may show the locals of this frame
    if isinstance(given, os.PathLike):
        path = Path(given)
        key_of_file(name, prefix, path)
        return path
    if isinstance(given, SecretCallable):
        return given
    if given is not None and not isinstance(given, Secret):
        raise ConfigurationError(f"{name} must be text, a Secret, a callable or a path.")
    return checked_key(name, prefix, given)


def key_of_file(name: str, prefix: str, path: Path) -> Secret:
    """Read a key from a file, without surrounding white space.

    Raises `ConfigurationError`, which names the file and never quotes its content.
    """
    try:
        key, fault = checked_key(name, prefix, _text_of(path)), "the file is empty"
    except OSError as exc:
        key, fault = None, exc.strerror or type(exc).__name__
    except ConfigurationError:
        key, fault = None, f"the file holds no key that starts with {prefix}"
    except ValueError:
        key, fault = None, "the file is not text"
    if key is None:
        # Raised outside of `except`, so not chained: the original error may quote the file.
        raise ConfigurationError(f"{name} cannot be read from {path}: {fault}.")
    return key


def _text_of(path: Path) -> Secret:
    with path.open("rb") as file:
        return Secret(file.read(_MAX_KEY_FILE).decode("utf-8").strip())


def checked_key(name: str, prefix: str, value: str | Secret | None) -> Secret | None:
    """Return a key that has its prefix and can be sent in a header; None for an empty one."""
    if not value:
        return None
    # A key from a file or the clipboard often ends with a line break.
    value = Secret(Secret(value).reveal().strip())
    fault = _fault_of(value, prefix)
    if fault:
        variable = f" ({KEY_VARIABLES[name]})" if name in KEY_VARIABLES else ""
        raise ConfigurationError(f"{name}{variable} does not look like one: {fault}")
    return value


def _fault_of(key: Secret, prefix: str) -> str | None:
    # The key is sent in a header, so an invalid character would fail at the first request.
    text = key.reveal()
    if text.startswith(("'", '"')):
        return "it is in quotes, which are not part of a key. Remove them."
    if not text.startswith(prefix):
        return f"it starts with {prefix}. (Is it another of Clerk's keys?)"
    if not (text.isascii() and text.isprintable()) or " " in text:
        return "it holds no spaces, no line breaks and only ASCII characters. Copy it again."
    return None


def checked_flag(name: str, value: object) -> bool:
    """Return a boolean; raises `ConfigurationError` for others: a text such as "no" is truthy."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False.")
    return value


def checked_seconds(name: str, value: object, *, least: float = 0.0, most: float = inf) -> float:
    """Return a number of seconds as a float; raises `ConfigurationError` outside the bounds."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not least <= value <= min(most, float_info.max)  # False for nan and inf
    ):
        upper = f" to {most:g}" if most < inf else " or more"
        raise ConfigurationError(f"{name} must be a number of seconds, {least:g}{upper}.")
    return float(value)


def checked_rate(name: str, value: object) -> float | None:
    """Return a rate per second, or None; raises `ConfigurationError` for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
        raise ConfigurationError(f"{name} must be a number a second, above 0.")
    return float(value)


def checked_count(name: str, value: object, *, least: int = 1) -> int:
    """Return a whole number; raises `ConfigurationError` if it is too small or not a number."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} must be a whole number, {least} or more.")
    return value


def _url(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be text.")
    try:
        parts = urlsplit(value)
        usable = bool(parts.hostname) and parts.port != 0  # raises if the port is impossible
        (parts.hostname or "").encode("ascii").decode("idna")  # raises if a label is invalid
    except ValueError:
        usable = False
    # urlsplit accepts these, but the HTTP client would fail at the first request.
    if not (usable and _URL.fullmatch(value)):
        raise ConfigurationError(
            f"{name} must be an http or https address with no user name, such as {DEFAULT_API_URL}."
        )
    return value


def bare_origin(value: str) -> str:
    """Return the origin of the Backend API, without a slash or a `/v1` at its end."""
    # Clerk's documents write the URL with `/v1`, but here each path begins with it.
    origin = _url("api_url", value).rstrip("/").removesuffix("/v1").rstrip("/")
    if not _ORIGIN.fullmatch(origin):
        raise ConfigurationError(
            f"api_url (CLERK_API_URL) is the bare origin, such as {DEFAULT_API_URL}, with no path."
        )
    return origin


_LIVE_KEY: Final = "sk_live_"


def require_https(
    name: str, url: str, *, allow_http: bool, secret_key: Secret | None = None
) -> None:
    """Raise `ConfigurationError` for plain http off loopback, unless `allow_http` is set.

    With a live instance's key it is never allowed. Over plain http an attacker on the network could
    read the keys and tokens that are sent, or answer in Clerk's place.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" or is_loopback(parts.hostname or ""):
        return
    if secret_key is not None and secret_key.reveal().startswith(_LIVE_KEY):
        raise ConfigurationError(
            f"{name} must be https: secret_key is a live instance's ({_LIVE_KEY}…), and allow_http "
            "is for test instances only."
        )
    if not allow_http:
        raise ConfigurationError(
            f"{name} must be https, because over plain http an attacker on the network can read "
            "keys or answer in Clerk's place. For an emulator in a container, set allow_http=True "
            "(CLERK_M2M_ALLOW_HTTP=1)."
        )


def is_loopback(host: str) -> bool:
    """Return whether `host` is this machine: 127.0.0.0/8, ::1 or localhost.

    Not `*.localhost`: RFC 6761 section 6.3 only recommends that resolvers map it to loopback, and
    some resolvers ask the network.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    # Python's versions differ on ::ffff:127.0.0.1, so it does not count as loopback.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address.is_loopback and mapped is None
