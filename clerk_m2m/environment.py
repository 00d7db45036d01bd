"""The forms of keys, addresses and numbers, and what is read beside the settings.

A mounted secret, a file that holds a key, counts as environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from ipaddress import IPv6Address, ip_address
from math import inf
from pathlib import Path
from sys import float_info
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from clerk_m2m.errors import ConfigurationError
from clerk_m2m.secret import KeyAnswer, Secret, SecretCallable, hidden

# How a key of ours may be given: as text, as a callable that gives it, or as a file that holds it.
SecretKey: TypeAlias = str | Secret | Callable[[], KeyAnswer] | os.PathLike[str]

# The keys of `Settings`, `ClerkClient` and `MachineTokenAuth`, and where each is read from.
KEY_VARIABLES: Final = {
    "machine_secret_key": "CLERK_MACHINE_SECRET_KEY",
    "secret_key": "CLERK_SECRET_KEY",
}
DEFAULT_API_URL: Final = "https://api.clerk.com"
_URL: Final = re.compile(r"(?i:https?)://[A-Za-z0-9.\-_:\[\]]+([/?#][\x21-\x7e]*)?")
_ORIGIN: Final = re.compile(r"[A-Za-z]+://[^/?#]+")
_BOOLEANS: Final = {"1": True, "true": True, "0": False, "false": False}
# No key is nearly as long, in bytes.
_MAX_KEY_FILE: Final = 16 * 1024


def key_from_env(variable: str, environ: Mapping[str, str] | None = None) -> Secret | Path | None:
    """Read a key from `variable`, or the path of the file that holds it from `variable`_FILE."""
    text, path = _variable(environ, variable), _variable(environ, f"{variable}_FILE")
    del environ  # it holds keys, and tracebacks may show the locals of this frame
    if text and path:
        raise ConfigurationError(f"{variable} and {variable}_FILE are both set: set one of them.")
    return Path(path.reveal()) if path else text or None


def machine_id_from_env(environ: Mapping[str, str] | None = None) -> str:
    """Read the service's own machine, `CLERK_MACHINE_ID`; empty where it is unset."""
    text = _variable(environ, "CLERK_MACHINE_ID")
    del environ  # it holds keys, and tracebacks may show the locals of this frame
    return text.reveal()


def api_url_from_env(environ: Mapping[str, str] | None = None) -> str:
    """Read the Backend API's origin, `CLERK_API_URL`, or give Clerk's own."""
    text = _variable(environ, "CLERK_API_URL")
    del environ  # it holds keys, and tracebacks may show the locals of this frame
    return bare_origin(text.reveal() or DEFAULT_API_URL)


def allow_http_from_env(environ: Mapping[str, str] | None = None) -> bool:
    """Read whether plain http is allowed off loopback, `CLERK_M2M_ALLOW_HTTP`; unset is no."""
    variable = "CLERK_M2M_ALLOW_HTTP"
    text = _variable(environ, variable)
    del environ  # it holds keys, and tracebacks may show the locals of this frame
    return _flag_from_text(variable, text) if text else False


def unknown_variables(
    known: Iterable[str], environ: Mapping[str, str] | None = None
) -> dict[str, str | None]:
    """Give each variable that begins with CLERK_M2M_ and is not `known`, and the nearest known."""
    names = [name for name in (os.environ if environ is None else environ) if _is_ours(name)]
    del environ  # it holds keys, and tracebacks may show the locals of this frame
    return {name: nearest(name, known) for name in sorted(set(names).difference(known))}


def misspelt_variables(
    known: Collection[str], environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Give each variable of Clerk's that is near to a `known` one which is not set, and that one.

    Variables without a near one may be other programs'.
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
    """Give the known name that `name` was probably meant to be, or None."""
    return next(iter(get_close_matches(name, list(known), 1, 0.8)), None)


def _flag_from_text(variable: str, text: Secret) -> bool:
    flag = _BOOLEANS.get(text.reveal().lower())
    if flag is None:
        raise ConfigurationError(f"{variable} must be 1 or true, or 0 or false.")
    return flag


def _variable(environ: Mapping[str, str] | None, name: str) -> Secret:
    """Give the text of a variable, which may hold a key, whatever it is meant for."""
    return Secret((os.environ if environ is None else environ).get(name, "").strip())


def checked_secret_key(
    name: str, prefix: str, given: SecretKey | None
) -> Secret | Path | SecretCallable | None:
    """Give where a key comes from, checked as far as it can be now; None for none.

    Raises `ConfigurationError` for a text that is no such key, and for a file that holds none.
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
    """Read a key from a file, without the white space around it.

    Raises `ConfigurationError`, which names the file and never quotes it.
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
        # Not chained: the cause may quote what is in the file.
        raise ConfigurationError(f"{name} cannot be read from {path}: {fault}.")
    return key


def _text_of(path: Path) -> Secret:
    with path.open("rb") as file:
        return Secret(file.read(_MAX_KEY_FILE).decode("utf-8").strip())


def checked_key(name: str, prefix: str, value: str | Secret | None) -> Secret | None:
    """Give a key that can stand in a header and is of its kind; None for none."""
    if not value:
        return None
    # A key that was read from a file or pasted often ends with a line break.
    value = Secret(Secret(value).reveal().strip())
    fault = _fault_of(value, prefix)
    if fault:
        variable = f" ({KEY_VARIABLES[name]})" if name in KEY_VARIABLES else ""
        raise ConfigurationError(f"{name}{variable} does not look like one: {fault}")
    return value


def _fault_of(key: Secret, prefix: str) -> str | None:
    # The key is part of a header: what cannot stand there would fail at the first request.
    text = key.reveal()
    if text.startswith(("'", '"')):
        return "it is in quotes, which are not part of a key. Take them away."
    if not text.startswith(prefix):
        return f"it starts with {prefix}. (Is it another of Clerk's keys?)"
    if not (text.isascii() and text.isprintable()) or " " in text:
        return "it holds no spaces, no line breaks and only ASCII characters. Copy it again."
    return None


def checked_flag(name: str, value: object) -> bool:
    """Give a boolean as it is; a text such as "no" would count as true."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False.")
    return value


def checked_seconds(name: str, value: object, *, least: float = 0.0, most: float = inf) -> float:
    """Give a number of seconds as a float; raises `ConfigurationError` outside of the bounds."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not least <= value <= min(most, float_info.max)  # which nan and inf are not
    ):
        upper = f" to {most:g}" if most < inf else " or more"
        raise ConfigurationError(f"{name} must be a number of seconds, {least:g}{upper}.")
    return float(value)


def checked_rate(name: str, value: object) -> float | None:
    """Give a number a second, or None; raises `ConfigurationError` for what is no rate."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
        raise ConfigurationError(f"{name} must be a number a second, above 0.")
    return float(value)


def checked_count(name: str, value: object, *, least: int = 1) -> int:
    """Give a whole number; raises `ConfigurationError` for what is none, or too small."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} must be a whole number, {least} or more.")
    return value


def _url(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be text.")
    try:
        parts = urlsplit(value)
        usable = bool(parts.hostname) and parts.port != 0  # reading an impossible port raises
        (parts.hostname or "").encode("ascii").decode("idna")  # as does a label that is no name
    except ValueError:
        usable = False
    # What urlsplit lets pass here, the HTTP client would refuse at the first request.
    if not (usable and _URL.fullmatch(value)):
        raise ConfigurationError(
            f"{name} must be an http or https address with no user name, such as {DEFAULT_API_URL}."
        )
    return value


def bare_origin(value: str) -> str:
    """Give the origin of the Backend API, without a slash or a `/v1` at its end."""
    # Clerk's documents give the address with `/v1`, which each path here begins with.
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
    """Refuse plain http off loopback unless `allow_http`, and with a live instance's key always.

    Whoever is on the way could read the keys and tokens that are sent, or answer in Clerk's place.
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
            f"{name} must be https, because plain http lets whoever is on the way read keys or "
            "answer in Clerk's place. For an emulator in a container, set allow_http=True "
            "(CLERK_M2M_ALLOW_HTTP=1)."
        )


def is_loopback(host: str) -> bool:
    """Tell whether what is sent to `host` stays on this machine: 127.0.0.0/8, ::1 or localhost.

    Not `*.localhost`: RFC 6761 section 6.3 only recommends that resolvers answer it with loopback,
    and some ask the network instead.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    # Python's versions differ about ::ffff:127.0.0.1, so it does not count.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address.is_loopback and mapped is None
