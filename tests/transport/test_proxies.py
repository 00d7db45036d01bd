"""Proxies and certificates of the environment, over real sockets and TLS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from certificates import Certificates, certificates
from connect_proxy import connect_proxy
from upstreams import eventually, over_sockets, raw_upstream

from clerk_m2m import BackendUnavailableError, ClerkClient, ConfigurationError
from harness import World, serve

CLERK = "https://clerk.test"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass(frozen=True)
class Served:
    """The world's emulator over TLS at `port`, with certificates for `clerk.test` and 0.0.0.0."""

    port: int
    files: Certificates


@pytest_asyncio.fixture
async def served(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    """The world's emulator over TLS; the environment trusts its authority."""
    files = certificates(tmp_path, host="clerk.test", address="0.0.0.0")
    monkeypatch.setenv("SSL_CERT_FILE", str(files.authority))
    async with serve(world.emulator, ssl_certfile=str(files.server)) as origin:
        yield Served(urlsplit(origin).port or 0, files)


def client(world: World, api_url: str = CLERK, **given: Any) -> ClerkClient:
    return ClerkClient(secret_key=world.emulator.secret_key, api_url=api_url, **given)


async def test_calls_to_clerk_go_through_the_proxy_in_the_environment(
    world: World, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect_proxy(served.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://mary:secret@{proxy.address}")
        async with client(world) as clerk:
            for _ in range(3):
                await clerk.machines.list()
        verifier = over_sockets(world, CLERK, timeout=5.0)
        await verifier.verify(world.token())
        await verifier.aclose()

        assert proxy.asked_for() == ["clerk.test:443"] * 2  # a connection is used again
        assert "Proxy-Authorization: Basic bWFyeTpzZWNyZXQ=" in proxy.heads[0]
        assert "clerk-m2m" not in proxy.heads[0]
        assert world.emulator.secret_key.encode() not in proxy.carried
    assert world.emulator.calls == {"ListMachines": 3, "verifyM2MToken": 1}


async def test_a_host_in_no_proxy_is_called_directly_and_its_certificate_trusted(
    world: World, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect_proxy(served.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        monkeypatch.setenv("NO_PROXY", "elsewhere.test, 0.0.0.0")
        async with client(world, f"https://0.0.0.0:{served.port}") as clerk:
            await clerk.machines.list()

        assert proxy.heads == []
    assert world.emulator.calls == {"ListMachines": 1}


async def test_an_untrusted_certificate_is_refused_inside_the_tunnel(
    world: World, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    async with connect_proxy(served.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        async with client(world, retries=0) as clerk:
            with pytest.raises(BackendUnavailableError, match="certificate is not trusted"):
                await clerk.machines.list()
    assert not world.emulator.calls


async def test_loopback_is_never_called_through_a_proxy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain http is allowed there because it stays on this machine."""
    async with serve(world.emulator) as origin, connect_proxy(urlsplit(origin).port or 0) as proxy:
        for name in ("HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy.address}")
        for host in ("127.0.0.1", "localhost"):
            async with client(world, origin.replace("127.0.0.1", host)) as clerk:
                await clerk.machines.list()

        assert proxy.heads == []
    assert world.emulator.calls == {"ListMachines": 2}


async def test_the_error_names_a_refusing_proxy_without_its_password(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"
    async with connect_proxy(1, answer=refusal) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://mary:canary@{proxy.address}")
        async with client(world) as clerk:
            with pytest.raises(BackendUnavailableError, match="the proxy answered 407") as failed:
                await clerk.machines.create("orders")

        assert len(proxy.heads) == 3  # nothing was sent to Clerk, so a write is retried too
    assert "canary" not in f"{failed.value!r} {failed.value.__cause__!r}"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 2", ESTABLISHED], ids=repr)
async def test_the_deadline_of_a_call_covers_connecting_to_the_proxy(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    async with connect_proxy(1, answer=answer) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        begun = time.monotonic()
        async with client(world, timeout=0.2) as clerk:
            with pytest.raises(BackendUnavailableError) as failed:
                await clerk.machines.list()
            assert time.monotonic() - begun < 1.0
    assert failed.value.code == "backend_unavailable"
    assert len(proxy.heads) == 1


async def test_the_deadline_of_a_call_covers_reads_inside_the_tunnel(
    world: World, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with raw_upstream(drip, tls=served.files.server_context()) as upstream:
        async with connect_proxy(urlsplit(upstream.origin).port or 0) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
            async with client(world, timeout=0.3) as clerk:
                with pytest.raises(BackendUnavailableError):
                    await clerk.machines.list()
                await eventually(lambda: clerk._api.measure().out == 0, within=0.2)
        assert upstream.requests == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "ftp://mary:canary@proxy.test"),
        ("ALL_PROXY", "http://mary:canary@proxy.test:port"),
        ("NO_PROXY", "http://canary.test:port"),
    ],
)
def test_an_invalid_proxy_raises_at_construction(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name) as refused:
        client(world)
    assert "canary" not in repr(refused.value)
    assert refused.value.__cause__ is None


async def test_the_error_names_certificates_that_cannot_be_read(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    async with client(world) as clerk:
        with pytest.raises(BackendUnavailableError, match="SSL_CERT_FILE"):
            await clerk.machines.list()
