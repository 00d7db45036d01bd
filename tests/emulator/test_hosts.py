"""Requests of web pages to `/_emulator` are refused by their `Origin` or their `Host`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from clerk_m2m.emulator import Emulator

LOOPBACK, LAN = "127.0.0.1", "192.168.1.5"


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """The status and the code of an error in Clerk's shape."""
    [error] = answer.json()["errors"]
    assert answer.headers["x-clerk-trace-id"] == answer.json()["clerk_trace_id"]
    return answer.status_code, error["code"]


async def asked(
    emulator: Emulator,
    *hosts: str,
    server: Any = (LOOPBACK, 4010),
    path: str = "/_emulator",
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> httpx.Response:
    """Send a request with these `Host` headers; `server` is the address of the server's socket."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {
        "type": "http",
        "method": "GET",
        "path": path,
        "headers": [*((b"host", host.encode("latin-1")) for host in hosts), *headers],
        "server": server,
    }
    await emulator(scope, receive, send)
    start, body = sent
    return httpx.Response(start["status"], headers=start["headers"], content=body["body"])


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("127.0.0.1", (LOOPBACK, 4010)),
        ("127.0.0.1:4010", (LOOPBACK, 4010)),
        ("127.0.0.1:8080", ("172.17.0.2", 4010)),  # a port that a container publishes
        ("127.8.9.1:4010", (LOOPBACK, 4010)),
        ("localhost:4010", (LOOPBACK, 4010)),
        ("LocalHost", (LOOPBACK, 4010)),
        ("localhost.", (LOOPBACK, 4010)),
        ("localhost:", (LOOPBACK, 4010)),
        ("[::1]", ("::1", 4010, 0, 0)),
        ("[::1]:4010", ("::1", 4010, 0, 0)),
        ("[0:0:0:0:0:0:0:1]:4010", ("::1", 4010, 0, 0)),
        ("localhost", None),  # a server that does not say where it is bound
        ("localhost", ("/run/emulator.sock", None)),
        ("192.168.1.5:4010", (LAN, 4010)),
        ("192.168.1.5:4010", (LAN, "4010")),  # granian gives the port as text
        ("192.168.1.5:4010", ("::ffff:192.168.1.5", 4010, 0, 0)),  # a dual-stack socket
        ("[FD00::5]", ("fd00::5", 4010, 0, 0)),
        ("emulator.test", ("emulator.test", None)),  # in process
    ],
)
async def test_a_loopback_host_or_the_bound_address_is_answered(
    emulator: Emulator, host: str, server: Any
) -> None:
    assert (await asked(emulator, host, server=server)).status_code == 200


@pytest.mark.parametrize(
    "hosts",
    [
        ["evil.example"],
        ["evil.example:4010"],
        ["127.0.0.1.evil.example"],
        ["localhost.evil.example"],
        ["evil.localhost"],
        ["localhost.."],
        ["192.168.1.6"],
        ["0.0.0.0:4010"],
        ["127.1"],
        ["2130706433"],
        ["0x7f000001"],
        ["::1"],
        ["[::1"],
        ["[evil.example]"],
        ["[127.0.0.1]"],
        ["[::1%lo]"],
        ["localhost:evil"],
        ["localhost:4010:4010"],
        ["evil@localhost"],
        ["localhost/"],
        [" localhost"],
        ["localhost\t"],
        ["localhost,evil.example"],
        ["löcalhost"],
        [""],
        [],
        ["localhost", "localhost"],
        ["localhost", "evil.example"],
    ],
)
async def test_any_other_host_is_refused(emulator: Emulator, hosts: list[str]) -> None:
    answer = await asked(emulator, *hosts)

    assert refusal(answer) == (403, "host_not_allowed")
    assert "--allow-host NAME" in answer.json()["errors"][0]["message"]


@pytest.mark.parametrize("path", ["/_emulator", "/_emulator/", "/_emulator/calls", "/_emulator/x"])
@pytest.mark.parametrize("origin", [b"http://evil.example", b"null", b"http://localhost:4010", b""])
async def test_a_request_with_an_origin_is_refused_on_every_path(
    emulator: Emulator, path: str, origin: bytes
) -> None:
    answer = await asked(emulator, "localhost:4010", path=path, headers=[(b"origin", origin)])

    assert refusal(answer) == (403, "origin_not_allowed")


@pytest.mark.parametrize("host", ["clerk", "CLERK:80", "clerk.", "10.0.0.7:4010", "[fd00::7]:1"])
async def test_allowed_hosts_are_answered(host: str) -> None:
    emulator = Emulator(allowed_hosts=["Clerk", "10.0.0.7", "fd00::7"])
    answer = await asked(emulator, host)
    other = await asked(emulator, "evil.example")
    emulator.close()

    assert answer.status_code == 200
    assert refusal(other) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    "given", ["clerk", ["clerk:4010"], ["http://clerk"], ["*"], ["*.test"], [""], ["a b"]]
)
def test_a_malformed_allowed_host_is_rejected(given: Any) -> None:
    with pytest.raises(ValueError, match=r"allowed.host"):
        Emulator(allowed_hosts=given)


async def test_the_backend_api_answers_any_host(emulator: Emulator) -> None:
    """It requires a key, which a web page does not have."""
    key = [(b"authorization", f"Bearer {emulator.secret_key}".encode())]
    with_key = await asked(emulator, "clerk:4010", path="/v1/machines", headers=key)
    without = await asked(emulator, "evil.example", path="/v1/machines")

    assert with_key.status_code == 200
    assert refusal(without) == (401, "authorization_header_format_invalid")


async def test_in_process_only_the_host_of_the_url_is_answered(
    emulator: Emulator,
) -> None:
    transport = httpx.ASGITransport(app=emulator)
    async with httpx.AsyncClient(transport=transport, base_url="http://clerk.test") as client:
        named = await client.get("/_emulator")
        other = await client.get("/_emulator", headers={"Host": "evil.example"})

    assert named.status_code == 200
    assert refusal(other) == (403, "host_not_allowed")


async def test_a_web_page_cannot_reset_an_emulator_on_a_socket(
    emulator: Emulator, address: str
) -> None:
    machine = emulator.add_machine("orders")
    port = address.rpartition(":")[2]
    async with httpx.AsyncClient(trust_env=False) as client:
        rebound = await client.post(
            f"{address}/_emulator/reset", headers={"Host": f"evil.example:{port}"}
        )
        page = await client.post(
            f"{address}/_emulator/reset",
            headers={"Origin": "http://evil.example", "Content-Type": "text/plain"},
        )
        script = await client.get(f"http://localhost:{port}/_emulator")

    assert refusal(rebound) == (403, "host_not_allowed")
    assert refusal(page) == (403, "origin_not_allowed")
    assert emulator.machine(machine.id) == machine
    assert script.status_code == 200


async def test_a_request_without_host_is_refused_on_a_socket(address: str) -> None:
    host, _, port = address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /_emulator/reset HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"host_not_allowed" in answer
