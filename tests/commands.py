"""Runs the command line in process: its exit code, and what it printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from clerk_m2m.cli import app

COMMANDS = get_command(app)


@dataclass(frozen=True)
class Ended:
    """The exit code of a command and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Return the JSON document on stdout."""
        document = json.loads(self.out)
        assert document["format_version"] == 1
        assert isinstance(document, dict)
        return document


def run_command(
    *arguments: object,
    stdin: str | bytes = "",
    environ: Mapping[str, str] | None = None,
    charset: str = "utf-8",
) -> Ended:
    """Run `clerk-m2m` with these arguments; `environ` is added to the environment."""
    # `invoke` would build the commands for each run, which takes half of a run's time.
    runner = CliRunner(charset=charset)
    with runner.isolation(input=stdin, env=environ) as (stdout, stderr, _):
        with pytest.raises(SystemExit) as raised:
            COMMANDS.main(list(map(str, arguments)))
        sys.stdout.flush()
        sys.stderr.flush()
        printed = [each.getvalue().decode(charset) for each in (stdout, stderr)]
    assert isinstance(raised.value.code, int)
    return Ended(raised.value.code, *printed)
