"""The common parts of all commands: exit codes, output and questions.

A command prints its result to stdout and everything else to stderr. Its exit code is 0 for yes, or
no difference; 1 for no, or a difference (`raise typer.Exit(NO)`); 2 for everything else (raise a
`CommandError`, or let any other exception propagate); and 130 after Ctrl-C.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any, Final, NoReturn, Protocol

import typer
from typer.core import TyperGroup

from clerk_m2m.errors import ClerkM2MError
from clerk_m2m.secret import without_credentials

NO: Final = 1
FAILED: Final = 2
INTERRUPTED: Final = 130

# The version of the JSON that `--json` prints. A new member does not change it.
FORMAT_VERSION: Final = 1

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to stdout and nothing else there.")
]
Yes = Annotated[
    bool, typer.Option("--yes", help="Do not ask before something is changed in a live instance.")
]

# So wide that no row is wrapped if another program reads the output.
_WIDE: Final = 10_000


class CommandError(Exception):
    """The command failed; the text is printed, and the exit code is 2."""


class CommandLine(TyperGroup):
    """The commands, with the exit codes from the top of this file.

    Python and Typer exit with 1 after an exception and after a declined prompt, which would look
    like the answer "no".
    """

    def main(self, *args: Any, **given: Any) -> NoReturn:
        """Run the command that the arguments name, and exit the process."""
        try:
            # Fail before the command does anything whose result would be lost.
            if sys.stdout is None:
                raise CommandError("Standard output is closed. (To drop it: > /dev/null)")
            # If the locale's encoding lacks a character, print it as an escape.
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="backslashreplace")
            code = super().main(*args, **given | {"standalone_mode": False})
            sys.stdout.flush()  # flush now, so that a failure still sets the exit code
        except SystemExit as exc:
            # Typer's own exit, e.g. after a broken pipe: only a command's Exit(1) means "no".
            code = FAILED if exc.code == 1 else exc.code
        except Exception as exc:  # noqa: BLE001  no exception may exit the process with 1
            # On a full disk the error cannot be printed, but the exit code still shows it.
            with suppress(OSError):
                _tell(exc)
            code = FAILED
        if code == INTERRUPTED:  # Typer raises this for a KeyboardInterrupt
            with suppress(OSError):
                say("Stopped.")
        sys.exit(code if isinstance(code, int) else 0)


def _tell(exc: Exception) -> None:
    """Print the error, without any key or token from the input or from an answer."""
    if isinstance(exc, BrokenPipeError):
        # The reader of stdout has closed it: discard the rest of the buffer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    elif isinstance(exc, typer.Abort):
        say("Stopped.")
    elif callable(text_of := getattr(exc, "format_message", None)):  # Typer's: wrong usage
        if text := text_of():  # without a message, Typer has already shown the help
            context = getattr(exc, "ctx", None)
            say(f"Error: {text}" + (f" See {context.command_path} --help" if context else ""))
    elif isinstance(exc, OSError):
        place = f"{exc.filename}: " if exc.filename else ""
        say(f"Error: {place}{exc.strerror or exc}")
    elif isinstance(exc, CommandError | ClerkM2MError):
        say(f"Error: {exc}")
    else:
        say("".join(traceback.format_exception(exc)))
        say("Error: this should not happen. Please report it with the lines above.")


def say(text: str) -> None:
    """Print a line for a person to stderr, without control characters, keys and tokens."""
    lines = without_credentials(text).rstrip().splitlines()
    typer.echo("\n".join(printable(line) for line in lines), err=True)


def printable(text: str) -> str:
    """Return a text without characters that control a terminal; a name may hold any character."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def print_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """Print lines of a result to stdout, or to stderr with `err`."""
    for line in lines:
        typer.echo(printable(line), err=err)


def print_json(document: Mapping[str, Any], *, err: bool = False) -> None:
    """Print a document with its `format_version`, as the only thing on stdout.

    With `err` it goes to stderr, because a secret is printed to stdout.
    """
    typer.echo(json.dumps({"format_version": FORMAT_VERSION, **document}, indent=2), err=err)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, err: bool = False
) -> None:
    """Print rows of text under their headings, to stderr with `err`; each row stays one line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(printable(cell), no_wrap=True) for cell in row))
    Console(soft_wrap=True, width=_WIDE, highlight=False, stderr=err).print(table)


def confirm(question: str, *, yes: bool, instead: str = "--yes") -> None:
    """Ask on stderr, unless `yes`; raises `CommandError` for any answer except y or yes.

    `instead` is the option that answers the question without a terminal.
    """
    if yes:
        return
    typer.echo(f"{printable(question)} [y/N] ", err=True, nl=False)
    # Typer's own prompt does not distinguish Ctrl-C from the end of the input.
    answer = sys.stdin.readline() if sys.stdin else ""
    if answer.strip().lower() not in ("y", "yes"):
        if not answer:
            typer.echo("", err=True)
        raise CommandError(f"Nothing was changed. (Answer y, or give {instead}.)")


class Advance(Protocol):
    """Advances a progress bar; the total may be passed later, when it is known."""

    def __call__(self, steps: int, total: int | None = None, /) -> None: ...


@contextmanager
def progress(what: str, *, shown: bool = True) -> Iterator[Advance]:
    """Show a progress bar on stderr if that is a terminal; call the value with the steps done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda *_steps: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def advance(steps: int, total: int | None = None, /) -> None:
            bar.update(task, advance=steps, total=total)

        yield advance
