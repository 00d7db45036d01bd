"""Secrets that a command reads or returns: never in its arguments, never mixed into its output.

with handed_over(secret_file, show_secret) as hand_over:
    created = await clerk.machines.create(…)
    hand_over(created.secret_key)
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from clerk_m2m.cli.program import CommandError, say
from clerk_m2m.secret import Secret

SecretFile = Annotated[
    Path | None,
    typer.Option(
        "--secret-file",
        metavar="FILE",
        help="Write the new secret to this file, which must not exist; its mode is 0600.",
    ),
]
ShowSecret = Annotated[
    bool,
    typer.Option(
        "--show-secret", help="Print the new secret to stdout, and everything else to stderr."
    ),
]

HandOver: TypeAlias = Callable[[Secret], None]

# The limit of standard input: a header may hold 8 KiB, and several may be pasted together.
_MAX_INPUT: Final = 256 * 1024


def read_secret(what: str) -> Secret:
    """Read a secret from standard input; a terminal shows a prompt and no echo.

    Raises `CommandError` if there is none.
    """
    if sys.stdin is None:  # closed, for example with `<&-`
        text = Secret("")
    elif sys.stdin.isatty():
        text = Secret(getpass.getpass(f"{what} (not shown): ", stream=sys.stderr).strip())
    else:
        text = _read_stdin()
    if not text:
        raise CommandError(f"There is no {what} on standard input.")
    return text


def _read_stdin() -> Secret:
    try:
        return Secret(sys.stdin.read(_MAX_INPUT).strip())
    except UnicodeDecodeError:
        # Raised outside of `except`, so not chained: the original error holds the input.
        raise CommandError("Standard input is not UTF-8 text.") from None


@contextmanager
def handed_over(
    secret_file: Path | None, show_secret: bool, *, required: bool = True
) -> Iterator[HandOver]:
    """Return a function that writes the new secret to the file or to stdout, as the options say.

    The file is created first, so a new secret is not lost because it cannot be written. If the
    block fails before there is a secret, the file is removed. Raises `CommandError` if both options
    are set, or if neither is set and one is `required`.
    """
    if secret_file is not None and show_secret:
        raise CommandError("Give --secret-file or --show-secret, not both.")
    if secret_file is None:
        if required and not show_secret:
            raise CommandError(
                "Where is the new secret to go? Give --secret-file FILE, or --show-secret for "
                "standard output."
            )
        yield _show if show_secret else _drop
        return
    with _new_file(secret_file) as hand_over:
        yield hand_over


@contextmanager
def _new_file(path: Path) -> Iterator[HandOver]:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise CommandError(f"{path} exists already, and is not overwritten.") from None
    written = False

    def hand_over(secret: Secret) -> None:
        nonlocal written
        written = True
        with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as file:
            file.write(secret.reveal() + "\n")
            file.flush()
            os.fsync(file.fileno())
        say(f"The secret is in {path}.")

    try:
        yield hand_over
    finally:
        os.close(descriptor)
        if not written:
            path.unlink(missing_ok=True)


def _show(secret: Secret) -> None:
    typer.echo(secret.reveal())


def _drop(_secret: Secret) -> None:
    """Do nothing: the secret can be read from Clerk later."""
