"""An operator who runs commands against a served instance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import Ended, run_command

from clerk_m2m import ScopeGraph
from clerk_m2m.testing import ClerkEmulator, ClerkEmulatorServer


@dataclass(frozen=True)
class Operator:
    """Runs commands in an environment that names the instance, with a graph file."""

    emulator: ClerkEmulator
    environ: dict[str, str]
    file: Path

    def run(self, *arguments: object, answers: str = "", **environ: str) -> Ended:
        """Run `clerk-m2m graph …` in process; `answers` is the input for its questions."""
        return run_command("graph", *arguments, stdin=answers, environ=self.environ | environ)

    def ended(self, code: int, *arguments: object, **given: str) -> Ended:
        """Run a command and assert its exit code."""
        run = self.run(*arguments, **given)
        assert run.code == code, run
        return run

    def json(self, code: int, *arguments: object, **given: str) -> dict[str, Any]:
        """Run a command, assert its exit code, and return its JSON."""
        return self.ended(code, *arguments, "--json", **given).json

    def write(self, text: str) -> Path:
        """Write the graph file."""
        self.file.write_text(text, "utf-8")
        return self.file

    def live(self) -> dict[str, list[str]]:
        """Return the instance's edges, by names."""
        machines = self.json(0, "pull")["machines"]
        names = {machine["id"]: machine["name"] for machine in machines}
        return {
            machine["name"]: sorted(names[callee] for callee in machine["may_call"])
            for machine in machines
        }

    def graph(self) -> ScopeGraph:
        """Return the graph of the file, as a service reads it."""
        return ScopeGraph.from_toml(self.file.read_text("utf-8"))


@pytest.fixture
def operator(shop_server: ClerkEmulatorServer, tmp_path: Path) -> Operator:
    """An operator of an empty instance."""
    shop_server.emulator.reset()
    return Operator(shop_server.emulator, shop_server.environ(), tmp_path / "graph.toml")
