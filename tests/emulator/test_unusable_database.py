"""Requests while another process locks the database, or while its disk is full."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clerk_m2m.emulator import Emulator

USER = "user_" + "u" * 27

# Fills a disk that has room for a few more pages of the database, and prints the answers.
FULL_DISK = """
import asyncio, os, resource, sys
import httpx
from clerk_m2m.emulator import Emulator

async def main(database):
    emulator = Emulator(database=database)
    key = emulator.add_api_key("key", subject="user_" + "u" * 27)
    transport = httpx.ASGITransport(app=emulator)
    headers = {"Authorization": f"Bearer {emulator.secret_key}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://emulator.test/v1", headers=headers
    ) as api:
        async def show(method, path, body=None):
            answer = await api.request(method, path, json=body)
            code = answer.json()["errors"][0]["code"] if answer.is_error else ""
            print(path, answer.status_code, code)
            return answer

        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        written = os.path.getsize(database + "-wal")
        resource.setrlimit(resource.RLIMIT_FSIZE, (written + 20_000, hard))
        while (await api.post("/machines", json={"name": "m" * 255})).is_success:
            pass
        await show("POST", "/machines", {"name": "more"})
        await show("POST", "/api_keys/verify", {"secret": key.secret})
        await show("GET", "/machines")
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await show("POST", "/machines", {"name": "there is space again"})
        answer = await show("GET", f"/api_keys/{key.id}")
        print("last use kept:", answer.json()["last_used_at"] is not None)

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "emulator.db"


@pytest.fixture
def kept(database: Path) -> Iterator[Emulator]:
    """An emulator that keeps its state in the file."""
    emulator = Emulator(database=database)
    yield emulator
    emulator.close()


@pytest.fixture
def foreign(kept: Emulator, database: Path) -> Iterator[sqlite3.Connection]:
    """A second connection, as another process would have."""
    connection = sqlite3.connect(database, isolation_level=None)
    yield connection
    connection.close()


async def test_reads_and_verifications_continue_while_another_process_writes(
    kept: Emulator, foreign: sqlite3.Connection, client: Any
) -> None:
    api = client(kept.secret_key, kept)
    orders = kept.add_machine("orders")
    opaque = kept.mint_m2m_token(orders)
    signed = kept.mint_m2m_token(orders, token_format="jwt")
    key = kept.add_api_key("key", subject=USER)
    oauth = kept.add_oauth_token(subject=USER)
    foreign.execute("BEGIN EXCLUSIVE")
    writing = asyncio.create_task(api.post("/machines", json={"name": "billing"}))
    python_api = asyncio.create_task(asyncio.to_thread(kept.add_machine, "stock"))

    for path, body in (
        ("/m2m_tokens/verify", {"token": opaque.token}),
        ("/m2m_tokens/verify", {"token": signed.token}),
        ("/api_keys/verify", {"secret": key.secret}),
        ("/oauth_applications/access_tokens/verify", {"access_token": oauth.token}),
    ):
        assert (await api.post(path, json=body)).status_code == 200
    for path in ("/machines", f"/api_keys/{key.id}", "/jwks"):
        assert (await api.get(path)).status_code == 200
    assert not writing.done()
    assert not python_api.done()

    foreign.execute("ROLLBACK")
    assert (await writing).status_code == 200
    assert (await python_api).name == "stock"
    used = "SELECT count(*) FROM {} WHERE last_used_at IS NOT NULL"
    for table in ("m2m_tokens", "api_keys"):
        assert foreign.execute(used.format(table)).fetchone() == (1,)


async def test_a_write_blocked_by_another_process_is_503_in_clerks_error_format(
    kept: Emulator, foreign: sqlite3.Connection, client: Any
) -> None:
    api = client(kept.secret_key, kept)
    foreign.execute("BEGIN EXCLUSIVE")
    started_at = time.monotonic()
    answers = await asyncio.gather(
        api.post("/machines", json={"name": "billing"}),
        api.get("/jwks"),  # the first call makes the key
        api.post("http://emulator.test/_emulator/reset"),
    )
    waited = time.monotonic() - started_at
    foreign.execute("ROLLBACK")

    assert waited < 10
    for answer in answers:
        assert answer.status_code == 503
        [error] = answer.json()["errors"]
        assert error["code"] == "database_unavailable"
        assert "database is locked" in error["message"]
    assert (await api.get("/jwks")).status_code == 200


def test_on_a_full_disk_writes_are_503_and_verifications_succeed(database: Path) -> None:
    root = Path(sys.modules[Emulator.__module__].__file__ or "").parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(database)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    *answers, last_use = ran.stdout.splitlines()

    assert answers[:4] == [
        "/machines 503 database_unavailable",
        "/api_keys/verify 200 ",
        "/machines 200 ",
        "/machines 200 ",
    ]
    assert last_use == "last use kept: True"
