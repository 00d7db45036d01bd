"""`clerk-m2m emulator`: the emulated Backend API on a port."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.cli.program import CommandError, printable
from clerk_m2m.environment import is_loopback

if TYPE_CHECKING:
    from clerk_m2m.backend_api.resources import Machine
    from clerk_m2m.emulator import Emulator

MACHINES_SHOWN: Final = 20
MAX_PORT: Final = 65_535


def emulator(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.")] = 4010,
    secret_key: Annotated[
        str | None, typer.Option(help="The instance's key, sk_test_…; made up unless given.")
    ] = None,
    db: Annotated[
        Path | None, typer.Option(help="Keep everything in this file; in memory unless given.")
    ] = None,
    seed: Annotated[
        Path | None, typer.Option(help="A TOML file of machines, edges and API keys.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name by which /_emulator may be called, besides loopback and --host, such as "
            "a container's; repeatable.",
        ),
    ] = None,
) -> None:
    """Serve Clerk's machine-auth Backend API, emulated, until Ctrl-C."""
    if secret_key is not None and not secret_key.startswith("sk_test_"):
        _fail("--secret-key must start with sk_test_ (and never be a real instance's key).")
    # The socket tells the emulator its address, but not the name that it was bound by.
    allowed = [*(allow_host or []), *([] if _is_address(host) else [host])]
    try:
        with (
            closing(_open_emulator(secret_key, db, seed, allowed)) as emulated,
            _listen(host, port) as listener,
        ):
            if not is_loopback(host):
                typer.echo(
                    f"Warning: {host} is not loopback. Everyone who can reach this port can use "
                    "/_emulator, which needs no key.",
                    err=True,
                )
            address = _origin(host, listener)
            typer.echo(asyncio.run(_introduction(emulated, address, kept_in=db)))
            _serve(emulated, listener)
    except KeyboardInterrupt:
        pass  # the user stops the emulator with Ctrl-C; uvicorn shuts down and raises it again


def _fail(message: str) -> NoReturn:
    raise CommandError(message)


def _open_emulator(
    secret_key: str | None, db: Path | None, seed: Path | None, allowed_hosts: list[str]
) -> Emulator:
    # Imported only now: it brings PyJWT and cryptography, and no other command needs it.
    from clerk_m2m.emulator import Emulator

    try:
        return Emulator(
            secret_key=secret_key,
            database=db or ":memory:",
            seed=seed,
            allowed_hosts=allowed_hosts,
        )
    except ValueError as exc:  # a SeedError names the file, the table and the key
        _fail(str(exc))
    except (sqlite3.Error, OSError) as exc:
        _fail(f"{db} cannot be used as the database: {exc}")


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= MAX_PORT:
        _fail(f"--port must be 0 to {MAX_PORT}, not {port}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        # Python adds "(while attempting to bind on address …)", which our text contains already.
        reason = (exc.strerror or "").partition(" (while")[0]
        _fail(f"cannot listen on {host} port {port}: {reason}")
    # asyncio sets this on its own sockets; without it an answer takes 40 ms longer.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return ":" in host  # a mistyped IPv6 address: the error of `_listen` says what is wrong
    return True


def _origin(host: str, listener: socket.socket) -> str:
    """Return an origin that can be opened on this machine; a wildcard address cannot."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  told apart, not bound
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"


async def _introduction(emulated: Emulator, address: str, *, kept_in: Path | None) -> str:
    """Return the text with the emulator's address, variables to paste, and existing machines."""
    lines = [
        f"Clerk emulator: {address} (Ctrl-C stops it)",
        f"Kept in {kept_in}." if kept_in else "Kept in memory only; --db FILE keeps it.",
        "",
        "For every service:",
        f"  export CLERK_API_URL={address}",
        "To manage machines; in a service also for the live graph, JWTs and API keys:",
        f"  export CLERK_SECRET_KEY={emulated.secret_key}",
        "",
    ]
    machines = await _machines(emulated)
    for machine in machines[:MACHINES_SHOWN]:
        lines += _machine_lines(machine, emulated.machine(machine.id).secret_key)
    if len(machines) > MACHINES_SHOWN:
        lines += [f"And {len(machines) - MACHINES_SHOWN} more: GET {address}/v1/machines", ""]
    return "\n".join([*lines, "" if machines else _CREATE_MACHINES, _MINT_A_TOKEN]).rstrip()


_CREATE_MACHINES: Final = """\
No machine yet. Create a service, and paste its id and secret_key from the answer:
  curl "$CLERK_API_URL/v1/machines" -H "Authorization: Bearer $CLERK_SECRET_KEY" \\
    -H "Content-Type: application/json" -d '{"name": "orders"}'
  export CLERK_MACHINE_ID=mch_… CLERK_MACHINE_SECRET_KEY=ak_…

Create a caller that may call it:
  curl "$CLERK_API_URL/v1/machines" -H "Authorization: Bearer $CLERK_SECRET_KEY" \\
    -H "Content-Type: application/json" \\
    -d "{\\"name\\": \\"billing\\", \\"scoped_machines\\": [\\"$CLERK_MACHINE_ID\\"]}"
"""

_MINT_A_TOKEN: Final = """\
Mint a token with the CALLER's secret_key (it keeps the scopes that it is minted with):
  curl "$CLERK_API_URL/v1/m2m_tokens" -H "Authorization: Bearer ak_…" \\
    -H "Content-Type: application/json" -d {}

Add an edge:     POST   /v1/machines/<caller>/scopes  {"to_machine_id": "<callee>"}
Remove an edge:  DELETE /v1/machines/<caller>/scopes/<callee>"""


def _machine_lines(machine: Machine, secret_key: str) -> list[str]:
    callees = ", ".join(callee.name for callee in machine.scoped_machines) or "nobody"
    return [
        printable(f"Machine {machine.name} (may call: {callees}):"),
        f"  export CLERK_MACHINE_ID={machine.id}",
        f"  export CLERK_MACHINE_SECRET_KEY={secret_key}",
        "",
    ]


async def _machines(emulated: Emulator) -> list[Machine]:
    from httpx import ASGITransport  # in process, because the emulator does not listen yet

    async with ClerkClient(
        secret_key=emulated.secret_key,
        api_url="http://emulator",
        transport=ASGITransport(app=emulated),
    ) as clerk:
        machines = [machine async for machine in clerk.machines.iter(order_by="created_at")]
    emulated.calls.clear()  # from here on only the user's calls are counted
    return machines


def _serve(emulated: Emulator, listener: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(emulated, access_log=False, log_level="warning", date_header=False)
    uvicorn.Server(config).run(sockets=[listener])
