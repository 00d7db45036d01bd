"""Runs all commands of the docs page about the command line, in order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from commands import run_command

from clerk_m2m.testing import ClerkEmulatorServer

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text("utf-8")
COMMAND = re.compile(
    r"^\$ (?:export (\w+)=(\S+)|clerk-m2m (.*?)(?: < (\S+))?(?: > \S+)?)"
    r"(?: +# (?:ends with (\d))?.*)?$",
    re.M,
)


def test_the_commands_of_the_docs_page_exit_as_documented(
    clerk_emulator_server: ClerkEmulatorServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (graph,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.M | re.S)
    Path("graph.toml").write_text(graph, "utf-8")
    consoles = "".join(re.findall(r"^```console\n(.*?)^```$", PAGE, re.M | re.S))
    commands = COMMAND.findall(consoles)
    assert len(commands) == len(consoles.splitlines())

    environ = clerk_emulator_server.environ()
    for variable, value, line, stdin, code in commands:
        if variable:
            environ[variable] = value.replace("mch_…", orders_id(environ))
            continue
        given = Path(stdin).read_text("utf-8") if stdin else ""
        done = run_command(*shlex.split(line), stdin=given, environ=environ)
        assert done.code == int(code or 0), (line, done)


def orders_id(environ: dict[str, str]) -> str:
    """The id of the machine whose environment the commands of the page use."""
    listing = ["machines", "list", "--query", "orders", "--json"]
    return str(run_command(*listing, environ=environ).json["machines"][0]["id"])
