"""The common parts of all commands: exit codes and error output."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from commands import COMMANDS, run_command
from typer.testing import CliRunner

from clerk_m2m.cli import app
from clerk_m2m.cli.program import (
    NO,
    CommandError,
    CommandLine,
    confirm,
    print_table,
    printable,
)

KEY = "sk_live_" + "k" * 40


def ending(raised: BaseException) -> tuple[int, str]:
    """Run a command that raises this; return its exit code and its errors."""
    command = typer.Typer(cls=CommandLine)

    @command.callback()
    def _callback() -> None: ...

    @command.command()
    def fail() -> None:
        raise raised

    done = CliRunner().invoke(command, ["fail"])
    assert done.stdout == ""
    return done.exit_code, done.stderr


def test_only_a_negative_answer_exits_with_1() -> None:
    assert ending(typer.Exit(NO)) == (1, "")
    assert ending(CommandError("No.")) == (2, "Error: No.\n")
    assert ending(typer.Abort()) == (2, "Stopped.\n")
    assert ending(FileNotFoundError(2, "No such file", "a.toml"))[1] == (
        "Error: a.toml: No such file\n"
    )
    assert ending(SystemExit(1)) == (2, "")
    assert ending(KeyboardInterrupt()) == (130, "Stopped.\n")


def test_an_unexpected_exception_exits_with_2_and_prints_no_key() -> None:
    code, errors = ending(RuntimeError(f"odd: {KEY}"))

    assert code == 2
    assert "RuntimeError: odd: sk_…" in errors
    assert "Please report it" in errors
    assert KEY not in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ["graph", "nothing"],
        ["graph", KEY],
        ["graph", "check", "a"],
        ["graph", "pull", "--nope"],
        [],
    ],
)
def test_wrong_usage_exits_with_2_and_prints_no_key(arguments: list[str]) -> None:
    done = run_command(*arguments)

    assert done.code == 2
    assert KEY not in done.out + done.err


def test_output_that_cannot_be_printed_exits_with_2() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("only Linux has a file that is always full")
    with full.open("w") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "clerk_m2m", "--version"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    assert (done.returncode, done.stderr) == (2, "Error: No space left on device\n")


def test_an_error_that_cannot_be_printed_on_a_full_disk_exits_with_2() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("only Linux has a file that is always full")
    with full.open("w") as stderr:
        done = subprocess.run([sys.executable, "-m", "clerk_m2m", "nothing"], stderr=stderr)

    assert done.returncode == 2


@pytest.mark.parametrize(
    ("stream", "arguments", "said"),
    [
        ("stdout", ["graph", "pull"], "Error: Standard output is closed."),
        ("stdin", ["tokens", "verify"], "Error: There is no credential on standard input.\n"),
    ],
)
def test_a_closed_stream_prints_one_error_line(
    stream: str,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CLERK_SECRET_KEY", KEY)
    monkeypatch.setattr(sys, stream, None)  # as Python does after `>&-` and `<&-`

    with pytest.raises(SystemExit) as raised:
        app(arguments)

    assert raised.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith(said)
    assert len(errors.splitlines()) == 1


def test_without_stdin_a_question_counts_as_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)

    with pytest.raises(CommandError, match="Nothing was changed"):
        confirm("Really?", yes=False)


@pytest.mark.parametrize("charset", ["ascii", "latin-1"])
def test_a_name_that_the_locale_cannot_encode_is_escaped(charset: str) -> None:
    command = typer.Typer(cls=CommandLine)

    @command.callback()
    def _callback() -> None: ...

    @command.command()
    def show() -> None:
        print_table(["name"], [("to \N{SNOWMAN}",)])

    done = CliRunner(charset=charset).invoke(command, ["show"])

    assert (done.exit_code, done.stdout.split()) == (0, ["name", "to", r"\u2603"])


def test_a_question_at_the_end_of_input_counts_as_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    with pytest.raises(CommandError, match="Nothing was changed"):
        confirm("Really?", yes=False)
    confirm("Really?", yes=True)


def test_the_help_of_every_command_has_an_example() -> None:
    def commands(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, command in getattr(group, "commands", {}).items():
            yield from commands(command, *path, name)
        if path and not hasattr(group, "commands"):
            yield path, group

    found = list(commands(COMMANDS))

    assert len(found) > 15
    for path, command in found:
        assert str(command.epilog).startswith(f"Example: clerk-m2m {' '.join(path)}"), path


def test_no_text_can_control_a_terminal() -> None:
    assert printable("a\x1b[2Jb\u202ec\r") == "a\ufffd[2Jb\ufffdc\ufffd"
