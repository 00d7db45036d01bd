"""The state in a file: it survives restarts and kills, and two processes can share it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from clerk_m2m.emulator import Emulator

USER = "user_" + "u" * 27

# Creates machines through the API and prints the id of each after its answer.
WRITER = """
import asyncio, sys
import httpx
from clerk_m2m.emulator import Emulator

async def main(database, name, count):
    emulator = Emulator(database=database)
    transport = httpx.ASGITransport(app=emulator)
    headers = {"Authorization": f"Bearer {emulator.secret_key}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://emulator.test/v1", headers=headers
    ) as api:
        for number in range(count):
            answer = await api.post("/machines", json={"name": f"{name} {number}"})
            answer.raise_for_status()
            print(answer.json()["id"], flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def start_writer(database: Path, name: str, count: int) -> subprocess.Popen[str]:
    root = Path(sys.modules[Emulator.__module__].__file__ or "").parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(database), name, str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )


def machines_in(database: Path) -> set[str]:
    with_check = sqlite3.connect(database)
    try:
        assert with_check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {row[0] for row in with_check.execute("SELECT id FROM machines")}
    finally:
        with_check.close()


async def test_a_database_file_of_an_older_version_gets_the_missing_columns(
    client: Any, tmp_path: Path
) -> None:
    database = tmp_path / "emulator.db"
    Emulator(database=database).close()
    with sqlite3.connect(database) as db:
        for column in ("audience", "actor"):
            db.execute(f"ALTER TABLE oauth_tokens DROP COLUMN {column}")
    db.close()

    for _ in range(2):  # the second time, there is nothing to add
        emulator = Emulator(database=database)
        token = emulator.add_oauth_token(subject=USER, audience="https://a.test")
        answer = await client(emulator.secret_key, emulator).post(
            "/oauth_applications/access_tokens/verify", json={"access_token": token.token}
        )
        assert answer.json()["aud"] == "https://a.test"
        emulator.close()


async def test_everything_survives_a_restart(client: Any, tmp_path: Path) -> None:
    database = tmp_path / "emulator.db"
    first = Emulator(database=database)
    billing = first.add_machine("billing")
    orders = first.add_machine("orders", may_call=[billing])
    opaque = first.mint_m2m_token(orders)
    signed = first.mint_m2m_token(orders, token_format="jwt")
    key = first.add_api_key("reporting", subject=USER)
    oauth = first.add_oauth_token(subject=USER)
    key_set = first.jwks()
    first.close()

    second = Emulator(database=database)
    assert (second.secret_key, second.instance_id) == (first.secret_key, first.instance_id)
    assert second.jwks() == key_set
    api = client(second.secret_key, second)
    for token in (opaque, signed):
        answer = await api.post("/m2m_tokens/verify", json={"token": token.token})
        assert answer.json()["subject"] == orders.id
    assert (await api.post("/api_keys/verify", json={"secret": key.secret})).status_code == 200
    path = "/oauth_applications/access_tokens/verify"
    assert (await api.post(path, json={"access_token": oauth.token})).status_code == 200
    second.close()


def test_a_secret_key_that_is_given_replaces_the_one_in_the_file(tmp_path: Path) -> None:
    database = tmp_path / "emulator.db"
    Emulator(database=database).close()
    Emulator(database=database, secret_key="sk_test_given").close()
    last = Emulator(database=database)
    assert last.secret_key == "sk_test_given"
    last.close()


def test_seeding_a_database_file_twice_changes_nothing(tmp_path: Path) -> None:
    database = tmp_path / "emulator.db"
    seed = {"machines": {"orders": {"may_call": ["orders"]}}}
    for _ in range(2):
        emulator = Emulator(database=database, seed=seed)
        emulator.close()
    assert len(machines_in(database)) == 1


def test_killing_a_writing_process_loses_no_answered_write(
    tmp_path: Path,
) -> None:
    database = tmp_path / "emulator.db"
    # Far more than a pipe holds: the writer cannot finish before it is killed.
    with start_writer(database, "machine", 4_000) as writer:
        assert writer.stdout is not None
        answered = [writer.stdout.readline().strip() for _ in range(300)]
        writer.send_signal(signal.SIGKILL)
        answered += [line.strip() for line in writer.stdout if line.endswith("\n")]
        assert writer.wait(10) == -signal.SIGKILL
    assert 300 <= len(answered) < 4_000
    assert set(answered) <= machines_in(database)


def test_two_processes_write_one_file_without_losing_a_write(tmp_path: Path) -> None:
    database = tmp_path / "emulator.db"
    writers = [start_writer(database, name, 80) for name in ("first", "second")]
    answered: set[str] = set()
    for writer in writers:
        output, _ = writer.communicate(timeout=60)
        assert writer.returncode == 0
        answered |= set(output.split())
    assert len(answered) == 160
    assert machines_in(database) == answered


def test_processes_that_open_a_new_file_at_once_share_one_instance(tmp_path: Path) -> None:
    database = tmp_path / "emulator.db"
    code = (
        "import json, sys; from clerk_m2m.emulator import Emulator\n"
        "emulator = Emulator(database=sys.argv[1])\n"
        "print(json.dumps([emulator.secret_key, emulator.instance_id, emulator.jwks()]))"
    )
    root = Path(sys.modules[Emulator.__module__].__file__ or "").parents[2]
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(database)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        for _ in range(3)
    ]
    outputs = [json.loads(opener.communicate(timeout=60)[0]) for opener in openers]
    assert outputs[0] == outputs[1] == outputs[2]


def test_threads_share_one_emulator(emulator: Emulator) -> None:
    orders = emulator.add_machine("orders")
    tokens: list[str] = []

    def mint() -> None:
        tokens.extend(emulator.mint_m2m_token(orders).token for _ in range(50))

    threads = [threading.Thread(target=mint) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(tokens)) == 200


async def test_a_refused_operation_changes_nothing(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    machines = [emulator.add_machine(f"machine {number}").id for number in range(2)]
    body = {"name": "orders", "scoped_machines": [*machines, "mch_unknown"]}
    assert (await api.post("/machines", json=body)).status_code == 422
    assert (await api.get("/machines")).json()["total_count"] == 2


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "emulator.db"
    file.write_text("this is no SQLite database, and it is long enough to look at" * 9)
    with pytest.raises(sqlite3.DatabaseError):
        Emulator(database=file)
