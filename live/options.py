"""The options from the command line and the environment, and the keys that are rejected."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from clerk_m2m import ConfigurationError, Secret
from clerk_m2m.environment import allow_http_from_env, api_url_from_env, require_https
from clerk_m2m.identity import USER_ID
from clerk_m2m.secret import without_credentials

_PREFIX = "sk_test_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to run, and against which instance."""

    secret_key: Secret
    api_url: str
    user: str | None = None
    oauth_token: Secret | None = None
    many_edges: bool = False
    rate_limit: bool = False
    clean: bool = False
    json_file: Path | None = None


def read_options(
    arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None
) -> Options:
    """Read the command line and the environment; raises `ConfigurationError`.

    Wrong arguments end the process with exit code 2.
    """
    given = _parser().parse_args(arguments)
    environ = os.environ if environ is None else environ
    secret_key = _test_key(environ)
    api_url = api_url_from_env(environ)
    allow_http = given.allow_http or allow_http_from_env(environ)
    require_https("api_url (CLERK_API_URL)", api_url, allow_http=allow_http, secret_key=secret_key)
    if given.user is not None and not USER_ID.fullmatch(given.user):
        raise ConfigurationError("--user takes the id of a user: user_ and 27 word characters.")
    if given.json is not None and not given.json.absolute().parent.is_dir():
        raise ConfigurationError("--json names a file in a folder that does not exist.")
    return Options(
        secret_key=secret_key,
        api_url=api_url,
        user=given.user,
        oauth_token=_token_in(given.oauth_token_file),
        many_edges=given.many_edges,
        rate_limit=given.rate_limit,
        clean=given.clean,
        json_file=given.json,
    )


def _test_key(environ: Mapping[str, str]) -> Secret:
    key = Secret(environ.get("CLERK_SECRET_KEY", "").strip())
    del environ  # it holds keys, and tracebacks may show the locals of this frame
    if not key:
        raise ConfigurationError(
            "Set CLERK_SECRET_KEY to the secret key of a development instance (sk_test_…). It is "
            "on the API keys page of Clerk's dashboard."
        )
    if key.reveal().startswith("sk_live_"):
        raise ConfigurationError(
            "CLERK_SECRET_KEY is a production instance's (sk_live_…). These checks create and "
            "delete machines: set the key of a development instance (sk_test_…)."
        )
    if not _is_test_key(key):
        raise ConfigurationError(
            "CLERK_SECRET_KEY does not look like a development instance's secret key: such a key "
            "starts with sk_test_ and contains no spaces."
        )
    return key


def _is_test_key(key: Secret) -> bool:
    text = key.reveal()
    return text.startswith(_PREFIX) and text.isascii() and text.isprintable() and " " not in text


def _token_in(path: Path | None) -> Secret | None:
    if path is None:
        return None
    try:
        token = Secret(path.read_text("utf-8").strip())
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"--oauth-token-file cannot be read: {type(exc).__name__}.") from (
            None
        )
    if not token:
        raise ConfigurationError("--oauth-token-file is empty.")
    return token


class _Parser(argparse.ArgumentParser):
    """Removes keys and tokens from its error messages, in case one was given by mistake."""

    def error(self, message: str) -> NoReturn:
        super().error(without_credentials(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m live",
        description="Check what this package assumes of Clerk, against a development instance.",
        epilog="Reads CLERK_SECRET_KEY (sk_test_…), CLERK_API_URL and CLERK_M2M_ALLOW_HTTP. Exit "
        "codes: 0 all as assumed, 1 something differs, 2 the run or a check could not finish.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--user", metavar="user_…", help="create API keys for this user, and delete them again"
    )
    parser.add_argument(
        "--oauth-token-file",
        metavar="FILE",
        type=Path,
        help="a file with a live OAuth access token of the instance, to verify",
    )
    parser.add_argument(
        "--many-edges",
        action="store_true",
        help="create 152 more machines, to check one with 150 edges (about 300 calls)",
    )
    parser.add_argument(
        "--rate-limit",
        action="store_true",
        help="use up the rate limit of the instance once, for up to 10 s",
    )
    parser.add_argument(
        "--allow-http",
        action="store_true",
        help="allow plain http for CLERK_API_URL on other hosts than loopback",
    )
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="also write the result to this file, as JSON"
    )
    parser.add_argument(
        "--clean",
        action="store_true",
        help="run no check; delete what other runs created (also one in progress)",
    )
    return parser
