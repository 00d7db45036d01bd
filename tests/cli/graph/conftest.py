"""An operator at the command line of a served instance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clerk_m2m import ScopeGraph
from clerk_m2m.cli import app
from clerk_m2m.testing import ClerkEmulator, ClerkEmulatorServer
from clerk_m2m.testing.emulators import serve


@dataclass(frozen=True)
class Run:
    """What a command ended with and printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Operator:
    """Runs commands in an environment that names the instance, beside a graph file."""

    emulator: ClerkEmulator
    environ: dict[str, str]
    file: Path

    def run(self, *arguments: object, answers: str = "", **environ: str) -> Run:
        """Run `clerk-m2m graph …` in process; nobody answers unless `answers` does."""
        done = CliRunner().invoke(
            app, ["graph", *map(str, arguments)], input=answers, env=self.environ | environ
        )
        return Run(done.exit_code, done.stdout, done.stderr)

    def ended(self, code: int, *arguments: object, **given: str) -> Run:
        """Run a command that ends with this code."""
        run = self.run(*arguments, **given)
        assert run.code == code, run
        return run

    def json(self, code: int, *arguments: object, **given: str) -> dict[str, Any]:
        """Run a command that ends with this code, and give its JSON."""
        document = json.loads(self.ended(code, *arguments, "--json", **given).out)
        assert document["format_version"] == 1
        assert isinstance(document, dict)
        return document

    def write(self, text: str) -> Path:
        """Write the graph file."""
        self.file.write_text(text, "utf-8")
        return self.file

    def live(self) -> dict[str, list[str]]:
        """Give the instance's edges, by names."""
        machines = self.json(0, "pull")["machines"]
        names = {machine["id"]: machine["name"] for machine in machines}
        return {
            machine["name"]: sorted(names[callee] for callee in machine["may_call"])
            for machine in machines
        }

    def graph(self) -> ScopeGraph:
        """Give the graph of the file, as a service reads it."""
        return ScopeGraph.from_toml(self.file.read_text("utf-8"))


@pytest.fixture(scope="session")
def served() -> Iterator[ClerkEmulatorServer]:
    """One served emulator for all tests here: starting and stopping one takes 0.1 s."""
    emulator = ClerkEmulator()
    with serve(emulator) as server:
        yield server
    emulator.close()


@pytest.fixture
def operator(served: ClerkEmulatorServer, tmp_path: Path) -> Operator:
    """An operator of an empty instance."""
    served.emulator.reset()
    return Operator(served.emulator, served.environ(), tmp_path / "graph.toml")
