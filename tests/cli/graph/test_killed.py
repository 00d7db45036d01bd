"""`graph apply` in its own process, which is killed during its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from .conftest import Operator

MACHINES = 21
EDGES = 200


def big_file(operator: Operator) -> dict[str, list[str]]:
    """Write a file of new machines with 200 edges, and return the edges that must result."""
    names = [f"m{number:02}" for number in range(MACHINES)]
    edges: dict[str, list[str]] = {
        name: [names[(index + step) % MACHINES] for step in range(1, 11)] if index < 20 else []
        for index, name in enumerate(names)
    }
    assert sum(map(len, edges.values())) == EDGES
    operator.write(
        "\n".join(f"[machines.{name}]\nmay_call = {callees}" for name, callees in edges.items())
    )
    return {name: sorted(callees) for name, callees in edges.items()}


@pytest.mark.parametrize(
    ("operation", "ended_by"),
    [
        ("CreateMachine", signal.SIGKILL),
        ("CreateMachineScope", signal.SIGKILL),
        ("CreateMachineScope", signal.SIGINT),
    ],
)
def test_a_second_run_reaches_the_same_state_as_an_uninterrupted_run(
    operator: Operator, operation: str, ended_by: signal.Signals
) -> None:
    expected = big_file(operator)
    inherited = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell may ignore the signal
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "clerk_m2m", "graph", "apply", str(operator.file)],
            env=os.environ | operator.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            deadline = time.monotonic() + 30
            while operator.emulator.calls[operation] < 15 and time.monotonic() < deadline:
                time.sleep(0.001)
            process.send_signal(ended_by)
            _, errors = process.communicate(timeout=10)
    finally:
        signal.signal(signal.SIGINT, inherited)
    half = sum(map(len, operator.live().values()))

    operator.ended(0, "apply", operator.file)

    assert 0 < half < EDGES
    assert operator.live() == expected
    assert operator.ended(0, "plan", operator.file).out.startswith("Nothing to change")
    if ended_by is signal.SIGINT:
        assert process.returncode == 130
        assert errors.splitlines()[-1] == "Stopped."
        assert "Traceback" not in errors
