"""The instance that a command calls: read from the environment, and shown before any change.

    instance = Instance.from_env(api_url)
    instance.ask("create 3 machines", yes=yes)
    async with instance.client() as clerk: ...

No key is ever an option: `CLERK_SECRET_KEY`, or the path of a file in `CLERK_SECRET_KEY_FILE`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

import typer

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.cli.program import CommandError, confirm, say
from clerk_m2m.environment import (
    allow_http_from_env,
    api_url_from_env,
    bare_origin,
    is_loopback,
    key_from_env,
    key_of_file,
)
from clerk_m2m.secret import Secret

ApiUrl = Annotated[
    str | None,
    typer.Option(
        "--api-url",
        metavar="URL",
        help="The Backend API, such as an emulator's; else CLERK_API_URL, else Clerk's own.",
    ),
]

# In seconds. A page of 500 machines with 150 edges each is 17 MB and takes several seconds.
TIMEOUT: Final = 30.0
_TEST_KEY: Final = "sk_test_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """The address of an instance, and the keys for it.

    `live` is True unless the instance's key is a test key. Without the instance's key, an instance
    on loopback is an emulator and not live; others may be live.
    """

    api_url: str
    allow_http: bool
    live: bool
    secret_key: Secret | Path | None = field(repr=False)
    machine_secret_key: Secret | Path | None = field(default=None, repr=False)

    @classmethod
    def from_env(cls, api_url: str | None = None, *, machine_key: bool = False) -> Self:
        """Read the environment; raises `CommandError` or `ConfigurationError` if a key is missing.

        With `machine_key`, `CLERK_MACHINE_SECRET_KEY` is read too, and either key is enough.
        """
        key = key_from_env("CLERK_SECRET_KEY")
        of_machine = key_from_env("CLERK_MACHINE_SECRET_KEY") if machine_key else None
        if key is None and of_machine is None:
            names = "CLERK_SECRET_KEY" + (" or CLERK_MACHINE_SECRET_KEY" if machine_key else "")
            raise CommandError(
                f"Set {names} (or the same with _FILE at its end, and the path of a file that "
                "holds the key)."
            )
        url = api_url_from_env() if api_url is None else bare_origin(api_url)
        return cls(
            api_url=url,
            allow_http=allow_http_from_env(),
            live=not (
                is_loopback(urlsplit(url).hostname or "") if key is None else is_test_key(key)
            ),
            secret_key=key,
            machine_secret_key=of_machine,
        )

    def __str__(self) -> str:
        if self.secret_key is None:  # a machine's key does not show the kind of its instance
            return f"instance at {self.api_url}{', which may be LIVE' if self.live else ''}"
        return f"{'LIVE' if self.live else 'development'} instance at {self.api_url}"

    def announce(self) -> None:
        """Print on stderr which instance this is."""
        say(f"Talking to the {self}.")

    def ask(self, change: str, *, yes: bool) -> None:
        """Print which instance is changed, and ask for confirmation if it is live, unless `yes`."""
        self.announce()
        if self.live:
            confirm(f"Really {change} in the {self}?", yes=yes)

    def client(self) -> ClerkClient:
        """Return a client of the instance, for use in `async with`."""
        return ClerkClient(
            secret_key=self.secret_key,
            machine_secret_key=self.machine_secret_key,
            api_url=self.api_url,
            allow_http=self.allow_http,
            timeout=TIMEOUT,
        )


def is_test_key(key: object) -> bool:
    """Return whether a key (or the key in a file) belongs to a development instance."""
    if isinstance(key, Path):
        key = key_of_file("CLERK_SECRET_KEY_FILE", "sk_", key)
    return isinstance(key, Secret) and key.reveal().startswith(_TEST_KEY)
