"""Clerk for the soak run, in its own process: the emulator with a callee and its callers."""

from __future__ import annotations

import json
import sys

from bench.processes import serve
from clerk_m2m.emulator import Emulator

if __name__ == "__main__":
    wanted = json.loads(sys.stdin.readline())
    emulator = Emulator()
    callee = emulator.add_machine("callee")
    callers = [
        emulator.add_machine(f"caller {number}", may_call=[callee])
        for number in range(wanted["callers"])
    ]
    answer = {
        "secret_key": emulator.secret_key,
        "callee": callee.id,
        "callee_key": callee.secret_key,
        "callers": [[each.id, each.secret_key] for each in callers],
    }
    # The run reuses its connections after pauses. By default, uvicorn closes them after 5 s.
    serve(emulator, answer, access_log=False, timeout_keep_alive=3600)
