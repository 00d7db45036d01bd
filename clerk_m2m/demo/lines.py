"""JSON lines between a worker and its parent process: read from stdin, written to stdout."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any


async def read_line() -> Any:
    """Return the value of the next line of stdin, or None at its end; does not block the loop."""
    line = await asyncio.to_thread(sys.stdin.readline)
    return json.loads(line) if line else None


def write_line(value: Any) -> None:
    """Write a value as one line to stdout and flush."""
    print(json.dumps(value), flush=True)
