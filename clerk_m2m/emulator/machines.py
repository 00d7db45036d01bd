"""Machines, their secret keys and the edges between them, as rows and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clerk_m2m.emulator.ids import random_secret, random_word
from clerk_m2m.emulator.responses import Refusal, not_found
from clerk_m2m.emulator.store import count, select, select_one

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

MAX_EDGES = 150
DEFAULT_TOKEN_TTL = 3600
MAX_TOKEN_TTL = 315_360_000

_SCOPED_MACHINES = """
SELECT json_group_array(json_object(
    'object', 'machine', 'id', id, 'name', name, 'instance_id', ?, 'created_at', created_at,
    'updated_at', updated_at, 'default_token_ttl', default_token_ttl
)) FROM (
    SELECT * FROM machines WHERE seq IN (SELECT callee FROM edges WHERE caller = ?) ORDER BY seq
)
"""


@dataclass(frozen=True, slots=True)
class MachineRow:
    """One row: instants in milliseconds, the token lifetime in seconds."""

    seq: int
    id: str
    name: str
    default_token_ttl: int
    created_at: int
    updated_at: int

    def as_json(self, instance_id: str) -> dict[str, Any]:
        """The contract's `MachineWithoutScopedMachines`."""
        return {
            "object": "machine",
            "id": self.id,
            "name": self.name,
            "instance_id": instance_id,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "default_token_ttl": self.default_token_ttl,
        }


def find_machine(db: sqlite3.Connection, machine_id: str) -> MachineRow | None:
    """The machine with this id."""
    return select_one(db, MachineRow, "machines WHERE id = ?", machine_id)


def existing_machine(db: sqlite3.Connection, machine_id: str) -> MachineRow:
    """The machine with this id; 404 when there is none."""
    machine = find_machine(db, machine_id)
    if machine is None:
        raise not_found("Machine")
    return machine


def callee_ids(db: sqlite3.Connection, machine_id: str) -> list[str]:
    """The ids of the machines that this one may call, in order."""
    rows = db.execute(
        "SELECT callee.id FROM machines AS caller JOIN edges ON edges.caller = caller.seq"
        " JOIN machines AS callee ON callee.seq = edges.callee"
        " WHERE caller.id = ? ORDER BY callee.id",
        (machine_id,),
    )
    return [row[0] for row in rows]


def machine_json(db: sqlite3.Connection, machine: MachineRow, instance_id: str) -> str:
    """The contract's `Machine` as JSON text: with the machines that it may call.

    SQLite writes them as JSON: a page of machines with 150 edges each has thousands.
    """
    (scoped,) = db.execute(_SCOPED_MACHINES, (instance_id, machine.seq)).fetchone()
    own = json.dumps(machine.as_json(instance_id), separators=(",", ":"))
    return f'{own[:-1]},"scoped_machines":{scoped}}}'


def select_machines(
    db: sqlite3.Connection, *, query: str, order_by: str, limit: int, offset: int
) -> tuple[list[MachineRow], int]:
    """A page of machines and how many there are in all."""
    found = "machines WHERE id = ? OR instr(folded_name, ?) > 0" if query else "machines"
    given = (query, query.casefold()) if query else ()
    page = f"{found} ORDER BY {order_by} LIMIT {limit} OFFSET {offset}"
    return select(db, MachineRow, page, given), count(db, found, given)


def insert_machine(
    db: sqlite3.Connection,
    *,
    name: str,
    now: int,
    machine_id: str | None = None,
    default_token_ttl: int = DEFAULT_TOKEN_TTL,
    secret_key: str | None = None,
) -> MachineRow:
    """A new machine with a secret key of its own."""
    db.execute(
        "INSERT INTO machines (id, name, folded_name, default_token_ttl, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (machine_id or random_word("mch_"), name, name.casefold(), default_token_ttl, now, now),
    )
    (machine,) = select(db, MachineRow, "machines WHERE seq = last_insert_rowid()", ())
    db.execute(
        "INSERT INTO machine_secrets VALUES (?, ?, NULL)",
        (secret_key or random_secret("ak_"), machine.seq),
    )
    return machine


def change_machine(
    db: sqlite3.Connection, machine: MachineRow, *, name: str, default_token_ttl: int, now: int
) -> None:
    """Change the name or the token lifetime."""
    db.execute(
        "UPDATE machines SET name = ?, folded_name = ?, default_token_ttl = ?, updated_at = ?"
        " WHERE seq = ?",
        (name, name.casefold(), default_token_ttl, now, machine.seq),
    )


def remove_machine(db: sqlite3.Connection, machine: MachineRow) -> None:
    """Delete the machine and its API keys; a cascade deletes its secrets, tokens and edges."""
    db.execute("DELETE FROM api_keys WHERE subject = ?", (machine.id,))
    db.execute("DELETE FROM machines WHERE seq = ?", (machine.seq,))


def secret_key(db: sqlite3.Connection, machine: MachineRow) -> str:
    """The current secret key, not one in its grace period."""
    row = db.execute(
        "SELECT secret FROM machine_secrets WHERE machine = ? AND valid_until IS NULL",
        (machine.seq,),
    ).fetchone()
    return str(row[0])


def replace_secret_key(
    db: sqlite3.Connection, machine: MachineRow, *, secret: str | None, grace: int, now: int
) -> str:
    """A new secret key; the previous one works for `grace` seconds more."""
    db.execute(
        "DELETE FROM machine_secrets WHERE machine = ? AND valid_until <= ?", (machine.seq, now)
    )
    db.execute(
        "UPDATE machine_secrets SET valid_until = ? WHERE machine = ? AND valid_until IS NULL",
        (now + grace * 1000, machine.seq),
    )
    secret = secret or random_secret("ak_")
    db.execute("INSERT INTO machine_secrets VALUES (?, ?, NULL)", (secret, machine.seq))
    return secret


def machine_id_of_secret(db: sqlite3.Connection, secret: str, now: int) -> str | None:
    """The machine that this secret key belongs to, if it is current or in its grace period."""
    row = db.execute(
        "SELECT id FROM machine_secrets JOIN machines ON seq = machine"
        " WHERE secret = ? AND (valid_until IS NULL OR valid_until > ?)",
        (secret, now),
    ).fetchone()
    return str(row[0]) if row else None


def has_edge(db: sqlite3.Connection, caller: MachineRow, callee: MachineRow) -> bool:
    """Whether `caller` may call `callee`."""
    return count(db, "edges WHERE caller = ? AND callee = ?", (caller.seq, callee.seq)) > 0


def add_edges(
    db: sqlite3.Connection, caller: MachineRow, new_callees: Iterable[MachineRow], now: int
) -> None:
    """Add edges from `caller` to these machines; existing edges stay."""
    rows = [(caller.seq, callee.seq, now) for callee in new_callees]
    db.executemany("INSERT OR IGNORE INTO edges VALUES (?, ?, ?)", rows)
    refuse_too_many_edges(db, caller)


def refuse_too_many_edges(db: sqlite3.Connection, caller: MachineRow) -> None:
    """422 when the machine has more edges than the contract allows."""
    if count(db, "edges WHERE caller = ?", (caller.seq,)) > MAX_EDGES:
        message = f"A machine can have at most {MAX_EDGES} scopes"
        raise Refusal(422, "machine_scopes_limit_exceeded", message)


def remove_edge(db: sqlite3.Connection, caller: MachineRow, callee: MachineRow) -> bool:
    """Delete the edge; tokens already minted keep their scopes. False when there was none."""
    done = db.execute("DELETE FROM edges WHERE caller = ? AND callee = ?", (caller.seq, callee.seq))
    return done.rowcount > 0
